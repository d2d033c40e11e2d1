// gramian::simplex_weight4: action and log volume of 4-simplices from edge lengths and face labels.
#include <tuple>
#include <vector>

#include "simplex/weight4.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> simplex_weight4_cpu(const Tensor& lengths, const Tensor& labels, bool squared) {
  check_weight4("weight4", lengths, labels);
  const Tensor x = torch::stable::contiguous(lengths), s = torch::stable::contiguous(labels);
  const std::vector<std::int64_t> shape = batch_shape(lengths);
  Tensor action = torch::stable::new_empty(x, shape), log_volume = torch::stable::new_empty(x, shape);
  Weight4Problem problem{};
  problem.lengths = static_cast<const double*>(x.const_data_ptr());
  problem.labels = static_cast<const double*>(s.const_data_ptr());
  problem.squared = squared;
  problem.action = static_cast<double*>(action.mutable_data_ptr());
  problem.log_volume = static_cast<double*>(log_volume.mutable_data_ptr());
  const auto& kernel = GRAMIAN_KERNELS(weight4);
  run_pieces(x.numel() / kEdges4, kSimplexGrain,
             [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel.forward(problem, begin, end); });
  return {action, log_volume};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("simplex_weight4(Tensor lengths, Tensor labels, bool squared=False) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_weight4", TORCH_BOX(&simplex_weight4_cpu)); }

}  // namespace gramian
