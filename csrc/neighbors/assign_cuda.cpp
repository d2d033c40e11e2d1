// gramian::neighbors_assign on CUDA: the nearest of the centres is a search for one neighbour.
#include <tuple>

#include "core/cuda.h"
#include "neighbors/assign.h"
#include "neighbors/knn_cuda.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> neighbors_assign_cuda(const Tensor& x, const Tensor& centers) {
  const AssignCall call(x, centers);
  const cuda::OnDevice device(x);
  Tensor labels = allocate(x, call.shape, ScalarType::Long);
  Tensor squared = allocate(x, call.shape, call.dtype);
  if (call.n == 0 || call.batches == 0) return {squared, labels};
  const Tensor points = x.scalar_type() == call.dtype ? x : torch::stable::to(x, call.dtype);
  const Element element = call.dtype == ScalarType::Double ? Element::f64 : Element::f32;
  const auto search = [&](std::int64_t batch) {
    return cuda::KnnArguments{"assign",
                              "x",
                              "centers",
                              rows_of(points, element, batch),
                              rows_of(centers, element, batch),
                              Metric::sqeuclidean,
                              false,
                              false,
                              false,
                              1};
  };
  const Tensor memory = cuda::device_memory("assign", x, cuda::knn(search(0), nullptr, nullptr, nullptr, nullptr));
  for (std::int64_t b = 0; b < call.batches; ++b)
    cuda::knn(search(b), memory.mutable_data_ptr(),
              static_cast<char*>(squared.mutable_data_ptr()) + b * call.n * (element == Element::f64 ? 8 : 4),
              static_cast<std::int64_t*>(labels.mutable_data_ptr()) + b * call.n, device.stream);
  return {squared, labels};
}

}  // namespace

GRAMIAN_CUDA_OP(kAssignSchema, "neighbors_assign", &neighbors_assign_cuda)

}  // namespace gramian
