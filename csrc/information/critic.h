// The ops of the critic of all pairs, on every device: their schemas, what they ask of their arguments, and the view that the
// kernels take.
#pragma once
#include "core/tensor.h"
#include "information/pairwise_scores_kernel.h"

namespace gramian {

constexpr const char* kPairwiseScoresSchema =
    "information_pairwise_scores(Tensor a, Tensor b, Tensor w2, Tensor b2, Tensor w3, bool keep_mask) -> (Tensor, "
    "Tensor)";
constexpr const char* kPairwiseScoresBackwardSchema =
    "information_pairwise_scores_backward(Tensor grad, Tensor a, Tensor b, Tensor w2, Tensor b2, Tensor w3, Tensor "
    "mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)";

inline Element check_critic(const char* op, const Tensor& a, const Tensor& b, const Tensor& w2, const Tensor& b2,
                            const Tensor& w3) {
  if (a.dim() != 2) refuse(op, ": a must be [n, h], got shape ", shape_text(a));
  const Element element = element_of(op, "a", a, false);
  const std::int64_t h = a.size(1);
  if (b.dim() != 2 || b.size(1) != h)
    refuse(op, ": b must be [m, h] with h = ", h, " like a, got shape ", shape_text(b));
  if (w2.dim() != 2 || w2.size(0) != h)
    refuse(op, ": w2 must be [h, h2] with h = ", h, " like a, got shape ", shape_text(w2));
  const std::int64_t h2 = w2.size(1);
  if (b2.dim() != 1 || b2.size(0) != h2) refuse(op, ": b2 must be [", h2, "], got shape ", shape_text(b2));
  if (w3.dim() != 1 || w3.size(0) != h2) refuse(op, ": w3 must be [", h2, "], got shape ", shape_text(w3));
  check_same(op, "b", b, "a", a);
  check_same(op, "w2", w2, "a", a);
  check_same(op, "b2", b2, "a", a);
  check_same(op, "w3", w3, "a", a);
  return element;
}

// The critic's tensors, contiguous.
struct CriticTensors {
  Tensor a, b, w2, b2, w3;

  CriticTensors(const Tensor& a_given, const Tensor& b_given, const Tensor& w2_given, const Tensor& b2_given,
                const Tensor& w3_given)
      : a(torch::stable::contiguous(a_given)),
        b(torch::stable::contiguous(b_given)),
        w2(torch::stable::contiguous(w2_given)),
        b2(torch::stable::contiguous(b2_given)),
        w3(torch::stable::contiguous(w3_given)) {}

  template <class T>
  CriticProblem<T> problem() const {
    const auto at = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
    return {at(a), at(b), at(w2), at(b2), at(w3), a.size(0), b.size(0), a.size(1), w2.size(1)};
  }
};

struct CriticCall {
  Element element;
  CriticTensors critic;
  std::int64_t n, m, words;  // of a row of the mask
  Tensor scores, mask;

  CriticCall(const Tensor& a, const Tensor& b, const Tensor& w2, const Tensor& b2, const Tensor& w3, bool keep_mask)
      : element(check_critic("pairwise_scores", a, b, w2, b2, w3)),
        critic(a, b, w2, b2, w3),
        n(a.size(0)),
        m(b.size(0)),
        words(keep_mask ? pair_blocks(m) * w2.size(1) : 0),
        scores(allocate(critic.a, {n, m})),
        mask(allocate(critic.a, {n, words}, ScalarType::Int)) {}
};

struct CriticBackwardCall {
  Element element;
  CriticTensors critic;
  std::int64_t n, m, h, h2;
  bool masked;
  Tensor grad, mask, grad_a, grad_b, grad_w2, grad_b2, grad_w3;

  CriticBackwardCall(const Tensor& grad_given, const Tensor& a, const Tensor& b, const Tensor& w2, const Tensor& b2,
                     const Tensor& w3, const Tensor& mask_given)
      : element(check_critic(kOp, a, b, w2, b2, w3)),
        critic(a, b, w2, b2, w3),
        n(a.size(0)),
        m(b.size(0)),
        h(a.size(1)),
        h2(w2.size(1)),
        masked(mask_given.dim() == 2 && mask_given.size(1) > 0) {
    if (grad_given.dim() != 2 || grad_given.size(0) != n || grad_given.size(1) != m)
      refuse(kOp, ": grad must be [", n, ", ", m, "], got shape ", shape_text(grad_given));
    check_same(kOp, "grad", grad_given, "a", a);
    if (mask_given.scalar_type() != ScalarType::Int || mask_given.dim() != 2 || mask_given.size(0) != n ||
        (masked && mask_given.size(1) != pair_blocks(m) * h2))
      refuse(kOp, ": mask must be int32 [", n, ", ", pair_blocks(m) * h2, "] or [", n, ", 0], got shape ",
             shape_text(mask_given));
    if (mask_given.device() != a.device()) refuse(kOp, ": mask must be on the device of a");
    grad = torch::stable::contiguous(grad_given), mask = torch::stable::contiguous(mask_given);
    grad_a = allocate_zeros(critic.a, {n, h}), grad_b = allocate_zeros(critic.a, {m, h});
    grad_w2 = allocate_zeros(critic.a, {h, h2}), grad_b2 = allocate_zeros(critic.a, {h2});
    grad_w3 = allocate_zeros(critic.a, {h2});
  }

  const std::uint32_t* words() const {
    return masked ? static_cast<const std::uint32_t*>(mask.const_data_ptr()) : nullptr;
  }

 private:
  static constexpr const char* kOp = "pairwise_scores_backward";
};

}  // namespace gramian
