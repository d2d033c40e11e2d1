// How many rows lie within a radius of each row. Scores beyond the radius by more than their error decide at once; the few
// in between are decided by the distance that knn would return.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "neighbors/pairs.h"

namespace gramian {

template <class T>
struct CountProblem : Pairs<T> {
  const T* radius;      // [n]
  const T* inside;      // [n + 64, infinite past n] a score from there on is within the radius
  const T* not_beyond;  // [n + 64, infinite past n] a lower score is not
};

template <class T>
struct CountKernels {
  std::int64_t (*scratch)(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth);
  // Adds to count[r] for rows r in [i, i + x_rows), and in a symmetric sweep for the rows [j, j + y_rows) too.
  void (*block)(const CountProblem<T>& problem, std::int64_t i, std::int64_t x_rows, std::int64_t j,
                std::int64_t y_rows, void* scratch, std::int64_t* count);
};

GRAMIAN_DECLARE_KERNELS(CountKernels<float>, count_within_f32)
GRAMIAN_DECLARE_KERNELS(CountKernels<double>, count_within_f64)

}  // namespace gramian
