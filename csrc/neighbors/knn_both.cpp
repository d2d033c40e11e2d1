// gramian::neighbors_knn_both: the nearest rows of y for each row of x and of x for each row of y, in one sweep.
#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

constexpr const char* kOp = "knn_both";

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_knn_both_cpu(const Tensor& x, const Tensor& y, std::int64_t k,
                                                                  const std::string& metric_name) {
  const Metric metric = metric_from(kOp, metric_name);
  if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
  const Element element = element_of(kOp, "x", x);
  check_base(kOp, x, y);
  if (k < 1) refuse(kOp, ": k must be positive, got ", k);
  for (const Tensor* side : {&x, &y})
    if (side->size(0) >= std::numeric_limits<std::uint32_t>::max())
      refuse(kOp, ": x and y must have fewer than 2^32 - 1 rows, got ", side->size(0));
  Tensor distances[2], indices[2];
  for (int side = 0; side < 2; ++side) {
    const std::int64_t rows = (side == 0 ? x : y).size(0);
    distances[side] = torch::stable::new_empty(x, {rows, k}, compute_dtype(element));
    indices[side] = torch::stable::new_empty(x, {rows, k}, ScalarType::Long);
  }
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* distance[2];
    std::int64_t* index[2];
    for (int side = 0; side < 2; ++side) {
      distance[side] = static_cast<T*>(distances[side].mutable_data_ptr());
      index[side] = static_cast<std::int64_t*>(indices[side].mutable_data_ptr());
    }
    Lists lists;
    lists.both_sides = true;
    Search<T>(rows_of(x, element), rows_of(y, element), metric, Sweep::full, false, k, true, lists)
        .run(distance, index);
  };
  element == Element::f64 ? run(0.0) : run(0.0F);
  return {distances[0], indices[0], distances[1], indices[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("neighbors_knn_both(Tensor x, Tensor y, int k, str metric='euclidean') -> (Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_both", GRAMIAN_BOX(&neighbors_knn_both_cpu)); }

}  // namespace gramian
