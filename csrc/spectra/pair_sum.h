// What kernel_sum and ndft share on every device: schemas, checks, the shape of the result.
#pragma once
#include "core/tensor.h"
#include "spectra/pair_sum_kernel.h"

namespace gramian {

constexpr const char* kKernelSumSchema =
    "spectra_kernel_sum(Tensor x, Tensor y, Tensor values, int profile, bool slope=False) -> Tensor";
constexpr const char* kNdftSchema = "spectra_ndft(Tensor frequencies, Tensor points, Tensor values) -> Tensor";

inline void check_pair_sum(const char* op, const char* x_name, const Tensor& x, const char* y_name, const Tensor& y,
                           const Tensor& values) {
  if (x.dim() != 2) refuse(op, ": ", x_name, " must be [n, d], got shape ", shape_text(x));
  element_of(op, x_name, x, false);
  check_same(op, y_name, y, x_name, x);
  if (y.dim() != 2 || y.size(1) != x.size(1))
    refuse(op, ": ", y_name, " must be [m, ", x.size(1), "] like ", x_name, ", got shape ", shape_text(y));
  check_same(op, "values", values, x_name, x);
  if (values.dim() != 2 || values.size(0) != y.size(0))
    refuse(op, ": values must be [", y.size(0), ", c] like ", y_name, ", got shape ", shape_text(values));
}

inline void check_profile(std::int64_t profile) {
  if (profile < 0 || profile >= static_cast<std::int64_t>(Profile::wave))
    refuse("kernel_sum: profile must be 0 to 4, got ", profile);
}

// [2, n, c] for wave, else [n, c].
inline Tensor empty_pair_sum(const Tensor& x, const Tensor& values, Profile profile) {
  const std::int64_t n = x.size(0), c = values.size(1);
  return profile == Profile::wave ? allocate_zeros(x, {2, n, c}) : allocate_zeros(x, {n, c});
}

}  // namespace gramian
