// gramian::gram_square_sum: |X Yᵀ|_F^2 without X Yᵀ, the plainest sweep there is.
#include <vector>

#include "core/gram_square_sum.h"
#include "core/parallel.h"
#include "core/probe_kernel.h"
#include "core/workspace.h"

namespace gramian {
namespace {

Tensor gram_square_sum_cpu(const Tensor& x, const Tensor& y) {
  const Element element = check_gram_square_sum(x, y);
  const Rows a = rows_of(x, element), b = rows_of(y, element);
  const auto& kernel = GRAMIAN_KERNELS(probe);
  const std::int64_t a_block = block_rows(a.rows), b_block = block_rows(b.rows);
  const std::int64_t b_blocks = block_count(b.rows, b_block);
  Schedule schedule(Sweep::full, block_count(a.rows, a_block), b_blocks);
  const std::int64_t workers = worker_count(schedule.size());
  const Workspace scratch(workers, kernel.square_sum_scratch(a_block, b_block, a.cols, element));
  std::vector<double> sums(static_cast<std::size_t>(schedule.size()));
  run_sweep(schedule, workers, [&](const BlockPair& block, std::int64_t worker) {
    const std::int64_t i = block.i * a_block, j = block.j * b_block;
    sums[static_cast<std::size_t>(block.i * b_blocks + block.j)] =
        kernel.square_sum(a, i, std::min(a_block, a.rows - i), b, j, std::min(b_block, b.rows - j), scratch.of(worker));
  });
  double total = 0;
  for (const double sum : sums) total += sum;  // in block order, whoever computed them
  return number(x, total, compute_dtype(element));
}

}  // namespace

const ProbeKernels& active_probe() { return GRAMIAN_KERNELS(probe); }

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kGramSquareSumSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("gram_square_sum", GRAMIAN_BOX(&gram_square_sum_cpu)); }

}  // namespace gramian
