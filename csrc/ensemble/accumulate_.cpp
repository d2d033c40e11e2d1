// gramian::ensemble_accumulate_: adds models to the sums from which errors are decomposed into bias and variance.
#include <optional>

#include "core/parallel.h"
#include "core/tensor.h"
#include "ensemble/accumulate_kernel.h"

namespace gramian {
namespace {

constexpr const char* kOp = "accumulate_";
constexpr std::int64_t kGrain = 16384;  // columns of a piece

template <class T>
const AccumulateKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(accumulate_f32);
  else
    return GRAMIAN_KERNELS(accumulate_f64);
}

void check_state(const char* name, const Tensor& t, const Tensor& predictions, std::int64_t dim) {
  bool fits = t.dim() == dim && t.is_contiguous() && t.scalar_type() == ScalarType::Double;
  for (std::int64_t axis = 0; fits && axis < dim; ++axis) fits = t.size(axis) == predictions.size(axis + 1);
  if (!fits)
    refuse(kOp, ": ", name, " must be contiguous float64 ", dim == 2 ? "[n, c]" : "[n]", " for predictions of shape ",
           shape_text(predictions), ", got ", dtype_text(t.scalar_type()), " ", shape_text(t));
  if (t.device() != predictions.device()) refuse(kOp, ": ", name, " must be on the device of predictions");
}

void ensemble_accumulate_cpu(const Tensor& predictions, const std::optional<Tensor>& target, Tensor sums,
                             std::optional<Tensor> squares) {
  if (predictions.dim() != 3) refuse(kOp, ": predictions must be [m, n, c], got shape ", shape_text(predictions));
  const Element element = element_of(kOp, "predictions", predictions, false);
  const std::int64_t n = predictions.size(1), c = predictions.size(2);
  if (target.has_value()) {
    if (target->dim() != 2 || target->size(0) != n || target->size(1) != c)
      refuse(kOp, ": target must be [n, c] like predictions ", shape_text(predictions), ", got shape ",
             shape_text(*target));
    check_same(kOp, "target", *target, "predictions", predictions);
  }
  check_state("sums", sums, predictions, 2);
  if (squares.has_value() != target.has_value())
    refuse(kOp, ": squares must be given with target, and only then, got ", squares.has_value() ? "no target" : "None");
  if (squares.has_value()) check_state("squares", *squares, predictions, 1);
  if (predictions.numel() == 0) return;
  const bool in_place = predictions.stride(2) == 1 && predictions.stride(1) == c;
  const Tensor read = in_place ? predictions : torch::stable::contiguous(predictions);
  const std::optional<Tensor> aim = target.has_value() ? std::optional(torch::stable::contiguous(*target)) : target;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const AccumulateProblem<T> problem{
        static_cast<const T*>(read.const_data_ptr()),
        read.size(0),
        read.stride(0),
        aim.has_value() ? static_cast<const T*>(aim->const_data_ptr()) : nullptr,
        c,
        static_cast<double*>(sums.mutable_data_ptr()),
        squares.has_value() ? static_cast<double*>(squares->mutable_data_ptr()) : nullptr};
    run_pieces(n, std::max<std::int64_t>(1, kGrain / c), [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernels<T>().accumulate(problem, begin, end);
    });
  };
  element == Element::f64 ? run(0.0) : run(0.0F);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("ensemble_accumulate_(Tensor predictions, Tensor? target, Tensor(a!) sums, Tensor(b!)? squares) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("ensemble_accumulate_", GRAMIAN_BOX(&ensemble_accumulate_cpu)); }

}  // namespace gramian
