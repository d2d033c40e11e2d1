// gramian::information_pairwise_scores: a critic with two hidden layers on all pairs (i, j), and what its units did.
#include <tuple>

#include "core/parallel.h"
#include "core/workspace.h"
#include "information/critic.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor> information_pairwise_scores_cpu(const Tensor& a_given, const Tensor& b_given,
                                                           const Tensor& w2_given, const Tensor& b2_given,
                                                           const Tensor& w3_given, bool keep_mask) {
  CriticCall call(a_given, b_given, w2_given, b2_given, w3_given, keep_mask);
  const std::int64_t n = call.n, m = call.m;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto& kernel = critic_kernels<T>();
    const CriticProblem<T> problem = call.critic.problem<T>();
    const Workspace packed(1, kernel.packed_size(problem) * static_cast<std::int64_t>(sizeof(T)));
    T* const panels = static_cast<T*>(packed.of(0));
    kernel.pack(problem, panels);
    const std::int64_t workers = worker_count(n);
    const Workspace scratch(workers, kernel.forward_scratch(problem) * static_cast<std::int64_t>(sizeof(T)));
    auto* const to = static_cast<T*>(call.scores.mutable_data_ptr());
    auto* const bits = static_cast<std::uint32_t*>(call.mask.mutable_data_ptr());
    run_pieces(n, 1, [&](std::int64_t i, std::int64_t, std::int64_t worker) {
      kernel.forward(problem, panels, i, to + i * m, keep_mask ? bits + i * call.words : nullptr,
                     static_cast<T*>(scratch.of(worker)));
    });
  };
  if (n > 0 && m > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.scores, call.mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kPairwiseScoresSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("information_pairwise_scores", GRAMIAN_BOX(&information_pairwise_scores_cpu));
}

}  // namespace gramian
