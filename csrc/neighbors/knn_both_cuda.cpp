// gramian::neighbors_knn_both on CUDA.
#include "neighbors/knn_both.h"

#include <tuple>

#include "core/cuda.h"
#include "neighbors/knn_cuda.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_knn_both_cuda(const Tensor& x, const Tensor& y, std::int64_t k,
                                                                   const std::string& metric_name,
                                                                   const std::optional<Tensor>& x_reach,
                                                                   const std::optional<Tensor>& y_reach) {
  KnnBothCall call(x, y, k, metric_name, x_reach, y_reach);
  const cuda::OnDevice device(x);
  const auto numbers = [&](int side) { return call.reach[side] ? call.reach[side]->const_data_ptr() : nullptr; };
  const cuda::KnnArguments arguments{KnnBothCall::kOp,
                                     "x",
                                     "y",
                                     rows_of(x, call.element),
                                     rows_of(y, call.element),
                                     call.metric,
                                     false,
                                     false,
                                     false,
                                     k,
                                     nullptr,
                                     numbers(0),
                                     numbers(1)};
  const Tensor memory =
      cuda::device_memory(KnnBothCall::kOp, x, cuda::knn_both(arguments, nullptr, nullptr, nullptr, nullptr));
  void* distances[2];
  std::int64_t* indices[2];
  for (int side = 0; side < 2; ++side) {
    distances[side] = call.distances[side].mutable_data_ptr();
    indices[side] = static_cast<std::int64_t*>(call.indices[side].mutable_data_ptr());
  }
  cuda::knn_both(arguments, memory.mutable_data_ptr(), distances, indices, device.stream);
  return {call.distances[0], call.indices[0], call.distances[1], call.indices[1]};
}

}  // namespace

GRAMIAN_CUDA_OP(kKnnBothSchema, "neighbors_knn_both", &neighbors_knn_both_cuda)

}  // namespace gramian
