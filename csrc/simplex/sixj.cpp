// gramian::simplex_sixj: 6j symbols, each as one entry of the shortest of its families.
#include "simplex/sixj.h"

namespace gramian {
namespace {

Tensor simplex_sixj_cpu(const Tensor& spins) {
  constexpr const char* kOp = "sixj";
  check_spins(kOp, "spins", spins, 6);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  const auto* spin = static_cast<const std::int64_t*>(held.const_data_ptr());
  const std::int64_t largest = largest_spin(kOp, "spins", spin, 6 * n);
  const FactorialTables tables(largest);
  Tensor values = torch::stable::new_empty(held, {n}, ScalarType::Double);
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  // Any of the three columns may come first. The number of entries is the same over either spin of a column.
  const auto family_of = [&](std::int64_t i) {
    Family best{};
    for (int column = 0; column < 3; ++column) {
      const int next = (column + 1) % 3, last = (column + 2) % 3;
      Family family = recoupling(spin[next * n + i], spin[last * n + i], spin[(3 + next) * n + i],
                                 spin[(3 + last) * n + i], spin[(3 + column) * n + i]);
      const std::int64_t x = spin[column * n + i];
      if (family.count == 0 || x < family.first || x > family.first + 2 * (family.count - 1) ||
          (x - family.first) % 2 != 0)
        return Family{};
      family.target = static_cast<std::int32_t>((x - family.first) / 2);
      if (best.count == 0 || family.count < best.count) best = family;
    }
    return best;
  };
  run_targets(
      n, largest + 1,
      [&](const Family* group, std::int32_t lanes, double* scratch, double* out) {
        kernel.sixj(group, lanes, tables.view(), scratch, out, 0);
      },
      family_of, static_cast<double*>(values.mutable_data_ptr()));
  return values;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def("simplex_sixj(Tensor spins) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj", TORCH_BOX(&simplex_sixj_cpu)); }

}  // namespace gramian
