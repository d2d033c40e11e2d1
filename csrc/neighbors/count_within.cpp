// gramian::neighbors_count_within: how many rows lie within a radius of each row.
#include "neighbors/count_within.h"

#include "core/workspace.h"
#include "neighbors/count_within_kernel.h"

namespace gramian {
namespace {

constexpr const char* kOp = "count_within";

template <class T>
const CountKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(count_within_f32);
  else
    return GRAMIAN_KERNELS(count_within_f64);
}

template <class T>
void count(const Rows& x, const std::optional<Rows>& y, Metric metric, Sweep sweep, bool itself, const T* radius,
           std::int64_t* counts) {
  const PairSet<T> set(kOp, x, y, metric, sweep);
  const Pairs<T>& pairs = set.pairs();
  const std::int64_t n = x.rows, m = pairs.y.rows.rows;
  std::vector<T> inside(static_cast<std::size_t>(n + kPadding), std::numeric_limits<T>::infinity());
  std::vector<T> not_beyond = inside;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    counts[i] = itself && radius[i] >= 0 ? 1 : 0;
    const auto [score, rounding] = set.score_at(set.x_data(), i, radius[i]);
    const double slack = static_cast<double>(set.slack()[i]) + rounding;
    const bool everywhere = radius[i] == std::numeric_limits<T>::infinity();
    inside[i] = everywhere ? -radius[i] : static_cast<T>(score + slack);
    not_beyond[i] = everywhere ? -radius[i] : static_cast<T>(score - slack);
  }
  const CountProblem<T> problem{pairs, radius, inside.data(), not_beyond.data()};

  const std::int64_t y_block = block_rows(m, 4 * worker_count(m)),
                     x_block = y ? block_rows(n, 4 * worker_count(n)) : y_block;
  const std::int64_t x_blocks = block_count(n, x_block), y_blocks = block_count(m, y_block);
  Schedule schedule(sweep, x_blocks, y_blocks);
  const std::int64_t workers = worker_count(schedule.size());
  const Workspace scratch(workers, kernels<T>().scratch(x_block, y_block, x.cols));
  run_sweep(schedule, workers, [&](const BlockPair& b, std::int64_t worker) {
    const std::int64_t i = b.i * x_block, j = b.j * y_block;
    kernels<T>().block(problem, i, std::min(x_block, n - i), j, std::min(y_block, m - j), scratch.of(worker), counts);
  });
}

Tensor neighbors_count_within_cpu(const Tensor& x, const Tensor& radius, const std::optional<Tensor>& y_given,
                                  const std::string& metric_name, bool exclude_self) {
  const CountWithinCall call(x, radius, y_given, metric_name, exclude_self);
  Tensor counts = allocate(x, call.shape, ScalarType::Long);
  const Tensor radii = torch::stable::contiguous(radius);
  const std::int64_t n = call.n;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* r = static_cast<const T*>(radii.const_data_ptr());
    for (std::int64_t i = 0; i < call.batches * n; ++i) CountWithinCall::check_radius(r[i], i % n);
    for (std::int64_t b = 0; b < call.batches; ++b) {
      std::optional<Rows> base;
      if (!call.self) base = rows_of(*y_given, call.element, b);
      count<T>(rows_of(x, call.element, b), base, call.metric, call.self ? Sweep::symmetric : Sweep::full,
               call.self && !exclude_self, r + b * n, static_cast<std::int64_t*>(counts.mutable_data_ptr()) + b * n);
    }
  };
  if (n > 0 && call.batches > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return counts;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kCountWithinSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("neighbors_count_within", GRAMIAN_BOX(&neighbors_count_within_cpu));
}

}  // namespace gramian
