// gramian::simplex_threej: 3j symbols, each as one entry of its family over the first magnetic number.
#include "simplex/sixj.h"

namespace gramian {
namespace {

// spins [6, n]: j1, j2, j3, m1, m2, m3, all doubled.
Tensor simplex_threej_cpu(const Tensor& spins) {
  constexpr const char* kOp = "threej";
  check_spins(kOp, "spins", spins, 6);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  const auto* spin = static_cast<const std::int64_t*>(held.const_data_ptr());
  const std::int64_t largest = bound_of_spins(kOp, "spins", spin, 3 * n);
  const auto tables = factorials_up_to(2 * largest);
  Tensor values = allocate(held, {n}, ScalarType::Double);
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const auto family_of = [&](std::int64_t i) { return coupling([&](int k) { return spin[k * n + i]; }); };
  run_targets(
      n, largest + 1,
      [&](const Family* group, std::int32_t lanes, double* scratch, double* out) {
        kernel.threej(group, lanes, tables->view(), scratch, out, 0);
      },
      family_of, static_cast<double*>(values.mutable_data_ptr()));
  return values;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kThreejSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_threej", GRAMIAN_BOX(&simplex_threej_cpu)); }

}  // namespace gramian
