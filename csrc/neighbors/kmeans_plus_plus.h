// gramian::neighbors_kmeans_plus_plus, on every device: its schema, and what it asks of its arguments.
#pragma once
#include "neighbors/clusters.h"

namespace gramian {

constexpr const char* kKmeansPlusPlusSchema =
    "neighbors_kmeans_plus_plus(Tensor x, Tensor uniforms, Tensor? weights=None) -> Tensor";

struct KmeansPlusPlusCall {
  Element element;
  std::int64_t k, trials;

  KmeansPlusPlusCall(const Tensor& x, const Tensor& uniforms) {
    check_points(kOp, x);
    element = element_of(kOp, "x", x);
    if (uniforms.dim() != 2 || uniforms.size(1) < 1)
      refuse(kOp, ": uniforms must be [k, trials], got shape ", shape_text(uniforms));
    if (uniforms.scalar_type() != ScalarType::Double)
      refuse(kOp, ": uniforms must be float64, got ", dtype_text(uniforms.scalar_type()));
    if (uniforms.device() != x.device()) refuse(kOp, ": uniforms must be on the device of x");
    k = uniforms.size(0), trials = uniforms.size(1);
    if (k < 1 || k > x.size(0))
      refuse(kOp, ": uniforms must have from 1 to n = ", x.size(0), " rows, as many as clusters, got ", k);
  }

  // `number` [k, trials], on the host.
  void check_numbers(const double* number) const {
    for (std::int64_t i = 0; i < k * trials; ++i)
      if (!(number[i] >= 0 && number[i] < 1)) refuse(kOp, ": uniforms must lie in [0, 1), got ", number[i]);
  }

 private:
  static constexpr const char* kOp = "kmeans_plus_plus";
};

}  // namespace gramian
