// gramian::spectra_ndft on CUDA.
#include "spectra/pair_sums_on_device.h"

namespace gramian {
namespace {

Tensor spectra_ndft_cuda(const Tensor& frequencies, const Tensor& points, const Tensor& values) {
  check_pair_sum("ndft", "frequencies", frequencies, "points", points, values);
  return pair_sum_on_device("ndft", frequencies, points, values, Profile::wave, false);
}

}  // namespace

GRAMIAN_CUDA_OP(kNdftSchema, "spectra_ndft", &spectra_ndft_cuda)

}  // namespace gramian
