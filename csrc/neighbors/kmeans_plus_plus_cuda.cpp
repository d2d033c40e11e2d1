// gramian::neighbors_kmeans_plus_plus on CUDA.
#include "neighbors/kmeans_plus_plus_cuda.h"

#include "neighbors/clusters_cuda.h"
#include "neighbors/kmeans_plus_plus.h"

namespace gramian {
namespace {

Tensor neighbors_kmeans_plus_plus_cuda(const Tensor& x, const Tensor& uniforms,
                                       const std::optional<Tensor>& weights_given) {
  constexpr const char* kOp = "kmeans_plus_plus";
  const KmeansPlusPlusCall call(x, uniforms);
  const cuda::OnDevice device(x);
  const Tensor numbers = torch::stable::contiguous(uniforms);
  call.check_numbers(cuda::host_values<double>(numbers, device.stream).data());
  const cuda::DeviceWeights weights(kOp, x, weights_given, device.stream);
  Tensor indices = allocate(x, {call.k}, ScalarType::Long);
  const cuda::DrawArguments arguments{rows_of(x, call.element), weights.data(),
                                      static_cast<const double*>(numbers.const_data_ptr()), call.k, call.trials};
  const Tensor memory = cuda::device_memory(kOp, x, cuda::kmeans_plus_plus_bytes(arguments));
  cuda::kmeans_plus_plus(arguments, memory.mutable_data_ptr(), static_cast<std::int64_t*>(indices.mutable_data_ptr()),
                         device.stream);
  return indices;
}

}  // namespace

GRAMIAN_CUDA_OP(kKmeansPlusPlusSchema, "neighbors_kmeans_plus_plus", &neighbors_kmeans_plus_plus_cuda)

}  // namespace gramian
