// gramian::neighbors_count_within, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "neighbors/pair_set.h"

namespace gramian {

constexpr const char* kCountWithinSchema =
    "neighbors_count_within(Tensor x, Tensor radius, Tensor? y=None, str metric='euclidean', "
    "bool exclude_self=False) -> Tensor";

struct CountWithinCall {
  Metric metric;
  bool self;
  Element element;
  std::int64_t n, batches = 1;
  std::vector<std::int64_t> shape;  // of the result

  CountWithinCall(const Tensor& x, const Tensor& radius, const std::optional<Tensor>& y_given,
                  const std::string& metric_name, bool exclude_self)
      : metric(metric_from(kOp, metric_name)), self(!y_given.has_value()) {
    if (metric == Metric::ip) refuse(kOp, ": metric must be a distance, got ip");
    const Tensor& y = self ? x : *y_given;
    if (x.dim() < 2) refuse(kOp, ": x must be [..., n, d], got shape ", shape_text(x));
    element = element_of(kOp, "x", x);
    if (!self) {
      check_base(kOp, x, y);
      if (exclude_self) refuse(kOp, ": exclude_self must be False when y is given, got True");
    }
    const ScalarType dtype = compute_dtype(element);
    bool fits = radius.dim() == x.dim() - 1;
    for (std::int64_t axis = 0; axis + 1 < x.dim(); ++axis) {
      fits = fits && radius.size(axis) == x.size(axis);
      shape.push_back(x.size(axis));
      if (axis + 2 < x.dim()) batches *= x.size(axis);
    }
    if (!fits) refuse(kOp, ": radius must be [..., n] like x, ", shape_text(x), ", got ", shape_text(radius));
    if (radius.scalar_type() != dtype)
      refuse(kOp, ": radius must be ", dtype_text(dtype), " for x of ", dtype_text(x.scalar_type()), ", got ",
             dtype_text(radius.scalar_type()));
    if (radius.device() != x.device()) refuse(kOp, ": radius must be on the device of x");
    n = x.size(x.dim() - 2);
  }

  static void check_radius(double radius, std::int64_t row) {
    if (std::isnan(radius)) refuse(kOp, ": radius must be a number, got NaN for row ", row);
  }

 private:
  static constexpr const char* kOp = "count_within";
};

}  // namespace gramian
