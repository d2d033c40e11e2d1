// What the critic's op and its gradient share: checks, and the view that the kernels take.
#pragma once
#include "core/tensor.h"
#include "information/pairwise_scores_kernel.h"

namespace gramian {

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

// Of contiguous tensors.
template <class T>
CriticProblem<T> critic_of(const Tensor& a, const Tensor& b, const Tensor& w2, const Tensor& b2, const Tensor& w3) {
  const auto at = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
  return {at(a), at(b), at(w2), at(b2), at(w3), a.size(0), b.size(0), a.size(1), w2.size(1)};
}

}  // namespace gramian
