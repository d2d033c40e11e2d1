// gramian::simplex_sixj_blocks: all 6j symbols that share four spins, as whole orthogonal matrices.
#include <tuple>

#include "simplex/sixj.h"

namespace gramian {
namespace {

constexpr std::int64_t kBlockGrain = 64;

// values: the matrices one after the other, each over j1 and l1 up to `limit`; offsets [n + 1]: where they begin.
std::tuple<Tensor, Tensor> simplex_sixj_blocks_cpu(const Tensor& blocks, std::int64_t limit) {
  constexpr const char* kOp = "sixj_blocks";
  check_spins(kOp, "blocks", blocks, 4);
  if (limit < 0) refuse(kOp, ": limit must not be negative, got ", limit);
  const Tensor held = torch::stable::contiguous(blocks);
  const std::int64_t n = held.size(1);
  const auto* spin = static_cast<const std::int64_t*>(held.const_data_ptr());
  const std::int64_t largest = largest_spin(kOp, "blocks", spin, 4 * n);
  const FactorialTables tables(2 * largest);  // j1 and l1 reach the sums of two
  struct Shape {
    std::int64_t first, last, column, column_last, rows, cols;
  };
  const auto shape_of = [&](std::int64_t i) {
    const std::int64_t a = spin[i], b = spin[n + i], c = spin[2 * n + i], d = spin[3 * n + i];
    Shape s{std::max(std::abs(a - b), std::abs(c - d)),
            std::min(a + b, c + d),
            std::max(std::abs(a - d), std::abs(c - b)),
            std::min(a + d, c + b),
            0,
            0};
    if ((a + b + c + d) % 2 == 0 && s.first <= s.last && s.column <= s.column_last) {
      s.rows = std::max<std::int64_t>(0, (std::min(s.last, limit) - s.first + 2) / 2);
      s.cols = std::max<std::int64_t>(0, (std::min(s.column_last, limit) - s.column + 2) / 2);
    }
    return s;
  };
  Tensor offsets = torch::stable::new_empty(held, {n + 1}, ScalarType::Long);
  auto* offset = static_cast<std::int64_t*>(offsets.mutable_data_ptr());
  std::int64_t total = 0, longest = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const Shape s = shape_of(i);
    offset[i] = total;
    total += s.rows * s.cols;
    if (s.rows * s.cols > 0) longest = std::max(longest, (s.last - s.first) / 2 + 1);
  }
  offset[n] = total;
  Tensor values = torch::stable::new_empty(held, {total}, ScalarType::Double);
  auto* out = static_cast<double*>(values.mutable_data_ptr());
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const Workspace scratch(worker_count((n + kBlockGrain - 1) / kBlockGrain), 8 * kernel.scratch(longest));
  run_pieces(n, kBlockGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Shape s = shape_of(i);
      if (s.rows * s.cols == 0) continue;
      const auto narrow = [](std::int64_t v) { return static_cast<std::int32_t>(v); };
      const Family family{{narrow(spin[i]), narrow(spin[n + i]), narrow(spin[2 * n + i]), narrow(spin[3 * n + i])},
                          narrow(s.column),
                          narrow(s.first),
                          narrow((s.last - s.first) / 2 + 1),
                          0,
                          1};
      kernel.block(family, s.rows, s.cols, tables.view(), static_cast<double*>(scratch.of(worker)), out + offset[i]);
    }
  });
  return {values, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("simplex_sixj_blocks(Tensor blocks, int limit) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj_blocks", TORCH_BOX(&simplex_sixj_blocks_cpu)); }

}  // namespace gramian
