// gramian::neighbors_knn, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "neighbors/pair_set.h"

namespace gramian {

constexpr const char* kKnnSchema =
    "neighbors_knn(Tensor x, int k, Tensor? y=None, str metric='euclidean', bool exclude_self=False, "
    "bool causal=False) -> (Tensor, Tensor)";

struct KnnCall {
  Metric metric;
  bool self;
  Element element;
  std::int64_t n, m, d, batches = 1;
  std::vector<std::int64_t> shape;  // of the result

  KnnCall(const Tensor& x, std::int64_t k, const std::optional<Tensor>& y_given, const std::string& metric_name,
          bool exclude_self, bool causal)
      : metric(metric_from(kOp, metric_name)), self(!y_given.has_value()) {
    const Tensor& y = self ? x : *y_given;
    if (x.dim() < 2) refuse(kOp, ": x must be [..., n, d], got shape ", shape_text(x));
    element = element_of(kOp, "x", x);
    n = x.size(x.dim() - 2), d = x.size(x.dim() - 1), m = y.dim() < 2 ? 0 : y.size(y.dim() - 2);
    for (std::int64_t axis = 0; axis < x.dim() - 2; ++axis) batches *= shape.emplace_back(x.size(axis));
    if (!self) {
      check_base(kOp, x, y);
      if (exclude_self) refuse(kOp, ": exclude_self must be False when y is given, got True");
      if (causal) refuse(kOp, ": causal must be False when y is given, got True");
    }
    const std::int64_t most = self && (exclude_self || causal) ? m - 1 : m;
    if (n > 0 && (k < 1 || k > most)) refuse(kOp, ": k must be from 1 to ", most, ", the rows to choose from, got ", k);
    if (k < 1) refuse(kOp, ": k must be positive, got ", k);
    if (n >= std::numeric_limits<std::uint32_t>::max() || m >= std::numeric_limits<std::uint32_t>::max())
      refuse(kOp, ": x and y must have fewer than 2^32 - 1 rows, got ", std::max(n, m));
    shape.insert(shape.end(), {n, k});
  }

 private:
  static constexpr const char* kOp = "knn";
};

}  // namespace gramian
