// A critic of all pairs, S[i, j] = w3 . relu(W2ᵀ relu(a_i + b_j) + b2), and its gradient, without the [n, m, h] activations.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

template <class T>
struct CriticProblem {
  const T *a, *b;    // [n, h], [m, h]: the first layer, split between x and y
  const T* w2;       // [h, h2]
  const T *b2, *w3;  // [h2]
  std::int64_t n, m, h, h2;
};

// Pairs of one row i go 32 at a time. A mask word holds one bit for each: is hidden unit u of the second layer at work?
constexpr std::int64_t kPairs = 32;
constexpr std::int64_t pair_blocks(std::int64_t m) { return (m + kPairs - 1) / kPairs; }

template <class T>
struct CriticKernels {
  // b and the weights as panels; all sizes here are in values of T.
  std::int64_t (*packed_size)(const CriticProblem<T>& p);
  void (*pack)(const CriticProblem<T>& p, T* packed);

  // Row i: scores [m], and unless mask is null its words [pair_blocks(m), h2].
  std::int64_t (*forward_scratch)(const CriticProblem<T>& p);
  void (*forward)(const CriticProblem<T>& p, const T* packed, std::int64_t i, T* scores, std::uint32_t* mask,
                  T* scratch);

  // Rows [begin, end): grad_a whole, the other gradients as a partial sum. A null mask is computed again.
  std::int64_t (*partial_size)(const CriticProblem<T>& p);
  std::int64_t (*backward_scratch)(const CriticProblem<T>& p);
  void (*backward)(const CriticProblem<T>& p, const T* packed, std::int64_t begin, std::int64_t end,
                   const std::uint32_t* mask, const T* grad, T* grad_a, T* partial, T* scratch);

  // Partial sums, added in their order: grad_b of a block of 32 rows; Σ_p h1_p Q_pᵀ [h, h2] and Σ_p Q_p [h2], where
  // Q_p = grad_p mask_p.
  void (*finish_b)(const CriticProblem<T>& p, const T* partials, std::int64_t count, std::int64_t block, T* grad_b);
  void (*finish_w)(const CriticProblem<T>& p, const T* partials, std::int64_t count, double* products, double* sums);
};

GRAMIAN_DECLARE_KERNELS(CriticKernels<float>, critic_f32)
GRAMIAN_DECLARE_KERNELS(CriticKernels<double>, critic_f64)

template <class T>
const CriticKernels<T>& critic_kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(critic_f32);
  else
    return GRAMIAN_KERNELS(critic_f64);
}

}  // namespace gramian
