// gramian::neighbors_knn: exact k nearest neighbours of every row.
#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> neighbors_knn_cpu(const Tensor& x, std::int64_t k, const std::optional<Tensor>& y_given,
                                             const std::string& metric_name, bool exclude_self, bool causal) {
  const KnnCall call(x, k, y_given, metric_name, exclude_self, causal);
  Tensor distances = allocate(x, call.shape, compute_dtype(call.element));
  Tensor indices = allocate(x, call.shape, ScalarType::Long);
  const Sweep sweep = causal ? Sweep::causal : call.self ? Sweep::symmetric : Sweep::full;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t b = 0; b < call.batches; ++b) {
      std::optional<Rows> base;
      if (!call.self) base = rows_of(*y_given, call.element, b);
      const Rows queries = rows_of(x, call.element, b);
      T* distance = static_cast<T*>(distances.mutable_data_ptr()) + b * call.n * k;
      std::int64_t* index = static_cast<std::int64_t*>(indices.mutable_data_ptr()) + b * call.n * k;
      if (base && Scan<T>::pays(queries, call.metric) &&
          Scan<T>::answers(queries, *base, call.metric, k, distance, index))
        continue;
      Search<T>(queries, base, call.metric, sweep, exclude_self, k).run(distance, index);
    }
  };
  if (call.n > 0 && call.batches > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {distances, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKnnSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn", GRAMIAN_BOX(&neighbors_knn_cpu)); }

}  // namespace gramian
