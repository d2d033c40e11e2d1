// gramian::simplex_weight4: action and log volume of 4-simplices from edge lengths and face labels.
#include "simplex/weight4.h"

#include <tuple>

#include "core/parallel.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> simplex_weight4_cpu(const Tensor& lengths, const Tensor& labels, bool squared) {
  const Weight4Call call(lengths, labels, squared);
  const auto& kernel = GRAMIAN_KERNELS(weight4);
  run_pieces(call.n, kSimplexGrain,
             [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel.forward(call.problem, begin, end); });
  return {call.action, call.log_volume};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kWeight4Schema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_weight4", GRAMIAN_BOX(&simplex_weight4_cpu)); }

}  // namespace gramian
