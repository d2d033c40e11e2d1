// gramian::spectra_kernel_sum on CUDA.
#include "spectra/pair_sums_on_device.h"

namespace gramian {
namespace {

Tensor spectra_kernel_sum_cuda(const Tensor& x, const Tensor& y, const Tensor& values, std::int64_t profile,
                               bool slope) {
  check_pair_sum("kernel_sum", "x", x, "y", y, values);
  check_profile(profile);
  return pair_sum_on_device("kernel_sum", x, y, values, static_cast<Profile>(profile), slope);
}

}  // namespace

GRAMIAN_CUDA_OP(kKernelSumSchema, "spectra_kernel_sum", &spectra_kernel_sum_cuda)

}  // namespace gramian
