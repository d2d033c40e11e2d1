// gramian::simplex_sixj: 6j symbols, each by the shortest way from an end of one of its families; those that this cannot
// decide, as one entry of the shortest family.
#include <cmath>

#include "simplex/sixj.h"
#include "simplex/symbol_kernel.h"

namespace gramian {
namespace {

Tensor simplex_sixj_cpu(const Tensor& spins) {
  constexpr const char* kOp = "sixj";
  check_spins(kOp, "spins", spins, 6);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  const auto* spin = static_cast<const std::int64_t*>(held.const_data_ptr());
  const std::int64_t largest = bound_of_spins(kOp, "spins", spin, 6 * n);
  Tensor values = allocate(held, {n}, ScalarType::Double);
  auto* out = static_cast<double*>(values.mutable_data_ptr());
  const auto tables = factorials_up_to(largest);
  std::array<const std::int64_t*, 6> rows;
  for (std::size_t k = 0; k < 6; ++k) rows[k] = spin + static_cast<std::int64_t>(k) * n;
  const auto& symbol = GRAMIAN_KERNELS(symbol);
  run_pieces(n, kSymbolGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    symbol.symbols(rows.data(), begin, end, tables->view().scaled, out);
  });
  std::vector<std::int64_t> open;
  for (std::int64_t i = 0; i < n; ++i)
    if (std::isnan(out[i])) open.push_back(i);
  if (open.empty()) return values;

  const auto family_of = [&](std::int64_t which) {
    const std::int64_t i = open[static_cast<std::size_t>(which)];
    return shortest_recoupling([&](int k) { return spin[k * n + i]; });
  };
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  std::vector<double> found(open.size());
  run_targets(
      static_cast<std::int64_t>(open.size()), largest + 1,
      [&](const Family* group, std::int32_t lanes, double* scratch, double* result) {
        kernel.sixj(group, lanes, tables->view(), scratch, result, 0);
      },
      family_of, found.data());
  for (std::size_t k = 0; k < open.size(); ++k) out[open[k]] = found[k];
  return values;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kSixjSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj", GRAMIAN_BOX(&simplex_sixj_cpu)); }

}  // namespace gramian
