// gramian::neighbors_knn_pass on CUDA.
#include <tuple>

#include "core/cuda.h"
#include "neighbors/knn_cuda.h"
#include "neighbors/knn_pass.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> neighbors_knn_pass_cuda(const Tensor& x, std::int64_t k,
                                                                                   const std::optional<Tensor>& train) {
  KnnPassCall pass(x, k, train);
  const cuda::OnDevice device(x);
  if (pass.call.n > 0) {
    const Rows rows = rows_of(x, pass.call.element);
    const cuda::KnnArguments arguments{"knn_pass", "x",   "x",   rows, rows,        Metric::euclidean,
                                       true,       false, false, k,    pass.train()};
    const Tensor memory =
        cuda::device_memory("knn_pass", x, cuda::knn_pass(arguments, nullptr, nullptr, nullptr, nullptr));
    void* distances[3];
    std::int64_t* indices[3];
    for (int list = 0; list < 3; ++list) {
      const bool wanted = list < 2 || train;
      distances[list] = wanted ? pass.distances[list].mutable_data_ptr() : nullptr;
      indices[list] = static_cast<std::int64_t*>(pass.indices[list].mutable_data_ptr());
    }
    cuda::knn_pass(arguments, memory.mutable_data_ptr(), distances, indices, device.stream);
  }
  return {pass.distances[0], pass.indices[0], pass.distances[1], pass.indices[1], pass.distances[2], pass.indices[2]};
}

}  // namespace

GRAMIAN_CUDA_OP(kKnnPassSchema, "neighbors_knn_pass", &neighbors_knn_pass_cuda)

}  // namespace gramian
