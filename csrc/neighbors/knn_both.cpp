// gramian::neighbors_knn_both: the nearest rows of y for each row of x and of x for each row of y, in one sweep.
#include <cmath>
#include <optional>
#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

constexpr const char* kOp = "knn_both";

// How far the neighbours of a side's rows may lie, contiguous.
std::optional<Tensor> reach_of(const char* name, const std::optional<Tensor>& given, const char* of,
                               const Tensor& rows) {
  if (!given) return std::nullopt;
  const ScalarType dtype = compute_dtype(element_of(kOp, of, rows));
  if (given->dim() != 1 || given->size(0) != rows.size(0) || given->scalar_type() != dtype ||
      given->device() != rows.device())
    refuse(kOp, ": ", name, " must be [", rows.size(0), "] ", dtype_text(dtype), " on the device of ", of, ", got ",
           shape_text(*given), " ", dtype_text(given->scalar_type()));
  return torch::stable::contiguous(*given);
}

template <class T>
const T* reach_data(const char* name, const std::optional<Tensor>& reach) {
  if (!reach) return nullptr;
  const T* data = static_cast<const T*>(reach->const_data_ptr());
  for (std::int64_t i = 0; i < reach->size(0); ++i)
    if (std::isnan(data[i])) refuse(kOp, ": ", name, " must be numbers, got NaN for row ", i);
  return data;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_knn_both_cpu(const Tensor& x, const Tensor& y, std::int64_t k,
                                                                  const std::string& metric_name,
                                                                  const std::optional<Tensor>& x_reach,
                                                                  const std::optional<Tensor>& y_reach) {
  const Metric metric = metric_from(kOp, metric_name);
  if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
  const Element element = element_of(kOp, "x", x);
  check_base(kOp, x, y);
  if (k < 1) refuse(kOp, ": k must be positive, got ", k);
  for (const Tensor* side : {&x, &y})
    if (side->size(0) >= std::numeric_limits<std::uint32_t>::max())
      refuse(kOp, ": x and y must have fewer than 2^32 - 1 rows, got ", side->size(0));
  const std::optional<Tensor> reach_x = reach_of("x_reach", x_reach, "x", x),
                              reach_y = reach_of("y_reach", y_reach, "y", y);
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
    const Reach<T> reach{reach_data<T>("x_reach", reach_x), reach_data<T>("y_reach", reach_y)};
    Search<T>(rows_of(x, element), rows_of(y, element), metric, Sweep::full, false, k, true, lists, reach)
        .run(distance, index);
  };
  element == Element::f64 ? run(0.0) : run(0.0F);
  return {distances[0], indices[0], distances[1], indices[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "neighbors_knn_both(Tensor x, Tensor y, int k, str metric='euclidean', Tensor? x_reach=None, Tensor? "
      "y_reach=None) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_both", GRAMIAN_BOX(&neighbors_knn_both_cpu)); }

}  // namespace gramian
