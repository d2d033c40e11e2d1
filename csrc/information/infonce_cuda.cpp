// gramian::information_infonce on CUDA.
#include "information/infonce_cuda.h"

#include <tuple>

#include "core/cuda.h"
#include "information/infonce.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor> information_infonce_cuda(const Tensor& f, const Tensor& g, bool gradients) {
  InfonceCall call(f, g, gradients);
  const cuda::OnDevice device(f);
  Tensor value = allocate(call.f, {});
  const cuda::InfonceArguments arguments{rows_of(call.f, call.element), rows_of(call.g, call.element),
                                         value.mutable_data_ptr(), gradients ? call.grad_f.mutable_data_ptr() : nullptr,
                                         gradients ? call.grad_g.mutable_data_ptr() : nullptr};
  const Tensor memory = cuda::device_memory("infonce", call.f, cuda::infonce_bytes(arguments));
  cuda::infonce(arguments, memory.mutable_data_ptr(), device.stream);
  return {value, call.grad_f, call.grad_g};
}

}  // namespace

GRAMIAN_CUDA_OP(kInfonceSchema, "information_infonce", &information_infonce_cuda)

}  // namespace gramian
