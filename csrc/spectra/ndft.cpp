// gramian::spectra_ndft: sum_j cos(2 pi <k_i, x_j>) v_j and the same with sin, the matrix of phases never stored.
#include "spectra/sum_pairs.h"

namespace gramian {
namespace {

Tensor spectra_ndft_cpu(const Tensor& frequencies, const Tensor& points, const Tensor& values) {
  check_pair_sum("ndft", "frequencies", frequencies, "points", points, values);
  return pair_sum(frequencies, points, values, Profile::wave, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kNdftSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_ndft", GRAMIAN_BOX(&spectra_ndft_cpu)); }

}  // namespace gramian
