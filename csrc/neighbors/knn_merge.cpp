// gramian::neighbors_knn_merge: the nearest of two lists of neighbours, row by row.
#include <tuple>

#include "core/parallel.h"
#include "core/tensor.h"

namespace gramian {
namespace {

constexpr const char* kOp = "knn_merge";
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

void check(const char* name, const Tensor& distances, const Tensor& indices) {
  if (distances.dim() != 2 || indices.dim() != 2 || distances.size(0) != indices.size(0) ||
      distances.size(1) != indices.size(1))
    refuse(kOp, ": ", name, " must be distances and indices [n, k], got shapes ", shape_text(distances), " and ",
           shape_text(indices));
  element_of(kOp, name, distances, false);
  if (indices.scalar_type() != ScalarType::Long)
    refuse(kOp, ": ", name, " must have int64 indices, got ", dtype_text(indices.scalar_type()));
}

std::tuple<Tensor, Tensor> neighbors_knn_merge_cpu(const Tensor& distances_a, const Tensor& indices_a,
                                                   const Tensor& distances_b, const Tensor& indices_b, std::int64_t k,
                                                   bool largest) {
  check("a", distances_a, indices_a);
  check("b", distances_b, indices_b);
  check_same(kOp, "b", distances_b, "a", distances_a);
  const std::int64_t rows = distances_a.size(0), n = distances_a.size(1), m = distances_b.size(1);
  if (distances_b.size(0) != rows) refuse(kOp, ": b must have ", rows, " rows like a, got ", distances_b.size(0));
  if (k < 0 || k > n + m) refuse(kOp, ": k must be from 0 to ", n + m, ", the entries of a row, got ", k);
  Tensor distances = torch::stable::new_empty(distances_a, {rows, k});
  Tensor indices = torch::stable::new_empty(indices_a, {rows, k});
  const Tensor given[] = {torch::stable::contiguous(distances_a), torch::stable::contiguous(indices_a),
                          torch::stable::contiguous(distances_b), torch::stable::contiguous(indices_b)};
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const List<T> a{static_cast<const T*>(given[0].const_data_ptr()),
                    static_cast<const std::int64_t*>(given[1].const_data_ptr())};
    const List<T> b{static_cast<const T*>(given[2].const_data_ptr()),
                    static_cast<const std::int64_t*>(given[3].const_data_ptr())};
    T* const distance = static_cast<T*>(distances.mutable_data_ptr());
    std::int64_t* const index = static_cast<std::int64_t*>(indices.mutable_data_ptr());
    run_pieces(rows, kRows, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::int64_t row = begin; row < end; ++row)
        merge<T>({a.distance + row * n, a.index + row * n}, n, {b.distance + row * m, b.index + row * m}, m, k, largest,
                 distance + row * k, index + row * k);
    });
  };
  distances_a.scalar_type() == ScalarType::Double ? run(0.0) : run(0.0F);
  return {distances, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "neighbors_knn_merge(Tensor distances_a, Tensor indices_a, Tensor distances_b, Tensor indices_b, int k, "
      "bool largest=False) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_knn_merge", GRAMIAN_BOX(&neighbors_knn_merge_cpu)); }

}  // namespace gramian
