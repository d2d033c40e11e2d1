// What a sweep over pairs does per block, and the distance that decides where its scores cannot. Per-level code (see
// lanes.h).
#pragma once
#include "core/bf16.h"
#include "core/sweep.h"
#include "neighbors/pairs.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// ---- The exact distance, in float64 from the rows as given, rounded once to the result's type ----

// Lower is nearer: squared distance (in units of 1 / unit^2), cosine distance, minus the inner product, or the largest
// difference. Always float64: beside one huge row, the squares of all others vanish in float32.
template <class T>
double exact_key(const Pairs<T>& p, std::int64_t i, std::int64_t j) {
  constexpr int kN = kLanes<T>;
  const bool product = p.metric == Metric::ip, cosine = p.metric == Metric::cosine;
  const bool largest = p.metric == Metric::chebyshev;
  const double x_size = cosine ? p.x.size[i] : p.unit, y_size = cosine ? p.y.size[j] : p.unit;
  if (cosine && (x_size == 0 || y_size == 0)) return 1;  // a zero row is similar to nothing
  const Rows x_rows = p.x.rows, y_rows = p.y.rows;
  double lane[kN] = {};
  const auto add = [&](std::int64_t k, int features) __attribute__((always_inline)) {
    T x[kN], y[kN];
    store(x, load_features<T>(x_rows, i, k, features));
    store(y, load_features<T>(y_rows, j, k, features));
    if (largest) {
      for (int l = 0; l < kN; ++l) {
        const double apart = __builtin_fabs(static_cast<double>(x[l]) - static_cast<double>(y[l]));
        lane[l] = apart > lane[l] ? apart : lane[l];
      }
    } else {
      double a[kN], b[kN];
      for (int l = 0; l < kN; ++l) {
        a[l] = x[l] * x_size;
        b[l] = y[l] * y_size;
      }
      if (cosine) asm("" : "+m"(a));  // a fused a - b would not be zero for equal rows
      for (int l = 0; l < kN; ++l) lane[l] += product ? a[l] * b[l] : (a[l] - b[l]) * (a[l] - b[l]);
    }
  };
  std::int64_t k = 0;
  for (; k + kN <= x_rows.cols; k += kN) add(k, kN);
  if (k < x_rows.cols) add(k, static_cast<int>(x_rows.cols - k));
  double total = 0;
  for (int l = 0; l < kN; ++l) total = largest ? (lane[l] > total ? lane[l] : total) : total + lane[l];
  // Unit rows: 1 - cos = |x - y|^2 / 2, and the difference form does not cancel.
  return product ? -total : cosine ? total / 2 : total;
}

// What is returned, the inner product with its sign turned, and so what ties are about: lower is nearer.
template <class T>
GRAMIAN_INLINE T distance_of_key(const Pairs<T>& p, double key) {
  switch (p.metric) {
    case Metric::euclidean: return static_cast<T>(__builtin_sqrt(key) / p.unit);
    case Metric::cosine:
    case Metric::chebyshev: return static_cast<T>(key);
    default: return static_cast<T>(key / p.unit / p.unit);  // twice: the square of the unit may vanish
  }
}

// ---- Chebyshev: a tile of minus the largest differences, from the same panels ----

template <class T>
struct Apart {
  T value;
};

template <class T>
GRAMIAN_INLINE void multiply_tile(const Apart<T>* row_panel, const Apart<T>* col_panel, std::int64_t depth,
                                  bool accumulate, T* tile) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const T *rows = &row_panel->value, *cols = &col_panel->value;
  Vec<T> left[kRows] = {}, right[kRows] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      left[r] = load(tile + r * kCols);
      right[r] = load(tile + r * kCols + kN);
    }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec<T> col_left = load(cols), col_right = load(cols + kN);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = broadcast(rows[r]);
      left[r] = lower(left[r], nonpositive(row - col_left));
      right[r] = lower(right[r], nonpositive(row - col_right));
    }
    rows += kRows;
    cols += kCols;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(tile + r * kCols, left[r]);
    store(tile + r * kCols + kN, right[r]);
  }
}

// ---- The sweep ----

