// gramian::neighbors_knn_route: how neighbors_knn would search; every route gives the same bits.
#include "neighbors/knn_search.h"

namespace gramian {
namespace {

constexpr const char* kOp = "knn_route";

// 0: a scan of y; 1: a sweep in the type of the distances; 2: a sweep in bfloat16.
Tensor neighbors_knn_route_cpu(const Tensor& x, std::int64_t k, const std::optional<Tensor>& y,
                               const std::string& metric, bool exclude_self, bool causal) {
  if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
  const KnnCall call(x, k, y, metric, exclude_self, causal);
  const Rows rows = rows_of(x, call.element);
  std::optional<Rows> base;
  if (!call.self) base = rows_of(*y, call.element);
  const Sweep sweep = causal ? Sweep::causal : call.self ? Sweep::symmetric : Sweep::full;
  Tensor route = allocate(x, {}, ScalarType::Long);
  auto& value = *static_cast<std::int64_t*>(route.mutable_data_ptr());
  value = 1;
  if (base && Scan<float>::pays(rows, call.metric))
    value = 0;
  else if (call.element != Element::f64 && Search<float>(rows, base, call.metric, sweep, exclude_self, k).bf16())
    value = 2;
  return route;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "neighbors_knn_route(Tensor x, int k, Tensor? y=None, str metric='euclidean', bool exclude_self=False, "
      "bool causal=False) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_route", GRAMIAN_BOX(&neighbors_knn_route_cpu)); }

}  // namespace gramian
