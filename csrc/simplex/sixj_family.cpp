// gramian::simplex_sixj_family: all values of the upper left spin of 6j symbols.
#include <tuple>

#include "simplex/sixj.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> simplex_sixj_family_cpu(const Tensor& spins, std::int64_t width) {
  constexpr const char* kOp = "sixj_family";
  check_spins(kOp, "spins", spins, 5);
  if (width < 1) refuse(kOp, ": width must be at least 1, got ", width);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  const auto* spin = static_cast<const std::int64_t*>(held.const_data_ptr());
  const auto tables = factorials_up_to(2 * bound_of_spins(kOp, "spins", spin, 5 * n));  // over x up to the sum of two
  std::vector<Family> families(static_cast<std::size_t>(n));
  std::int64_t longest = 1;
  for (std::int64_t i = 0; i < n; ++i) {  // j2, j3, l1, l2, l3
    const Family family = recoupling(spin[i], spin[n + i], spin[3 * n + i], spin[4 * n + i], spin[2 * n + i]);
    if (family.count > width) refuse(kOp, ": width must be at least ", family.count, ", got ", width);
    longest = std::max<std::int64_t>(longest, family.count);
    families[static_cast<std::size_t>(i)] = family;
  }
  Tensor first = allocate(held, {n}, ScalarType::Long), values = allocate_zeros(held, {n, width}, ScalarType::Double);
  auto* first_at = static_cast<std::int64_t*>(first.mutable_data_ptr());
  auto* out = static_cast<double*>(values.mutable_data_ptr());
  for (std::int64_t i = 0; i < n; ++i) first_at[i] = families[static_cast<std::size_t>(i)].first;
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const std::int64_t groups = (n + kernel.lanes - 1) / kernel.lanes;
  const Workspace scratch(worker_count(groups), 8 * kernel.scratch(longest));
  run_pieces(groups, 1, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t i = g * kernel.lanes;
      kernel.sixj(&families[static_cast<std::size_t>(i)],
                  static_cast<std::int32_t>(std::min<std::int64_t>(kernel.lanes, n - i)), tables->view(),
                  static_cast<double*>(scratch.of(worker)), out + i * width, width);
    }
  });
  return {first, values};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kSixjFamilySchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj_family", GRAMIAN_BOX(&simplex_sixj_family_cpu)); }

}  // namespace gramian
