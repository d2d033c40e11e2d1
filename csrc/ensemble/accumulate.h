// gramian::ensemble_accumulate_, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "ensemble/accumulate_kernel.h"

namespace gramian {

constexpr const char* kAccumulateSchema =
    "ensemble_accumulate_(Tensor predictions, Tensor? target, Tensor(a!) sums, Tensor(b!)? squares) -> ()";

struct AccumulateCall {
  Element element;
  std::int64_t n, c;
  Tensor read;
  std::optional<Tensor> aim;
  Tensor sums;
  std::optional<Tensor> squares;

  AccumulateCall(const Tensor& predictions, const std::optional<Tensor>& target, const Tensor& sums_given,
                 const std::optional<Tensor>& squares_given)
      : sums(sums_given), squares(squares_given) {
    if (predictions.dim() != 3) refuse(kOp, ": predictions must be [m, n, c], got shape ", shape_text(predictions));
    element = element_of(kOp, "predictions", predictions, false);
    n = predictions.size(1), c = predictions.size(2);
    if (target.has_value()) {
      if (target->dim() != 2 || target->size(0) != n || target->size(1) != c)
        refuse(kOp, ": target must be [n, c] like predictions ", shape_text(predictions), ", got shape ",
               shape_text(*target));
      check_same(kOp, "target", *target, "predictions", predictions);
    }
    check_state("sums", sums, predictions, 2);
    if (squares.has_value() != target.has_value())
      refuse(kOp, ": squares must be given with target, and only then, got ",
             squares.has_value() ? "no target" : "None");
    if (squares.has_value()) check_state("squares", *squares, predictions, 1);
    const bool in_place = predictions.stride(2) == 1 && predictions.stride(1) == c;
    read = in_place ? predictions : torch::stable::contiguous(predictions);
    if (target.has_value()) aim = torch::stable::contiguous(*target);
  }

  bool empty() const { return read.numel() == 0; }

  template <class T>
  AccumulateProblem<T> problem() {
    return {static_cast<const T*>(read.const_data_ptr()),
            read.size(0),
            read.stride(0),
            aim.has_value() ? static_cast<const T*>(aim->const_data_ptr()) : nullptr,
            c,
            static_cast<double*>(sums.mutable_data_ptr()),
            squares.has_value() ? static_cast<double*>(squares->mutable_data_ptr()) : nullptr};
  }

 private:
  static constexpr const char* kOp = "accumulate_";

  static void check_state(const char* name, const Tensor& t, const Tensor& predictions, std::int64_t dim) {
    bool fits = t.dim() == dim && t.is_contiguous() && t.scalar_type() == ScalarType::Double;
    for (std::int64_t axis = 0; fits && axis < dim; ++axis) fits = t.size(axis) == predictions.size(axis + 1);
    if (!fits)
      refuse(kOp, ": ", name, " must be contiguous float64 ", dim == 2 ? "[n, c]" : "[n]", " for predictions of shape ",
             shape_text(predictions), ", got ", dtype_text(t.scalar_type()), " ", shape_text(t));
    if (t.device() != predictions.device()) refuse(kOp, ": ", name, " must be on the device of predictions");
  }
};

}  // namespace gramian
