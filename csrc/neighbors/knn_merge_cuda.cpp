// gramian::neighbors_knn_merge on CUDA.
#include "neighbors/knn_merge.h"

#include <tuple>

#include "core/cuda.h"
#include "neighbors/knn_cuda.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> neighbors_knn_merge_cuda(const Tensor& distances_a, const Tensor& indices_a,
                                                    const Tensor& distances_b, const Tensor& indices_b, std::int64_t k,
                                                    bool largest) {
  KnnMergeCall call(distances_a, indices_a, distances_b, indices_b, k);
  const cuda::OnDevice device(distances_a);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto distance = [&](int of) { return static_cast<const T*>(call.given[of].const_data_ptr()); };
    const auto index = [&](int of) { return static_cast<const std::int64_t*>(call.given[of].const_data_ptr()); };
    cuda::knn_merge<T>({distance(0), distance(2), index(1), index(3), call.rows, call.n, call.m, k, largest},
                       static_cast<T*>(call.distances.mutable_data_ptr()),
                       static_cast<std::int64_t*>(call.indices.mutable_data_ptr()), device.stream);
  };
  call.wide ? run(0.0) : run(0.0F);
  return {call.distances, call.indices};
}

}  // namespace

GRAMIAN_CUDA_OP(kKnnMergeSchema, "neighbors_knn_merge", &neighbors_knn_merge_cuda)

}  // namespace gramian
