// gramian::simplex_weight4 and its gradient on CUDA.
#include "simplex/weight4_cuda.h"

#include <tuple>

#include "core/cuda.h"
#include "simplex/weight4.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> simplex_weight4_cuda(const Tensor& lengths, const Tensor& labels, bool squared) {
  const Weight4Call call(lengths, labels, squared);
  const cuda::OnDevice device(lengths);
  cuda::weight4(call.problem, call.n, device.stream);
  return {call.action, call.log_volume};
}

std::tuple<Tensor, Tensor> simplex_weight4_backward_cuda(const Tensor& lengths, const Tensor& labels,
                                                         const Tensor& grad_action, const Tensor& grad_log_volume,
                                                         bool squared) {
  const Weight4BackwardCall call(lengths, labels, grad_action, grad_log_volume, squared);
  const cuda::OnDevice device(lengths);
  cuda::weight4_backward(call.problem, call.n, device.stream);
  return {call.grad_lengths, call.grad_labels};
}

}  // namespace

GRAMIAN_CUDA_OP(kWeight4Schema, "simplex_weight4", &simplex_weight4_cuda)
GRAMIAN_CUDA_OP(kWeight4BackwardSchema, "simplex_weight4_backward", &simplex_weight4_backward_cuda)

}  // namespace gramian
