// gramian::simplex_weight4_backward: gradients of action and log volume, pulled back to lengths and labels.
#include <tuple>

#include "core/parallel.h"
#include "core/workspace.h"
#include "simplex/weight4.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> simplex_weight4_backward_cpu(const Tensor& lengths, const Tensor& labels,
                                                        const Tensor& grad_action, const Tensor& grad_log_volume,
                                                        bool squared) {
  const Weight4BackwardCall call(lengths, labels, grad_action, grad_log_volume, squared);
  for (double* grad : {call.problem.grad_lengths, call.problem.grad_labels})
    prefer_huge_pages(grad, static_cast<std::size_t>(call.n * kEdges4) * sizeof(double));
  const auto& kernel = GRAMIAN_KERNELS(weight4);
  run_pieces(call.n, kSimplexGrain,
             [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel.backward(call.problem, begin, end); });
  return {call.grad_lengths, call.grad_labels};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kWeight4BackwardSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("simplex_weight4_backward", GRAMIAN_BOX(&simplex_weight4_backward_cpu));
}

}  // namespace gramian
