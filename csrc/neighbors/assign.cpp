// gramian::neighbors_assign: the nearest centre of every point, exactly, and its squared distance.
#include <tuple>

#include "neighbors/clusters.h"

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
  if (x.dim() < 2) refuse(kOp, ": x must be [..., n, d], got shape ", shape_text(x));
  const Element element = element_of(kOp, "x", x);
  const ScalarType dtype = compute_dtype(element);
  const std::int64_t axes = x.dim(), n = x.size(axes - 2);
  bool fits = centers.dim() == axes && centers.size(axes - 1) == x.size(axes - 1);
  std::vector<std::int64_t> shape;
  std::int64_t batches = 1;
  for (std::int64_t axis = 0; fits && axis < axes - 2; ++axis) {
    fits = centers.size(axis) == x.size(axis);
    batches *= shape.emplace_back(x.size(axis));
  }
  if (!fits)
    refuse(kOp, ": centers must be [..., k, d] with the leading sizes and d of x, ", shape_text(x), ", got ",
           shape_text(centers));
  check_centers(kOp, x, "centers", centers);
  shape.push_back(n);
  Tensor labels = torch::stable::new_empty(x, shape, ScalarType::Long);
  Tensor squared = torch::stable::new_empty(x, shape, dtype);
  const Tensor points = readable(x, dtype), rows = torch::stable::contiguous(centers);
  const Element own = element_of(kOp, "centers", centers);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t b = 0; b < batches; ++b)
      assign<T>(rows_of(points, own, b), rows_of(rows, own, b),
                static_cast<std::int64_t*>(labels.mutable_data_ptr()) + b * n,
                static_cast<T*>(squared.mutable_data_ptr()) + b * n);
  };
  if (n > 0) own == Element::f64 ? run(0.0) : run(0.0F);
  return {squared, labels};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def("neighbors_assign(Tensor x, Tensor centers) -> (Tensor, Tensor)"); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_assign", TORCH_BOX(&neighbors_assign_cpu)); }

}  // namespace gramian
