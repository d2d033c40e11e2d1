// gramian::gram_square_sum, on every device: its schema, and what it asks of its arguments.
#pragma once
#include "core/tensor.h"

namespace gramian {

constexpr const char* kGramSquareSumSchema = "gram_square_sum(Tensor x, Tensor y) -> Tensor";

inline Element check_gram_square_sum(const Tensor& x, const Tensor& y) {
  constexpr const char* kOp = "gram_square_sum";
  if (x.dim() != 2) refuse(kOp, ": x must be [n, d], got shape ", shape_text(x));
  if (y.dim() != 2) refuse(kOp, ": y must be [m, d], got shape ", shape_text(y));
  const Element element = element_of(kOp, "x", x);
  check_same(kOp, "y", y, "x", x);
  if (y.size(1) != x.size(1)) refuse(kOp, ": y must have d = ", x.size(1), " columns like x, got ", y.size(1));
  return element;
}

}  // namespace gramian
