// gramian::ntk_linear_gram on CUDA.
#include "ntk/linear_gram_cuda.h"

#include "core/cuda.h"
#include "ntk/linear_gram.h"

namespace gramian {
namespace {

Tensor ntk_linear_gram_cuda(const Tensor& a1, const Tensor& g1, const std::optional<Tensor>& a2,
                            const std::optional<Tensor>& g2, bool bias, bool trace, bool materialise) {
  const LinearGramCall call(a1, g1, a2, g2, bias, trace, materialise);
  const cuda::OnDevice device(a1);
  Tensor out = allocate(a1, call.shape, compute_dtype(call.element));
  if (out.numel() == 0) return out;
  const bool wide = call.element == Element::f64;
  const Tensor memory =
      cuda::device_memory("linear_gram", a1, cuda::layers_gram_bytes({call.layer(0)}, call.matrix(out, 0), wide));
  for (std::int64_t batch = 0; batch < call.batches; ++batch)
    cuda::layers_gram({call.layer(batch)}, call.matrix(out, batch), wide, memory.mutable_data_ptr(), device.stream);
  return out;
}

}  // namespace

GRAMIAN_CUDA_OP(kLinearGramSchema, "ntk_linear_gram", &ntk_linear_gram_cuda)

}  // namespace gramian
