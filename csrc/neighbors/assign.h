// gramian::neighbors_assign, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <vector>

#include "neighbors/clusters.h"

namespace gramian {

constexpr const char* kAssignSchema = "neighbors_assign(Tensor x, Tensor centers) -> (Tensor, Tensor)";

struct AssignCall {
  std::int64_t n, batches = 1;
  ScalarType dtype;                 // of the centres and the distances
  std::vector<std::int64_t> shape;  // of the result

  AssignCall(const Tensor& x, const Tensor& centers) {
    constexpr const char* kOp = "assign";
    if (x.dim() < 2) refuse(kOp, ": x must be [..., n, d], got shape ", shape_text(x));
    dtype = compute_dtype(element_of(kOp, "x", x));
    const std::int64_t axes = x.dim();
    n = x.size(axes - 2);
    bool fits = centers.dim() == axes && centers.size(axes - 1) == x.size(axes - 1);
    for (std::int64_t axis = 0; fits && axis < axes - 2; ++axis) {
      fits = centers.size(axis) == x.size(axis);
      batches *= shape.emplace_back(x.size(axis));
    }
    if (!fits)
      refuse(kOp, ": centers must be [..., k, d] with the leading sizes and d of x, ", shape_text(x), ", got ",
             shape_text(centers));
    check_centers(kOp, x, "centers", centers);
    shape.push_back(n);
  }
};

}  // namespace gramian
