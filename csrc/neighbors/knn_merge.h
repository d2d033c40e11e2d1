// gramian::neighbors_knn_merge, on every device: its schema, and what it asks of its arguments.
#pragma once
#include "core/tensor.h"

namespace gramian {

constexpr const char* kKnnMergeSchema =
    "neighbors_knn_merge(Tensor distances_a, Tensor indices_a, Tensor distances_b, Tensor indices_b, int k, "
    "bool largest=False) -> (Tensor, Tensor)";

struct KnnMergeCall {
  std::int64_t rows, n, m;
  bool wide;
  Tensor given[4];  // distances and indices of a, then of b; contiguous
  Tensor distances, indices;

  KnnMergeCall(const Tensor& distances_a, const Tensor& indices_a, const Tensor& distances_b, const Tensor& indices_b,
               std::int64_t k) {
    check("a", distances_a, indices_a);
    check("b", distances_b, indices_b);
    check_same(kOp, "b", distances_b, "a", distances_a);
    for (const Tensor* other : {&indices_a, &indices_b})
      if (other->device() != distances_a.device()) refuse(kOp, ": indices must be on the device of the distances");
    rows = distances_a.size(0), n = distances_a.size(1), m = distances_b.size(1);
    if (distances_b.size(0) != rows) refuse(kOp, ": b must have ", rows, " rows like a, got ", distances_b.size(0));
    if (k < 0 || k > n + m) refuse(kOp, ": k must be from 0 to ", n + m, ", the entries of a row, got ", k);
    wide = distances_a.scalar_type() == ScalarType::Double;
    distances = allocate(distances_a, {rows, k});
    indices = allocate(indices_a, {rows, k});
    const Tensor* const all[] = {&distances_a, &indices_a, &distances_b, &indices_b};
    for (int t = 0; t < 4; ++t) given[t] = torch::stable::contiguous(*all[t]);
  }

 private:
  static constexpr const char* kOp = "knn_merge";

  static void check(const char* name, const Tensor& distances, const Tensor& indices) {
    if (distances.dim() != 2 || indices.dim() != 2 || distances.size(0) != indices.size(0) ||
        distances.size(1) != indices.size(1))
      refuse(kOp, ": ", name, " must be distances and indices [n, k], got shapes ", shape_text(distances), " and ",
             shape_text(indices));
    element_of(kOp, name, distances, false);
    if (indices.scalar_type() != ScalarType::Long)
      refuse(kOp, ": ", name, " must have int64 indices, got ", dtype_text(indices.scalar_type()));
  }
};

}  // namespace gramian
