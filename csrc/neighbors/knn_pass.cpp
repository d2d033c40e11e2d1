// gramian::neighbors_knn_pass: the nearest of all other rows, of the rows before, and for held-out rows of the others, in one
// sweep.
#include "neighbors/knn_pass.h"

#include <tuple>

#include "neighbors/knn_search.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> neighbors_knn_pass_cpu(const Tensor& x, std::int64_t k,
                                                                                  const std::optional<Tensor>& train) {
  KnnPassCall pass(x, k, train);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Lists lists{true, pass.train()};
    T* distance[3];
    std::int64_t* index[3];
    for (int list = 0; list < 3; ++list) {
      distance[list] = static_cast<T*>(pass.distances[list].mutable_data_ptr());
      index[list] = static_cast<std::int64_t*>(pass.indices[list].mutable_data_ptr());
    }
    Search<T>(rows_of(x, pass.call.element, 0), std::nullopt, Metric::euclidean, Sweep::symmetric, true, k, true, lists)
        .run(distance, index);
  };
  if (pass.call.n > 0) pass.call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {pass.distances[0], pass.indices[0], pass.distances[1], pass.indices[1], pass.distances[2], pass.indices[2]};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKnnPassSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_pass", GRAMIAN_BOX(&neighbors_knn_pass_cpu)); }

}  // namespace gramian
