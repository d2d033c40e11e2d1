// gramian::neighbors_knn_both, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <limits>
#include <optional>
#include <string>

#include "neighbors/pair_set.h"

namespace gramian {

constexpr const char* kKnnBothSchema =
    "neighbors_knn_both(Tensor x, Tensor y, int k, str metric='euclidean', Tensor? x_reach=None, Tensor? "
    "y_reach=None) -> (Tensor, Tensor, Tensor, Tensor)";

struct KnnBothCall {
  static constexpr const char* kOp = "knn_both";

  Metric metric;
  Element element;
  std::optional<Tensor> reach[2];  // how far the neighbours of a side's rows may lie, contiguous
  Tensor distances[2], indices[2];

  KnnBothCall(const Tensor& x, const Tensor& y, std::int64_t k, const std::string& metric_name,
              const std::optional<Tensor>& x_reach, const std::optional<Tensor>& y_reach)
      : metric(metric_from(kOp, metric_name)) {
    if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
    element = element_of(kOp, "x", x);
    check_base(kOp, x, y);
    if (k < 1) refuse(kOp, ": k must be positive, got ", k);
    for (const Tensor* side : {&x, &y})
      if (side->size(0) >= std::numeric_limits<std::uint32_t>::max())
        refuse(kOp, ": x and y must have fewer than 2^32 - 1 rows, got ", side->size(0));
    reach[0] = reach_of("x_reach", x_reach, "x", x);
    reach[1] = reach_of("y_reach", y_reach, "y", y);
    for (int side = 0; side < 2; ++side) {
      const std::int64_t rows = (side == 0 ? x : y).size(0);
      distances[side] = allocate(x, {rows, k}, compute_dtype(element));
      indices[side] = allocate(x, {rows, k}, ScalarType::Long);
    }
  }

 private:
  std::optional<Tensor> reach_of(const char* name, const std::optional<Tensor>& given, const char* of,
                                 const Tensor& rows) const {
    if (!given) return std::nullopt;
    const ScalarType dtype = compute_dtype(element);
    if (given->dim() != 1 || given->size(0) != rows.size(0) || given->scalar_type() != dtype ||
        given->device() != rows.device())
      refuse(kOp, ": ", name, " must be [", rows.size(0), "] ", dtype_text(dtype), " on the device of ", of, ", got ",
             shape_text(*given), " ", dtype_text(given->scalar_type()));
    return torch::stable::contiguous(*given);
  }
};

}  // namespace gramian
