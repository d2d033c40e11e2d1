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
  const std::int64_t largest = bound_of_spins(kOp, "blocks", spin, 4 * n);
  const auto tables = factorials_up_to(2 * largest);  // j1 and l1 reach the sums of two
  const auto block_of = [&](std::int64_t i) {
    return Block(spin[i], spin[n + i], spin[2 * n + i], spin[3 * n + i], limit);
  };
  Tensor offsets = allocate(held, {n + 1}, ScalarType::Long);
  auto* offset = static_cast<std::int64_t*>(offsets.mutable_data_ptr());
  std::int64_t total = 0, longest = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    const Block block = block_of(i);
    offset[i] = total;
    total += block.size();
    if (block.size() > 0) longest = std::max<std::int64_t>(longest, block.family.count);
  }
  offset[n] = total;
  Tensor values = allocate(held, {total}, ScalarType::Double);
  auto* out = static_cast<double*>(values.mutable_data_ptr());
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const Workspace scratch(worker_count((n + kBlockGrain - 1) / kBlockGrain), 8 * kernel.scratch(longest));
  run_pieces(n, kBlockGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Block block = block_of(i);
      if (block.size() > 0)
        kernel.block(block.family, block.rows, block.cols, tables->view(), static_cast<double*>(scratch.of(worker)),
                     out + offset[i]);
    }
  });
  return {values, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kSixjBlocksSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj_blocks", GRAMIAN_BOX(&simplex_sixj_blocks_cpu)); }

}  // namespace gramian
