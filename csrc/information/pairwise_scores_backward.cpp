// gramian::information_pairwise_scores_backward: the gradient of Σ grad_ij S_ij by all that the critic is made of.
#include <tuple>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "information/critic.h"

namespace gramian {
namespace {

constexpr const char* kOp = "pairwise_scores_backward";

// Rows of one partial sum: their number must not depend on that of the threads, and each costs (m + h2) h values.
constexpr std::int64_t kRowsOfPartial = 32, kMostPartials = 64;

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> information_pairwise_scores_backward_cpu(
    const Tensor& grad_given, const Tensor& a_given, const Tensor& b_given, const Tensor& w2_given,
    const Tensor& b2_given, const Tensor& w3_given, const Tensor& mask_given) {
  const Element element = check_critic(kOp, a_given, b_given, w2_given, b2_given, w3_given);
  const std::int64_t n = a_given.size(0), m = b_given.size(0), h = a_given.size(1), h2 = w2_given.size(1);
  if (grad_given.dim() != 2 || grad_given.size(0) != n || grad_given.size(1) != m)
    refuse(kOp, ": grad must be [", n, ", ", m, "], got shape ", shape_text(grad_given));
  check_same(kOp, "grad", grad_given, "a", a_given);
  const bool masked = mask_given.dim() == 2 && mask_given.size(1) > 0;
  if (mask_given.scalar_type() != ScalarType::Int || mask_given.dim() != 2 || mask_given.size(0) != n ||
      (masked && mask_given.size(1) != pair_blocks(m) * h2))
    refuse(kOp, ": mask must be int32 [", n, ", ", pair_blocks(m) * h2, "] or [", n, ", 0], got shape ",
           shape_text(mask_given));
  const Tensor grad = torch::stable::contiguous(grad_given), a = torch::stable::contiguous(a_given),
               b = torch::stable::contiguous(b_given), w2 = torch::stable::contiguous(w2_given),
               b2 = torch::stable::contiguous(b2_given), w3 = torch::stable::contiguous(w3_given),
               mask = torch::stable::contiguous(mask_given);
  Tensor grad_a = torch::stable::new_zeros(a, {n, h}), grad_b = torch::stable::new_zeros(a, {m, h}),
         grad_w2 = torch::stable::new_zeros(a, {h, h2}), grad_b2 = torch::stable::new_zeros(a, {h2}),
         grad_w3 = torch::stable::new_zeros(a, {h2});
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    const auto& kernel = critic_kernels<T>();
    const CriticProblem<T> p = critic_of<T>(a, b, w2, b2, w3);
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
      kernel.backward(p, panels, begin, end,
                      masked ? static_cast<const std::uint32_t*>(mask.const_data_ptr()) : nullptr,
                      static_cast<const T*>(grad.const_data_ptr()), out(grad_a), partials + begin / rows * stride,
                      static_cast<T*>(scratch.of(worker)));
    });
    run_pieces(pair_blocks(m), 1, [&](std::int64_t block, std::int64_t, std::int64_t) {
      kernel.finish_b(p, partials, count, block, out(grad_b));
    });
    // S = w3 . z at work: with the products P = Σ h1 Qᵀ, dW2 = P w3 and dw3 = Σ_k W2 P + b2 Σ Q. No second pass over pairs.
    std::vector<double> products(static_cast<std::size_t>(h * h2)), q(static_cast<std::size_t>(h2)), w3_sum;
    kernel.finish_w(p, partials, count, products.data(), q.data());
    w3_sum.resize(q.size());
    for (std::int64_t k = 0; k < h; ++k)
      for (std::int64_t u = 0; u < h2; ++u) {
        const double product = products[static_cast<std::size_t>(k * h2 + u)];
        out(grad_w2)[k * h2 + u] = static_cast<T>(product * p.w3[u]);
        w3_sum[static_cast<std::size_t>(u)] += product * p.w2[k * h2 + u];
      }
    for (std::int64_t u = 0; u < h2; ++u) {
      const auto at = static_cast<std::size_t>(u);
      out(grad_b2)[u] = static_cast<T>(q[at] * p.w3[u]);
      out(grad_w3)[u] = static_cast<T>(w3_sum[at] + q[at] * p.b2[u]);
    }
  };
  if (n > 0 && m > 0) element == Element::f64 ? run(0.0) : run(0.0F);
  return {grad_a, grad_b, grad_w2, grad_b2, grad_w3};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "information_pairwise_scores_backward(Tensor grad, Tensor a, Tensor b, Tensor w2, Tensor b2, Tensor w3, Tensor "
      "mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("information_pairwise_scores_backward", GRAMIAN_BOX(&information_pairwise_scores_backward_cpu));
}

}  // namespace gramian
