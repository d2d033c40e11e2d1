// gramian::neighbors_knn_pass, on every device: its schema, and what it asks of its arguments.
#pragma once
#include "neighbors/knn.h"

namespace gramian {

constexpr const char* kKnnPassSchema =
    "neighbors_knn_pass(Tensor x, int k, Tensor? train=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)";

struct KnnPassCall {
  KnnCall call;
  std::optional<Tensor> mask;
  Tensor distances[3], indices[3];  // the last of no rows without `train`

  KnnPassCall(const Tensor& x, std::int64_t k, const std::optional<Tensor>& train) : call(checked(x, k)) {
    if (train && (train->scalar_type() != ScalarType::Bool || train->dim() != 1 || train->size(0) != call.n))
      refuse(kOp, ": train must be [n] bool with n = ", call.n, ", got shape ", shape_text(*train));
    if (train && train->device() != x.device()) refuse(kOp, ": train must be on the device of x");
    for (int list = 0; list < 3; ++list) {
      std::vector<std::int64_t> shape = call.shape;
      if (list == 2 && !train) shape[0] = 0;
      distances[list] = allocate(x, shape, compute_dtype(call.element));
      indices[list] = allocate(x, shape, ScalarType::Long);
    }
    if (train) mask = torch::stable::contiguous(*train);
  }

  const bool* train() const { return mask ? static_cast<const bool*>(mask->const_data_ptr()) : nullptr; }

 private:
  static constexpr const char* kOp = "knn_pass";

  static KnnCall checked(const Tensor& x, std::int64_t k) {
    if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
    return KnnCall(x, k, std::nullopt, "euclidean", true, false);
  }
};

}  // namespace gramian
