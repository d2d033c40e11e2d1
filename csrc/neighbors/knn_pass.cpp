// gramian::neighbors_knn_pass: the nearest of all other rows, of the rows before, and for held-out rows of the others, in one
// sweep.
#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

constexpr const char* kOp = "knn_pass";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> neighbors_knn_pass_cpu(const Tensor& x, std::int64_t k,
                                                                                  const std::optional<Tensor>& train) {
  if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
  const KnnCall call(x, k, std::nullopt, "euclidean", true, false);
  if (train && (train->scalar_type() != ScalarType::Bool || train->dim() != 1 || train->size(0) != call.n))
    refuse(kOp, ": train must be [n] bool with n = ", call.n, ", got shape ", shape_text(*train));
  Tensor distances[3], indices[3];
  for (int list = 0; list < 3; ++list) {
    std::vector<std::int64_t> shape = call.shape;
    if (list == 2 && !train) shape[0] = 0;
    distances[list] = torch::stable::new_empty(x, shape, compute_dtype(call.element));
    indices[list] = torch::stable::new_empty(x, shape, ScalarType::Long);
  }
  const std::optional<Tensor> mask = train ? std::optional(torch::stable::contiguous(*train)) : std::nullopt;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Lists lists{true, mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr};
    T* distance[3];
    std::int64_t* index[3];
    for (int list = 0; list < 3; ++list) {
      distance[list] = static_cast<T*>(distances[list].mutable_data_ptr());
      index[list] = static_cast<std::int64_t*>(indices[list].mutable_data_ptr());
    }
    Search<T>(rows_of(x, call.element, 0), std::nullopt, Metric::euclidean, Sweep::symmetric, true, k, true, lists)
        .run(distance, index);
  };
  if (call.n > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {distances[0], indices[0], distances[1], indices[1], distances[2], indices[2]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("neighbors_knn_pass(Tensor x, int k, Tensor? train=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_pass", GRAMIAN_BOX(&neighbors_knn_pass_cpu)); }

}  // namespace gramian
