// gramian::neighbors_knn_both: the nearest rows of y for each row of x and of x for each row of y, in one sweep.
#include "neighbors/knn_both.h"

#include <cmath>
#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

template <class T>
const T* reach_data(const char* name, const std::optional<Tensor>& reach) {
  if (!reach) return nullptr;
  const T* data = static_cast<const T*>(reach->const_data_ptr());
  for (std::int64_t i = 0; i < reach->size(0); ++i)
    if (std::isnan(data[i])) refuse(KnnBothCall::kOp, ": ", name, " must be numbers, got NaN for row ", i);
  return data;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_knn_both_cpu(const Tensor& x, const Tensor& y, std::int64_t k,
                                                                  const std::string& metric_name,
                                                                  const std::optional<Tensor>& x_reach,
                                                                  const std::optional<Tensor>& y_reach) {
  KnnBothCall call(x, y, k, metric_name, x_reach, y_reach);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* distance[2];
    std::int64_t* index[2];
    for (int side = 0; side < 2; ++side) {
      distance[side] = static_cast<T*>(call.distances[side].mutable_data_ptr());
      index[side] = static_cast<std::int64_t*>(call.indices[side].mutable_data_ptr());
    }
    Lists lists;
    lists.both_sides = true;
    const Reach<T> reach{reach_data<T>("x_reach", call.reach[0]), reach_data<T>("y_reach", call.reach[1])};
    Search<T>(rows_of(x, call.element), rows_of(y, call.element), call.metric, Sweep::full, false, k, true, lists,
              reach)
        .run(distance, index);
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.distances[0], call.indices[0], call.distances[1], call.indices[1]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKnnBothSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_both", GRAMIAN_BOX(&neighbors_knn_both_cpu)); }

}  // namespace gramian
