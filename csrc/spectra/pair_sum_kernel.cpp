// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/pair_sum_kernel.h"

#include "core/sweep.h"
#include "core/vmath.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kFold = 4;  // chunks summed in lanes of T before they go to float64

// (cos, sin)(2 pi s), s in turns: the phase is reduced before it is multiplied, by an exact subtraction.
template <class T>
GRAMIAN_INLINE SinCos<T> of_turns(Vec<T> s) {
  using F = FloatFormat<T>;
  // Beyond 2^22 (2^51) turns the magic number no longer rounds; such phases have no digits after the point left.
  const Vec<T> whole = (s + F::kMagic) - F::kMagic;
  return sincos<T>((s - whole) * static_cast<T>(6.28318530717958647692));
}

template <class T, Profile kProfile, bool kSlope>
GRAMIAN_INLINE Vec<T> profile(Vec<T> u) {
  if constexpr (kProfile == Profile::gaussian) {
    const Vec<T> value = exp<T>(static_cast<T>(-0.5) * u);
    return kSlope ? static_cast<T>(-0.5) * value : value;
  } else if constexpr (kProfile == Profile::inverse_multiquadric) {
    const Vec<T> base = 1 / (1 + u), value = root(base);
    return kSlope ? static_cast<T>(-0.5) * value * base : value;
  } else {
    const Vec<T> r = root(u);
    if constexpr (kProfile == Profile::laplace) {
      const Vec<T> value = exp<T>(-r);
      return kSlope ? (u == 0 ? Vec<T>{} : static_cast<T>(-0.5) * value / r)
                    : value;  // a cusp: no slope where rows meet
    } else if constexpr (kProfile == Profile::matern32) {
      const Vec<T> scaled = static_cast<T>(1.73205080756887729353) * r, value = exp<T>(-scaled);
      return kSlope ? static_cast<T>(-1.5) * value : (1 + scaled) * value;
    } else {
      const Vec<T> scaled = static_cast<T>(2.23606797749978969641) * r, value = exp<T>(-scaled);
      return kSlope ? static_cast<T>(-5.0 / 6) * (1 + scaled) * value
                    : (1 + scaled + static_cast<T>(5.0 / 3) * u) * value;
    }
  }
}

template <class T>
void pack(const PairSum<T>& p, std::int64_t first, std::int64_t rows, T* packed) {
  pack_block<T, kTileCols<T>>(p.y, first, rows, {}, packed);
}

template <class T>
std::int64_t packed_y(std::int64_t rows, std::int64_t depth) {
  return packed_size<T, kTileCols<T>>(rows, depth);
}

template <class T>
struct Scratch {
  T *rows, *partial, *sums, *end;
};

template <class T>
GRAMIAN_INLINE Scratch<T> scratch_of(const PairSum<T>& p, std::int64_t rows, T* scratch) {
  Scratch<T> at;
  at.rows = scratch;
  at.partial = at.rows + round_up(packed_size<T, kTileRows<T>>(rows, p.x.cols), 64);
  at.sums = at.partial + round_up(partial_size<T>(rows, kSumChunk, p.x.cols), 64);
  at.end = at.sums + p.outputs * round_up(rows, kTileRows<T>) * p.columns * kLanes<T>;
  return at;
}

template <class T>
std::int64_t scratch(const PairSum<T>& p, std::int64_t rows) {
  return scratch_of<T>(p, rows, nullptr).end - static_cast<T*>(nullptr);
}

