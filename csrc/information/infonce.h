// gramian::information_infonce, on every device: its schema, and what it asks of its arguments.
#pragma once
#include "core/tensor.h"

namespace gramian {

constexpr const char* kInfonceSchema =
    "information_infonce(Tensor f, Tensor g, bool gradients) -> (Tensor, Tensor, Tensor)";

struct InfonceCall {
  Element element;
  std::int64_t n, d;
  Tensor f, g, grad_f, grad_g;

  InfonceCall(const Tensor& f_given, const Tensor& g_given, bool gradients) {
    constexpr const char* kOp = "infonce";
    if (f_given.dim() != 2) refuse(kOp, ": f must be [n, d], got shape ", shape_text(f_given));
    element = element_of(kOp, "f", f_given, false);
    check_same(kOp, "g", g_given, "f", f_given);
    if (g_given.dim() != 2 || g_given.size(0) != f_given.size(0) || g_given.size(1) != f_given.size(1))
      refuse(kOp, ": g must have the shape of f ", shape_text(f_given), ", got shape ", shape_text(g_given));
    n = f_given.size(0), d = f_given.size(1);
    if (n < 2) refuse(kOp, ": f must have at least 2 rows, got ", n);
    f = torch::stable::contiguous(f_given), g = torch::stable::contiguous(g_given);
    grad_f = allocate(f, {gradients ? n : 0, d});
    grad_g = allocate(f, {gradients ? n : 0, d});
  }
};

}  // namespace gramian
