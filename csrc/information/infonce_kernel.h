// InfoNCE of a separable critic: log Σ_j exp(f_i . g_j) over rows, and the softmax-weighted means that its gradient is made
// of, from a band of rows of the scores at a time.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

template <class T>
struct InfonceProblem {
  const T *f, *g;  // [n, d], contiguous
  std::int64_t n, d;
};

constexpr std::int64_t kBandRows = 96;  // a multiple of both sides of every level's tile

template <class T>
struct InfonceKernels {
  // g as panels; sizes are in values of T.
  std::int64_t (*packed_size)(const InfonceProblem<T>& p, bool gradients);
  void (*pack)(const InfonceProblem<T>& p, bool gradients, T* packed);
  std::int64_t (*scratch)(const InfonceProblem<T>& p, bool gradients);
  // Rows [begin, begin + kBandRows), as far as they are there: log_sums [n]; unless it is null, expected_g = P g [n, d], and
  // Pᵀ f added to the partial sum, which must start at zero.
  void (*band)(const InfonceProblem<T>& p, const T* packed, std::int64_t begin, T* log_sums, T* expected_g, T* partial,
               T* scratch);
  std::int64_t (*partial_size)(const InfonceProblem<T>& p);
  // Row j of the sum of the partial sums, in their order.
  void (*finish)(const InfonceProblem<T>& p, const T* partials, std::int64_t count, std::int64_t j, T* expected_f);
};

GRAMIAN_DECLARE_KERNELS(InfonceKernels<float>, infonce_f32)
GRAMIAN_DECLARE_KERNELS(InfonceKernels<double>, infonce_f64)

}  // namespace gramian
