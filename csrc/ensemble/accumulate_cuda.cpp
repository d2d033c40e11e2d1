// gramian::ensemble_accumulate_ on CUDA.
#include "ensemble/accumulate_cuda.h"

#include "core/cuda.h"
#include "ensemble/accumulate.h"

namespace gramian {
namespace {

void ensemble_accumulate_cuda(const Tensor& predictions, const std::optional<Tensor>& target, Tensor sums,
                              std::optional<Tensor> squares) {
  AccumulateCall call(predictions, target, sums, squares);
  if (call.empty()) return;
  const cuda::OnDevice device(predictions);
  const auto run = [&](auto zero) { cuda::accumulate(call.problem<decltype(zero)>(), call.n, device.stream); };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
}

}  // namespace

GRAMIAN_CUDA_OP(kAccumulateSchema, "ensemble_accumulate_", &ensemble_accumulate_cuda)

}  // namespace gramian
