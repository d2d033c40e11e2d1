// gramian::spectra_kernel_sum: sum_j phi(|x_i - y_j|²) v_j, the matrix of phi never stored.
#include "spectra/sum_pairs.h"

namespace gramian {
namespace {

Tensor spectra_kernel_sum_cpu(const Tensor& x, const Tensor& y, const Tensor& values, std::int64_t profile,
                              bool slope) {
  check_pair_sum("kernel_sum", "x", x, "y", y, values);
  check_profile(profile);
  return pair_sum(x, y, values, static_cast<Profile>(profile), slope);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKernelSumSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_kernel_sum", GRAMIAN_BOX(&spectra_kernel_sum_cpu)); }

}  // namespace gramian
