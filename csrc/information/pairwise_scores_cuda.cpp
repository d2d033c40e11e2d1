// gramian::information_pairwise_scores and its gradient on CUDA.
#include "information/pairwise_scores_cuda.h"

#include <tuple>

#include "core/cuda.h"
#include "information/critic.h"

namespace gramian {
namespace {

template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

std::tuple<Tensor, Tensor> information_pairwise_scores_cuda(const Tensor& a, const Tensor& b, const Tensor& w2,
                                                            const Tensor& b2, const Tensor& w3, bool keep_mask) {
  CriticCall call(a, b, w2, b2, w3, keep_mask);
  const cuda::OnDevice device(a);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CriticProblem<T> problem = call.critic.problem<T>();
    const Tensor memory = cuda::device_memory("pairwise_scores", a, cuda::critic_bytes(problem));
    cuda::critic(problem, out<T>(call.scores), keep_mask ? out<std::uint32_t>(call.mask) : nullptr,
                 memory.mutable_data_ptr(), device.stream);
  };
  if (call.n > 0 && call.m > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.scores, call.mask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> information_pairwise_scores_backward_cuda(
    const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& w2, const Tensor& b2, const Tensor& w3,
    const Tensor& mask) {
  CriticBackwardCall call(grad, a, b, w2, b2, w3, mask);
  const cuda::OnDevice device(a);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const CriticProblem<T> problem = call.critic.problem<T>();
    const cuda::CriticGradients<T> gradients{static_cast<const T*>(call.grad.const_data_ptr()),
                                             call.words(),
                                             out<T>(call.grad_a),
                                             out<T>(call.grad_b),
                                             out<T>(call.grad_w2),
                                             out<T>(call.grad_b2),
                                             out<T>(call.grad_w3)};
    const Tensor memory =
        cuda::device_memory("pairwise_scores_backward", a, cuda::critic_backward_bytes(problem, gradients));
    cuda::critic_backward(problem, gradients, memory.mutable_data_ptr(), device.stream);
  };
  if (call.n > 0 && call.m > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.grad_a, call.grad_b, call.grad_w2, call.grad_b2, call.grad_w3};
}

}  // namespace

GRAMIAN_CUDA_OP(kPairwiseScoresSchema, "information_pairwise_scores", &information_pairwise_scores_cuda)
GRAMIAN_CUDA_OP(kPairwiseScoresBackwardSchema, "information_pairwise_scores_backward",
                &information_pairwise_scores_backward_cuda)

}  // namespace gramian
