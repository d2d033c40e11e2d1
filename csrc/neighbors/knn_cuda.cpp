// gramian::neighbors_knn on CUDA.
#include "neighbors/knn_cuda.h"

#include <tuple>

#include "core/cuda.h"
#include "neighbors/knn.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> neighbors_knn_cuda(const Tensor& x, std::int64_t k, const std::optional<Tensor>& y_given,
                                              const std::string& metric_name, bool exclude_self, bool causal) {
  const KnnCall call(x, k, y_given, metric_name, exclude_self, causal);
  const cuda::OnDevice device(x);
  const Tensor& y = call.self ? x : *y_given;
  Tensor distances = allocate(x, call.shape, compute_dtype(call.element));
  Tensor indices = allocate(x, call.shape, ScalarType::Long);
  if (call.n == 0 || call.batches == 0) return {distances, indices};
  const auto search = [&](std::int64_t batch) {
    return cuda::KnnArguments{"knn",
                              "x",
                              call.self ? "x" : "y",
                              rows_of(x, call.element, batch),
                              rows_of(y, call.element, batch),
                              call.metric,
                              call.self,
                              exclude_self,
                              causal,
                              k};
  };
  const Tensor memory = cuda::device_memory("knn", x, cuda::knn(search(0), nullptr, nullptr, nullptr, nullptr));
  const std::int64_t value_bytes = call.element == Element::f64 ? 8 : 4;
  for (std::int64_t b = 0; b < call.batches; ++b)
    cuda::knn(search(b), memory.mutable_data_ptr(),
              static_cast<char*>(distances.mutable_data_ptr()) + b * call.n * k * value_bytes,
              static_cast<std::int64_t*>(indices.mutable_data_ptr()) + b * call.n * k, device.stream);
  return {distances, indices};
}

}  // namespace

GRAMIAN_CUDA_OP(kKnnSchema, "neighbors_knn", &neighbors_knn_cuda)

}  // namespace gramian
