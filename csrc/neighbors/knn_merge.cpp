// gramian::neighbors_knn_merge: the nearest of two lists of neighbours, row by row.
#include "neighbors/knn_merge.h"

#include <tuple>

#include "core/parallel.h"

namespace gramian {
namespace {

constexpr std::int64_t kRows = 512;  // that a worker merges at a time

template <class T>
struct List {
  const T* distance;
  const std::int64_t* index;
};

// Two sorted lists of n and m entries into the first k of both, ties by the lower index.
template <class T>
void merge(List<T> a, std::int64_t n, List<T> b, std::int64_t m, std::int64_t k, bool largest, T* distance,
           std::int64_t* index) {
  std::int64_t i = 0, j = 0;
  for (std::int64_t e = 0; e < k; ++e) {
    bool from_b = i == n;
    if (i < n && j < m) {
      const T x = a.distance[i], y = b.distance[j];
      from_b = (largest ? y > x : y < x) || (y == x && b.index[j] < a.index[i]);
    }
    const List<T>& from = from_b ? b : a;
    std::int64_t& at = from_b ? j : i;
    distance[e] = from.distance[at];
    index[e] = from.index[at++];
  }
}

std::tuple<Tensor, Tensor> neighbors_knn_merge_cpu(const Tensor& distances_a, const Tensor& indices_a,
                                                   const Tensor& distances_b, const Tensor& indices_b, std::int64_t k,
                                                   bool largest) {
  KnnMergeCall call(distances_a, indices_a, distances_b, indices_b, k);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto list = [&](int of) {
      return List<T>{static_cast<const T*>(call.given[of].const_data_ptr()),
                     static_cast<const std::int64_t*>(call.given[of + 1].const_data_ptr())};
    };
    const List<T> a = list(0), b = list(2);
    const std::int64_t n = call.n, m = call.m;
    T* const distance = static_cast<T*>(call.distances.mutable_data_ptr());
    std::int64_t* const index = static_cast<std::int64_t*>(call.indices.mutable_data_ptr());
    run_pieces(call.rows, kRows, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::int64_t row = begin; row < end; ++row)
        merge<T>({a.distance + row * n, a.index + row * n}, n, {b.distance + row * m, b.index + row * m}, m, k, largest,
                 distance + row * k, index + row * k);
    });
  };
  call.wide ? run(0.0) : run(0.0F);
  return {call.distances, call.indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKnnMergeSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_merge", GRAMIAN_BOX(&neighbors_knn_merge_cpu)); }

}  // namespace gramian
