// gramian::neighbors_kmeans, on every device: its schema, and what it asks of its arguments.
#pragma once
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
    centers = torch::stable::new_empty(init, {k, x.size(1)}, dtype);
    labels = torch::stable::new_empty(x, {n}, ScalarType::Long);
    inertia = torch::stable::new_empty(x, {}, ScalarType::Double);
    n_iter = torch::stable::new_empty(x, {}, ScalarType::Long);
  }
};

}  // namespace gramian
