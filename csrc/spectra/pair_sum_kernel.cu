// Sums over all pairs on the device: a block of threads owns the rows of a panel of x, turns one tile of products after the
// other into values of the function, and multiplies those with the rows of `values`. Few rows of x deal the panels of y out
// to several blocks; their sums are added in their order.
#include "spectra/pair_sum_cuda.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/weigh.cuh"

namespace gramian::cuda {
namespace {

constexpr int kColumns = 16;  // of `values` that are multiplied at once

template <class T>
struct SumProblem {
  Packed<T> x, y, values;
  const T *x_norm, *y_norm;  // squared; null for waves
  std::int64_t columns;      // of `values`
  std::int64_t parts;        // of the panels of y
  Profile profile;
  bool slope;
  double* totals;  // [parts, outputs, n, c]
};

// Squared norms of the rows, one warp each.
template <class T>
__global__ void __launch_bounds__(kThreads) norms_kernel(Rows x, T* norm) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (i >= x.rows) return;
  double total = 0;
  for (std::int64_t f = lane_index(); f < x.cols; f += 32) {
    const double value = convert<double>(x, row_offset(x, i) + feature_offset(x, f));
    total += value * value;
  }
  total = warp_sum(total);
  if (lane_index() == 0) norm[i] = static_cast<T>(total);
}

// The functions of pair_sum_kernel.cpp, of u = |x - y|^2.
template <class T, Profile kProfile, bool kSlope>
GRAMIAN_DEVICE T profile(T u) {
  if (u < 0) u = 0;  // a NaN is not below 0
  if constexpr (kProfile == Profile::gaussian) {
    const T value = static_cast<T>(exp(static_cast<T>(-0.5) * u));
    return kSlope ? static_cast<T>(-0.5) * value : value;
  } else if constexpr (kProfile == Profile::inverse_multiquadric) {
    const T base = 1 / (1 + u), value = static_cast<T>(sqrt(base));
    return kSlope ? static_cast<T>(-0.5) * value * base : value;
  } else {
    const T r = static_cast<T>(sqrt(u));
    if constexpr (kProfile == Profile::laplace) {
      const T value = static_cast<T>(exp(-r));
      return kSlope ? (u == 0 ? T{0} : static_cast<T>(-0.5) * value / r) : value;  // a cusp: no slope where rows meet
    } else if constexpr (kProfile == Profile::matern32) {
      const T scaled = static_cast<T>(1.73205080756887729353) * r, value = static_cast<T>(exp(-scaled));
      return kSlope ? static_cast<T>(-1.5) * value : (1 + scaled) * value;
    } else {
      const T scaled = static_cast<T>(2.23606797749978969641) * r, value = static_cast<T>(exp(-scaled));
      return kSlope ? static_cast<T>(-5.0 / 6) * (1 + scaled) * value
                    : (1 + scaled + static_cast<T>(5.0 / 3) * u) * value;
    }
  }
}

// visit(function) with the function of u that is asked for.
template <class T, class Visit>
GRAMIAN_DEVICE void with_profile(Profile of, bool slope, const Visit& visit) {
  switch (of) {
#define GRAMIAN_PROFILE(name)                                               \
  case Profile::name:                                                       \
    slope ? visit([](T u) { return profile<T, Profile::name, true>(u); })   \
          : visit([](T u) { return profile<T, Profile::name, false>(u); }); \
    break;
    GRAMIAN_PROFILE(gaussian)
    GRAMIAN_PROFILE(laplace)
    GRAMIAN_PROFILE(matern32)
    GRAMIAN_PROFILE(matern52)
    GRAMIAN_PROFILE(inverse_multiquadric)
#undef GRAMIAN_PROFILE
    default: break;
  }
}

template <class T>
constexpr std::size_t kSumBytes = (kRingValues<T> + kFactorValues<kColumns>)*sizeof(T);

// Blocks of threads by panel of x and part. A thread owns one row of the tile and kOwned columns of `values` at a time.
template <class Tile, bool kWave, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) pair_sum_kernel(SumProblem<T> p) {
  using Sums = Weighted<T, kColumns>;
  constexpr int kOutputs = kWave ? 2 : 1, kOwned = Sums::kOwned;
  T* const memory = shared_memory<T>();
  T* const factors = memory + kRingValues<T>;
  const std::int64_t i = blockIdx.x / p.parts, part = blockIdx.x % p.parts, panels = p.y.panels();
  const std::int64_t n = p.x.rows, m = p.y.rows, c = p.columns, row = i * kTile<T> + Sums::row();
  const bool few = c <= kColumns;
  double kept[kOutputs][kOwned] = {};
  for (std::int64_t j = part * panels / p.parts; j < (part + 1) * panels / p.parts; ++j) {
    const std::int64_t first_col = j * kTile<T>;
    const int cols = static_cast<int>(m - first_col < kTile<T> ? m - first_col : kTile<T>);
    Tile tile;
    multiply_tile(p.x, i, p.y, j, memory, tile);
    GRAMIAN_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) {
      const std::int64_t at_row = i * kTile<T> + tile.row(r);
      const T norm = !kWave && at_row < n ? p.x_norm[at_row] : T{0};
      GRAMIAN_UNROLL
      for (int l = 0; l < Tile::kCols; ++l) {
        T* const to = memory + tile.row(r) * kStageStride<T> + tile.col(l);
        const T product = tile.v[r][l];
        if constexpr (kWave) {
          // (cos, sin)(2 pi product): whole turns are left out by an exact subtraction.
          T sin, cos;
          sincospi_of(2 * (product - static_cast<T>(rint(product))), &sin, &cos);
          *to = cos;
          tile.v[r][l] = sin;
        } else {
          *to = tile.col(l) < cols ? norm + p.y_norm[first_col + tile.col(l)] - 2 * product : T{0};
        }
      }
    }
    if constexpr (!kWave)
      with_profile<T>(p.profile, p.slope, [&](const auto& function) {
        change_staged(tile, memory, [&](int, int, T& value) { value = function(value); });
      });
    GRAMIAN_UNROLL
    for (int output = 0; output < kOutputs; ++output) {
      if (output == 1) stage_tile(tile, memory);
      for (std::int64_t first = 0; first < c; first += kColumns) {
        Sums sums;
        sums.clear();
        sums.add(memory, p.values.panel(j), cols, p.values.depth, first, factors);
        GRAMIAN_UNROLL
        for (int o = 0; o < kOwned; ++o) {
          const std::int64_t column = first + Sums::first_owned() + o;
          if (few)
            kept[output][o] += static_cast<double>(sums.sum[o]);
          else if (row < n && column < c)
            p.totals[((part * kOutputs + output) * n + row) * c + column] += static_cast<double>(sums.sum[o]);
        }
      }
    }
  }
  if (!few || row >= n) return;
  GRAMIAN_UNROLL
  for (int output = 0; output < kOutputs; ++output) GRAMIAN_UNROLL
  for (int o = 0; o < kOwned; ++o) {
    const std::int64_t column = Sums::first_owned() + o;
    if (column < c) p.totals[((part * kOutputs + output) * n + row) * c + column] = kept[output][o];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_parts_kernel(const double* totals, std::int64_t parts, std::int64_t size, T* out) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= size) return;
  double total = 0;
  for (std::int64_t part = 0; part < parts; ++part) total += totals[part * size + at];
  out[at] = static_cast<T>(total);
}