// Bit l: may column t.col + l pair with row i?
template <class T>
GRAMIAN_INLINE std::uint32_t allowed(const Pairs<T>& p, const Tile<T>& t, std::int64_t i) {
  const std::uint32_t inside = t.cols == 32 ? ~0U : (1U << t.cols) - 1;
  const std::int64_t diagonal = i - t.col;  // the bit of column i
  if (p.sweep == Sweep::symmetric && diagonal >= 0) return diagonal >= 31 ? 0 : inside & (~0U << (diagonal + 1));
  if (p.sweep == Sweep::causal && diagonal < 32) return diagonal <= 0 ? 0 : inside & ((1U << diagonal) - 1);
  return inside;
}

GRAMIAN_INLINE Region region_of(Sweep sweep) {
  return sweep == Sweep::symmetric ? Region::upper : sweep == Sweep::causal ? Region::lower : Region::full;
}

template <class T>
std::int64_t pairs_scratch(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth) {
  return static_cast<std::int64_t>(sizeof(T)) *
         (packed_size<T, kTileRows<T>>(x_rows, depth) + packed_size<T, kTileCols<T>>(y_rows, depth) +
          partial_size<T>(x_rows, y_rows, depth));
}

// Rows [i, i + x_rows) of x against rows [j, j + y_rows) of y; the epilogue gets x.y, or minus the Chebyshev distance.
template <class T, class Epilogue>
GRAMIAN_INLINE void sweep_pairs(const Pairs<T>& p, std::int64_t i, std::int64_t x_rows, std::int64_t j,
                                std::int64_t y_rows, void* memory, Epilogue&& epilogue) {
  const std::int64_t depth = p.x.rows.cols;
  T* x_packed = static_cast<T*>(memory);
  T* y_packed = x_packed + packed_size<T, kTileRows<T>>(x_rows, depth);
  T* partial = y_packed + packed_size<T, kTileCols<T>>(y_rows, depth);
  pack_block<T, kTileRows<T>>(p.x.rows, i, x_rows, {p.shift, p.x.scale}, x_packed);
  pack_block<T, kTileCols<T>>(p.y.rows, j, y_rows, {p.shift, p.y.scale}, y_packed);
  const Region region = region_of(p.sweep);
  if (p.metric == Metric::chebyshev)
    sweep_block(Block<Apart<T>>{reinterpret_cast<Apart<T>*>(x_packed), i, x_rows},
                Block<Apart<T>>{reinterpret_cast<Apart<T>*>(y_packed), j, y_rows}, depth, region, partial, epilogue);
  else
    sweep_block(Block<T>{x_packed, i, x_rows}, Block<T>{y_packed, j, y_rows}, depth, region, partial, epilogue);
}

#if defined(__AVX512F__)
// The same with the product in bfloat16.
template <class Epilogue>
GRAMIAN_INLINE void sweep_pairs_bf16(const Pairs<float>& p, std::int64_t i, std::int64_t x_rows, std::int64_t j,
                                     std::int64_t y_rows, void* memory, Epilogue&& epilogue) {
  // Half the depth leaves room in the scratch for the unrounded panel too.
  constexpr int kRows = kTileRows<float>, kCols = kTileCols<float>;
  const std::int64_t depth = (p.x.rows.cols + 1) / 2;
  Bf16Pair* x_packed = static_cast<Bf16Pair*>(memory);
  Bf16Pair* y_packed = x_packed + packed_size<float, kRows>(x_rows, depth);
  float* partial = reinterpret_cast<float*>(y_packed + packed_size<float, kCols>(y_rows, depth));
  alignas(64) float unrounded[kSlab<float> * kCols];
  pack_block_bf16<kRows>(p.x.rows, i, x_rows, {p.shift, p.x.scale}, unrounded, x_packed);
  pack_block_bf16<kCols>(p.y.rows, j, y_rows, {p.shift, p.y.scale}, unrounded, y_packed);
  sweep_block(Block<Bf16Pair>{x_packed, i, x_rows}, Block<Bf16Pair>{y_packed, j, y_rows}, depth, region_of(p.sweep),
              partial, epilogue);
}
#endif

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
