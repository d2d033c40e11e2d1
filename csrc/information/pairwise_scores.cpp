// gramian::information_pairwise_scores: a critic with two hidden layers on all pairs (i, j), and what its units did.
#include <tuple>

#include "core/parallel.h"
#include "core/workspace.h"
#include "information/critic.h"

namespace gramian {
namespace {

constexpr const char* kOp = "pairwise_scores";

std::tuple<Tensor, Tensor> information_pairwise_scores_cpu(const Tensor& a_given, const Tensor& b_given,
                                                           const Tensor& w2_given, const Tensor& b2_given,
                                                           const Tensor& w3_given, bool keep_mask) {
  const Element element = check_critic(kOp, a_given, b_given, w2_given, b2_given, w3_given);
  const Tensor a = torch::stable::contiguous(a_given), b = torch::stable::contiguous(b_given),
               w2 = torch::stable::contiguous(w2_given), b2 = torch::stable::contiguous(b2_given),
               w3 = torch::stable::contiguous(w3_given);
  const std::int64_t n = a.size(0), m = b.size(0), words = keep_mask ? pair_blocks(m) * w2.size(1) : 0;
  Tensor scores = torch::stable::new_empty(a, {n, m});
  Tensor mask = torch::stable::new_empty(a, {n, words}, ScalarType::Int);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto& kernel = critic_kernels<T>();
    const CriticProblem<T> problem = critic_of<T>(a, b, w2, b2, w3);
    const Workspace packed(1, kernel.packed_size(problem) * static_cast<std::int64_t>(sizeof(T)));
    T* const panels = static_cast<T*>(packed.of(0));
    kernel.pack(problem, panels);
    const std::int64_t workers = worker_count(n);
    const Workspace scratch(workers, kernel.forward_scratch(problem) * static_cast<std::int64_t>(sizeof(T)));
    auto* const to = static_cast<T*>(scores.mutable_data_ptr());
    auto* const bits = static_cast<std::uint32_t*>(mask.mutable_data_ptr());
    run_pieces(n, 1, [&](std::int64_t i, std::int64_t, std::int64_t worker) {
      kernel.forward(problem, panels, i, to + i * m, keep_mask ? bits + i * words : nullptr,
                     static_cast<T*>(scratch.of(worker)));
    });
  };
  if (n > 0 && m > 0) element == Element::f64 ? run(0.0) : run(0.0F);
  return {scores, mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "information_pairwise_scores(Tensor a, Tensor b, Tensor w2, Tensor b2, Tensor w3, bool keep_mask) -> (Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("information_pairwise_scores", GRAMIAN_BOX(&information_pairwise_scores_cpu));
}

}  // namespace gramian
