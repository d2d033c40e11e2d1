// gramian::neighbors_assign: the nearest centre of every point, exactly, and its squared distance.
#include <tuple>

#include "neighbors/assign.h"

namespace gramian {
namespace {

constexpr const char* kOp = "assign";

template <class T>
void assign(const Rows& x, const Rows& centers, std::int64_t* labels, T* squared) {
  const std::int64_t n = x.rows, d = x.cols, k = centers.rows;
  const Means means = measure(kOp, "x", x);
  const double largest = measure(kOp, "centers", centers).largest;
  const Frame<T> frame(means, largest, d, std::max(n, k));
  const PointSet<T> set(frame, static_cast<const T*>(x.data), n, x.row_stride);
  const CentroidSet<T> centroids(frame, static_cast<const T*>(centers.data), k);
  const auto& kernel = kmeans_kernels<T>();
  const std::int64_t workers = worker_count(block_count(n, kAssignPoints));
  const Workspace scratch(workers, kernel.points_size(32, d) * static_cast<std::int64_t>(sizeof(T)));
  run_pieces(n, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
    std::int32_t label[kAssignPoints];
    double distance[kAssignPoints];
    kernel.assign(set.points(), nullptr, centroids.centroids(), begin, end, static_cast<T*>(scratch.of(worker)), label);
    kernel.distances(set.points(), centroids.centroids(), label, begin, end, distance);
    for (std::int64_t i = begin; i < end; ++i) {
      labels[i] = label[i - begin];
      squared[i] = static_cast<T>(distance[i - begin]);
    }
  });
}

std::tuple<Tensor, Tensor> neighbors_assign_cpu(const Tensor& x, const Tensor& centers) {
  const AssignCall call(x, centers);
  Tensor labels = allocate(x, call.shape, ScalarType::Long);
  Tensor squared = allocate(x, call.shape, call.dtype);
  const Tensor points = readable(x, call.dtype), rows = torch::stable::contiguous(centers);
  const Element own = element_of(kOp, "centers", centers);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t b = 0; b < call.batches; ++b)
      assign<T>(rows_of(points, own, b), rows_of(rows, own, b),
                static_cast<std::int64_t*>(labels.mutable_data_ptr()) + b * call.n,
                static_cast<T*>(squared.mutable_data_ptr()) + b * call.n);
  };
  if (call.n > 0) own == Element::f64 ? run(0.0) : run(0.0F);
  return {squared, labels};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAssignSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_assign", GRAMIAN_BOX(&neighbors_assign_cpu)); }

}  // namespace gramian
