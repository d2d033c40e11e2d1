// The CUDA kernels of the critic of all pairs and its gradient.
#pragma once
#include "core/device.h"
#include "information/pairwise_scores_kernel.h"

namespace gramian::cuda {

template <class T>
struct CriticGradients {
  const T* grad;              // [n, m]
  const std::uint32_t* mask;  // null: it is computed again, some rows at a time
  T *a, *b, *w2, *b2, *w3;
};

// Bytes of device memory that the kernels work in.
template <class T>
std::int64_t critic_bytes(const CriticProblem<T>& problem);
template <class T>
std::int64_t critic_backward_bytes(const CriticProblem<T>& problem, const CriticGradients<T>& gradients);

template <class T>
void critic(const CriticProblem<T>& problem, T* scores, std::uint32_t* mask, void* memory, Stream stream);
template <class T>
void critic_backward(const CriticProblem<T>& problem, const CriticGradients<T>& gradients, void* memory, Stream stream);

}  // namespace gramian::cuda
