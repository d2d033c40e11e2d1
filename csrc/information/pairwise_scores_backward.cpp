// gramian::information_pairwise_scores_backward: the gradient of Σ grad_ij S_ij by all that the critic is made of.
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "information/critic.h"

namespace gramian {
namespace {

// Rows of one partial sum: their number must not depend on that of the threads, and each costs (m + h2) h values.
constexpr std::int64_t kRowsOfPartial = 32, kMostPartials = 64;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> information_pairwise_scores_backward_cpu(
    const Tensor& grad_given, const Tensor& a_given, const Tensor& b_given, const Tensor& w2_given,
    const Tensor& b2_given, const Tensor& w3_given, const Tensor& mask_given) {
  CriticBackwardCall call(grad_given, a_given, b_given, w2_given, b2_given, w3_given, mask_given);
  const std::int64_t n = call.n, m = call.m, h = call.h, h2 = call.h2;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    const auto& kernel = critic_kernels<T>();
    const CriticProblem<T> p = call.critic.problem<T>();
    const Workspace packed(1, kernel.packed_size(p) * kBytes);
    T* const panels = static_cast<T*>(packed.of(0));
    kernel.pack(p, panels);
    const std::int64_t wanted = std::clamp<std::int64_t>(n / kRowsOfPartial, 1, kMostPartials);
    const std::int64_t rows = (n + wanted - 1) / wanted, count = (n + rows - 1) / rows, stride = kernel.partial_size(p);
    const Workspace sums(1, count * stride * kBytes);
    const Workspace scratch(worker_count(count), kernel.backward_scratch(p) * kBytes);
    T* const partials = static_cast<T*>(sums.of(0));
    const auto out = [](Tensor& t) { return static_cast<T*>(t.mutable_data_ptr()); };
    run_pieces(n, rows, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      kernel.backward(p, panels, begin, end, call.words(), static_cast<const T*>(call.grad.const_data_ptr()),
                      out(call.grad_a), partials + begin / rows * stride, static_cast<T*>(scratch.of(worker)));
    });
    run_pieces(pair_blocks(m), 1, [&](std::int64_t block, std::int64_t, std::int64_t) {
      kernel.finish_b(p, partials, count, block, out(call.grad_b));
    });
    // S = w3 . z at work: with the products P = Σ h1 Qᵀ, dW2 = P w3 and dw3 = Σ_k W2 P + b2 Σ Q. No second pass over pairs.
    std::vector<double> products(static_cast<std::size_t>(h * h2)), q(static_cast<std::size_t>(h2)), w3_sum;
    kernel.finish_w(p, partials, count, products.data(), q.data());
    w3_sum.resize(q.size());
    for (std::int64_t k = 0; k < h; ++k)
      for (std::int64_t u = 0; u < h2; ++u) {
        const double product = products[static_cast<std::size_t>(k * h2 + u)];
        out(call.grad_w2)[k * h2 + u] = static_cast<T>(product * p.w3[u]);
        w3_sum[static_cast<std::size_t>(u)] += product * p.w2[k * h2 + u];
      }
    for (std::int64_t u = 0; u < h2; ++u) {
      const auto at = static_cast<std::size_t>(u);
      out(call.grad_b2)[u] = static_cast<T>(q[at] * p.w3[u]);
      out(call.grad_w3)[u] = static_cast<T>(w3_sum[at] + q[at] * p.b2[u]);
    }
  };
  if (n > 0 && m > 0) call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.grad_a, call.grad_b, call.grad_w2, call.grad_b2, call.grad_w3};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kPairwiseScoresBackwardSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("information_pairwise_scores_backward", GRAMIAN_BOX(&information_pairwise_scores_backward_cpu));
}

}  // namespace gramian
