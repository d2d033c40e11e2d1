// gramian::ntk_layers_gram_ on CUDA.
#include "core/cuda.h"
#include "ntk/layers_gram_.h"
#include "ntk/linear_gram_cuda.h"

namespace gramian {
namespace {

void ntk_layers_gram_cuda(Tensor out, const std::vector<Tensor>& a1, const std::vector<Tensor>& g1,
                          const std::vector<Tensor>& a2, const std::vector<Tensor>& g2,
                          const std::vector<std::int64_t>& bias, const std::vector<std::int64_t>& route, bool trace,
                          bool accumulate, std::int64_t row, std::int64_t col, bool mirror) {
  for (const Tensor& a : a1)
    if (a.dim() != 3) refuse("layers_gram_: a1 must be [n, t, d_in] on CUDA, got shape ", shape_text(a));
  const LayersGramCall call(out, a1, g1, a2, g2, bias, route, trace, accumulate, row, col, mirror);
  if (call.matrix.rows == 0 || call.matrix.cols == 0) return;
  const cuda::OnDevice device(out);
  const bool wide = out.scalar_type() == ScalarType::Double;
  const Tensor memory =
      cuda::device_memory("layers_gram_", out, cuda::layers_gram_bytes(call.layers, call.matrix, wide));
  cuda::layers_gram(call.layers, call.matrix, wide, memory.mutable_data_ptr(), device.stream);
}

}  // namespace

GRAMIAN_CUDA_OP(kLayersGramSchema, "ntk_layers_gram_", &ntk_layers_gram_cuda)

}  // namespace gramian
