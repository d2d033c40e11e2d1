// gramian::neighbors_kmeans, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <algorithm>
#include <vector>

#include "neighbors/clusters.h"

namespace gramian {

constexpr const char* kKmeansSchema =
    "neighbors_kmeans(Tensor x, Tensor init, Tensor? weights=None, int max_iter=100, float tol=0.0, "
    "bool spherical=False, bool relocate=True, str? group=None, int rank=0) -> (Tensor, Tensor, Tensor, Tensor)";

struct KmeansOptions {
  std::int64_t max_iter;
  double tol;
  bool spherical, relocate;
};

// The square of how far the mean of so many equal points may lie from them: sums are float64, centres are rounded to T. An empty
// cluster that took such a point would lose it at once, and take it again in the next round.
template <class T>
double rounding_of_mean(const T* center, std::int64_t d, double points) {
  double square = 0;
  for (std::int64_t f = 0; f < d; ++f) square += static_cast<double>(center[f]) * static_cast<double>(center[f]);
  const double relative =
      4 * static_cast<double>(std::numeric_limits<T>::epsilon()) + points * std::numeric_limits<double>::epsilon();
  return relative * relative * square;
}

// Each empty cluster takes the point, of all ranks, that is farthest from its own centre, unless that is the last of its cluster or
// no farther than `rounding` of that: take(point, weight, from, to), the point being -1 on other ranks than its own. `count` [k]
// are points with weight of all ranks. Whether any was taken.
template <class Labels, class Take>
bool relocate_points(const Group& group, const std::vector<double>& squared, const Labels& labels,
                     const double* weights, const std::vector<double>& rounding, double* count, const Take& take) {
  const auto label = [&](std::int32_t i) { return static_cast<std::size_t>(labels[static_cast<std::size_t>(i)]); };
  const auto far = [&](std::int32_t i) { return squared[static_cast<std::size_t>(i)]; };
  std::vector<std::int32_t> order;
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(squared.size()); ++i)
    if (far(i) > rounding[label(i)] && (weights == nullptr || weights[i] > 0)) order.push_back(i);
  const auto nearer = [&](std::int32_t a, std::int32_t b) { return far(a) < far(b) || (far(a) == far(b) && a > b); };
  std::make_heap(order.begin(), order.end(), nearer);
  bool any = false;
  for (std::size_t to = 0; to < rounding.size(); ++to) {
    if (count[to] != 0) continue;
    std::int32_t point = -1;
    while (point < 0 && !order.empty()) {
      std::pop_heap(order.begin(), order.end(), nearer);
      if (count[label(order.back())] > 1) point = order.back();
      order.pop_back();
    }
    double offer[3] = {-1, 0, 0};  // how far, from which cluster, of what weight
    if (point >= 0) {
      offer[0] = far(point);
      offer[1] = static_cast<double>(label(point));
      offer[2] = weights == nullptr ? 1 : weights[point];
    }
    const std::vector<double> offers = group.gather(offer, 3);
    std::size_t best = 0;  // of equals the lower rank, whose points come first
    for (std::size_t at = 3; at < offers.size(); at += 3)
      if (offers[at] > offers[best]) best = at;
    if (offers[best] < 0) break;
    const bool here = static_cast<std::int64_t>(best) == 3 * group.rank();
    if (!here && point >= 0) {
      order.push_back(point);
      std::push_heap(order.begin(), order.end(), nearer);
    }
    const auto from = static_cast<std::int64_t>(offers[best + 1]);
    take(here ? point : -1, offers[best + 2], from, static_cast<std::int64_t>(to));
    --count[from];
    count[to] = 1;
    any = true;
  }
  return any;
}

struct KmeansCall {
  Element element;
  std::int64_t n, k;
  ScalarType dtype;  // of the centres
  Tensor centers, labels, inertia, n_iter;

  // `alone`: the points are not spread over ranks.
  KmeansCall(const Tensor& x, const Tensor& init, const KmeansOptions& options, bool alone) {
    constexpr const char* kOp = "kmeans";
    check_points(kOp, x);
    element = element_of(kOp, "x", x);
    if (init.dim() != 2 || init.size(1) != x.size(1))
      refuse(kOp, ": init must be [k, d] with d = ", x.size(1), " like x, got shape ", shape_text(init));
    check_centers(kOp, x, "init", init);
    n = x.size(0), k = init.size(0), dtype = compute_dtype(element);
    if (k > n && alone) refuse(kOp, ": init must have at most n = ", n, " rows like x, got ", k);
    if (options.max_iter < 1) refuse(kOp, ": max_iter must be positive, got ", options.max_iter);
    if (!(options.tol >= 0)) refuse(kOp, ": tol must be zero or positive, got ", options.tol);
    centers = allocate(init, {k, x.size(1)}, dtype);
    labels = allocate(x, {n}, ScalarType::Long);
    inertia = allocate(x, {}, ScalarType::Double);
    n_iter = allocate(x, {}, ScalarType::Long);
  }
};

}  // namespace gramian
