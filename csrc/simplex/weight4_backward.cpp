// gramian::simplex_weight4_backward: gradients of action and log volume, pulled back to lengths and labels.
#include <tuple>
#include <vector>

#include "simplex/weight4.h"

namespace gramian {
namespace {

constexpr const char* kOp = "weight4_backward";

std::tuple<Tensor, Tensor> simplex_weight4_backward_cpu(const Tensor& lengths, const Tensor& labels,
                                                        const Tensor& grad_action, const Tensor& grad_log_volume,
                                                        bool squared) {
  check_weight4(kOp, lengths, labels);
  const std::int64_t n = lengths.numel() / kEdges4;
  const auto check = [&](const char* name, const Tensor& grad) {
    check_simplices(kOp, name, grad, lengths);
    if (grad.dim() != lengths.dim() - 1 || grad.numel() != n)
      refuse(kOp, ": ", name, " must be [...] like lengths, ", shape_text(lengths), ", got ", shape_text(grad));
  };
  check("grad_action", grad_action);
  check("grad_log_volume", grad_log_volume);
  const Tensor x = torch::stable::contiguous(lengths), s = torch::stable::contiguous(labels),
               by_action = torch::stable::contiguous(grad_action), by_log = torch::stable::contiguous(grad_log_volume);
  std::vector<std::int64_t> shape = batch_shape(lengths);
  shape.push_back(kEdges4);
  Tensor grad_lengths = torch::stable::new_empty(x, shape), grad_labels = torch::stable::new_empty(x, shape);
  Weight4Problem problem{};
  problem.lengths = static_cast<const double*>(x.const_data_ptr());
  problem.labels = static_cast<const double*>(s.const_data_ptr());
  problem.squared = squared;
  problem.grad_action = static_cast<const double*>(by_action.const_data_ptr());
  problem.grad_log_volume = static_cast<const double*>(by_log.const_data_ptr());
  problem.grad_lengths = static_cast<double*>(grad_lengths.mutable_data_ptr());
  problem.grad_labels = static_cast<double*>(grad_labels.mutable_data_ptr());
  const auto& kernel = GRAMIAN_KERNELS(weight4);
  run_pieces(n, kSimplexGrain,
             [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel.backward(problem, begin, end); });
  return {grad_lengths, grad_labels};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "simplex_weight4_backward(Tensor lengths, Tensor labels, Tensor grad_action, Tensor grad_log_volume, "
      "bool squared=False) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("simplex_weight4_backward", TORCH_BOX(&simplex_weight4_backward_cpu));
}

}  // namespace gramian