template <class T>
class Sum {
 public:
  Sum(const PairSumArguments& a, void* memory, Stream stream) : a_(a), walk_(memory, stream) {}

  std::int64_t run(T* out) {
    const std::int64_t outputs = a_.profile == Profile::wave ? 2 : 1, size = outputs * a_.x.rows * a_.values.cols;
    SumProblem<T> p{};
    p.x = pack<T>(walk_, a_.x);
    p.y = pack<T>(walk_, a_.y);
    p.values = pack<T>(walk_, a_.values);
    p.columns = a_.values.cols;
    if (outputs == 1) p.x_norm = norms(a_.x), p.y_norm = norms(a_.y);
    p.parts = std::clamp<std::int64_t>(2 * multiprocessors() / p.x.panels(), 1, p.y.panels());
    p.totals = walk_.template take<double>(p.parts * size);
    if (a_.values.cols > kColumns && !walk_.counting())
      set_zero(p.totals, static_cast<std::size_t>(p.parts * size) * sizeof(double), walk_.stream());
    p.profile = a_.profile, p.slope = a_.slope;
    using Tile = std::conditional_t<sizeof(T) == 8, DmmaTile, FmaTile>;
    walk_.launch(outputs == 2 ? pair_sum_kernel<Tile, true> : pair_sum_kernel<Tile, false>,
                 grid_of_blocks(p.x.panels() * p.parts), kSumBytes<T>, p);
    walk_.launch(join_parts_kernel<T>, grid_of_threads(size), 0, p.totals, p.parts, size, out);
    return walk_.bytes();
  }

 private:
  const T* norms(const Rows& rows) {
    T* const norm = walk_.template take<T>(rows.rows);
    walk_.launch(norms_kernel<T>, grid_of_blocks((rows.rows + kWarps - 1) / kWarps), 0, rows, norm);
    return norm;
  }

  PairSumArguments a_;
  Walk walk_;
};

}  // namespace

std::int64_t pair_sum_bytes(const PairSumArguments& arguments) {
  return arguments.x.element == Element::f64 ? Sum<double>(arguments, nullptr, nullptr).run(nullptr)
                                             : Sum<float>(arguments, nullptr, nullptr).run(nullptr);
}

void pair_sum(const PairSumArguments& arguments, void* memory, void* out, Stream stream) {
  if (arguments.x.element == Element::f64)
    Sum<double>(arguments, memory, stream).run(static_cast<double*>(out));
  else
    Sum<float>(arguments, memory, stream).run(static_cast<float*>(out));
}

}  // namespace gramian::cuda
