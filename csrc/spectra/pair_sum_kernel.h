// Sums over all pairs of rows of a function of their distance or of their product: sum_j f(x_i, y_j) v_j. What kernel_sum and
// ndft share.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "core/rows.h"

namespace gramian {

// Functions of u = |x - y|², and wave, of the product: (cos, sin)(2 pi <x, y>). python/gramian/spectra/_sums.py counts alike.
enum class Profile : std::int64_t { gaussian, laplace, matern32, matern52, inverse_multiquadric, wave };

template <class T>
struct PairSum {
  Rows x, y;
  Profile profile;
  bool slope;                     // the function's derivative by u instead
  const T *x_norm, *y_norm;       // squared; null for wave; y's padded to whole chunks
  const T* values;                // [columns, padded rows of y]
  std::int64_t columns, outputs;  // outputs: 2 for wave, else 1
};

constexpr std::int64_t kSumChunk = 1056;  // rows of y between which sums are folded; whole tiles on every level

template <class T>
struct PairSumKernels {
  // Rows [first, first + rows) of y, `first` a multiple of kSumChunk, as the panels of their chunk.
  void (*pack)(const PairSum<T>& p, std::int64_t first, std::int64_t rows, T* packed);
  std::int64_t (*packed_size)(std::int64_t rows, std::int64_t depth);
  std::int64_t (*scratch)(const PairSum<T>& p, std::int64_t rows);  // in values of T
  // total[output, row, column] for rows [row, row + rows) of x and chunks [first, last) of y; `total` begins at `row` and
  // `total_stride` values lie between the outputs.
  void (*sum)(const PairSum<T>& p, const T* packed, std::int64_t row, std::int64_t rows, std::int64_t first,
              std::int64_t last, T* scratch, double* total, std::int64_t total_stride);
};

GRAMIAN_DECLARE_KERNELS(PairSumKernels<float>, pair_sum_f32)
GRAMIAN_DECLARE_KERNELS(PairSumKernels<double>, pair_sum_f64)

}  // namespace gramian