template <class T, Profile kProfile, bool kSlope>
void sum_as(const PairSum<T>& p, const T* packed, std::int64_t row, std::int64_t rows, std::int64_t first,
            std::int64_t last, T* memory, double* total, std::int64_t total_stride) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>,
                kOutputs = kProfile == Profile::wave ? 2 : 1;
  const Scratch<T> at = scratch_of(p, rows, memory);
  const std::int64_t padded = round_up(p.y.rows, kSumChunk), columns = p.columns, row_sums = columns * kN;
  const std::int64_t output_sums = round_up(rows, kRows) * row_sums;
  const auto clear = [&] {
    __builtin_memset(at.sums, 0, static_cast<std::size_t>(kOutputs * output_sums) * sizeof(T));
  };
  pack_block<T, kRows>(p.x, row, rows, {}, at.rows);
  clear();
  for (std::int64_t chunk = first; chunk < last; ++chunk) {
    const std::int64_t begin = chunk * kSumChunk, left = p.y.rows - begin;
    const Block<T> x{at.rows, row, rows}, y{packed + begin * p.y.cols, begin, left < kSumChunk ? left : kSumChunk};
    sweep_block(x, y, p.x.cols, Region::full, at.partial, [&](const Tile<T>& tile) {
      Vec<T> f[kOutputs][kRows][2];
#pragma GCC unroll 1
      for (int r = 0; r < kRows; ++r)
        for (int side = 0; side < 2; ++side) {
          const Vec<T> product = load(tile.values + r * kCols + side * kN);
          if constexpr (kProfile == Profile::wave) {
            const SinCos<T> wave = of_turns<T>(product);
            f[0][r][side] = wave.cos;
            f[1][r][side] = wave.sin;
          } else {
            const T norm = r < tile.rows ? p.x_norm[tile.row + r] : 0;
            const Vec<T> u = norm + load(p.y_norm + tile.col + side * kN) - 2 * product;
            f[0][r][side] = profile<T, kProfile, kSlope>(u < 0 ? Vec<T>{} : u);  // a NaN is not below 0
          }
        }
      T* const sums = at.sums + (tile.row - row) * row_sums;
      for (std::int64_t c = 0; c < columns; ++c) {
        const T* const v = p.values + c * padded + tile.col;
        const Vec<T> left_v = load(v), right_v = load(v + kN);
        for (int output = 0; output < kOutputs; ++output)
#pragma GCC unroll 12
          for (int r = 0; r < kRows; ++r) {
            T* const to = sums + output * output_sums + r * row_sums + c * kN;
            store(to, load(to) + (f[output][r][0] * left_v + f[output][r][1] * right_v));
          }
      }
    });
    if (chunk + 1 < last && (chunk + 1 - first) % kFold != 0) continue;
    for (int output = 0; output < kOutputs; ++output)
      for (std::int64_t i = 0; i < rows * columns; ++i)
        total[output * total_stride + i] +=
            static_cast<double>(gramian::GRAMIAN_ISA::sum<T>(load(at.sums + output * output_sums + i * kN)));
    clear();
  }
}

template <class T, Profile kProfile>
void sum_of(const PairSum<T>& p, const T* packed, std::int64_t row, std::int64_t rows, std::int64_t first,
            std::int64_t last, T* scratch, double* total, std::int64_t stride) {
  if constexpr (kProfile != Profile::wave)
    if (p.slope) return sum_as<T, kProfile, true>(p, packed, row, rows, first, last, scratch, total, stride);
  sum_as<T, kProfile, false>(p, packed, row, rows, first, last, scratch, total, stride);
}

template <class T>
void pair_sum(const PairSum<T>& p, const T* packed, std::int64_t row, std::int64_t rows, std::int64_t first,
              std::int64_t last, T* scratch, double* total, std::int64_t stride) {
  const auto run = [&](auto sum) { sum(p, packed, row, rows, first, last, scratch, total, stride); };
  switch (p.profile) {
    case Profile::gaussian: return run(sum_of<T, Profile::gaussian>);
    case Profile::laplace: return run(sum_of<T, Profile::laplace>);
    case Profile::matern32: return run(sum_of<T, Profile::matern32>);
    case Profile::matern52: return run(sum_of<T, Profile::matern52>);
    case Profile::inverse_multiquadric: return run(sum_of<T, Profile::inverse_multiquadric>);
    case Profile::wave: return run(sum_of<T, Profile::wave>);
  }
}

}  // namespace

extern const PairSumKernels<float> pair_sum_f32{pack<float>, packed_y<float>, scratch<float>, pair_sum<float>};
extern const PairSumKernels<double> pair_sum_f64{pack<double>, packed_y<double>, scratch<double>, pair_sum<double>};

}  // namespace gramian::GRAMIAN_ISA
