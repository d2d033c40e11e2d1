// gramian::spectra_shells and spectra_powers, on every device: schemas, and what they ask of their arguments.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "spectra/shells_kernel.h"

namespace gramian {

constexpr const char* kShellsSchema =
    "spectra_shells(Tensor x, Tensor? y, Tensor shell, int shells, int fold) -> Tensor";

// x and y are [b, n1, .., last, 2], contiguous.
inline Element check_modes(const char* op, const Tensor& x, const std::optional<Tensor>& y, std::int64_t fold) {
  if (x.dim() < 3 || x.dim() > kMostAxes + 2 || x.size(x.dim() - 1) != 2)
    refuse(op, ": x must be [b, n1, .., 2] with 1 to ", kMostAxes, " axes, got shape ", shape_text(x));
  const Element element = element_of(op, "x", x, false);
  if (!x.is_contiguous()) refuse(op, ": x must be contiguous");
  if (y.has_value()) {
    check_same(op, "y", *y, "x", x);
    bool fits = y->dim() == x.dim() && y->is_contiguous();
    for (std::int64_t a = 0; fits && a < x.dim(); ++a) fits = y->size(a) == x.size(a);
    if (!fits) refuse(op, ": y must be contiguous with the shape of x ", shape_text(x), ", got shape ", shape_text(*y));
  }
  if (fold < 0 || fold > 2) refuse(op, ": fold must be 0, 1 or 2, got ", fold);
  return element;
}

template <class T>
Modes<T> modes_of(const Tensor& x, const std::optional<Tensor>& y, std::int64_t fold) {
  const auto at = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
  return {at(x), y.has_value() ? at(*y) : nullptr, x.size(x.dim() - 2), static_cast<Fold>(fold)};
}

// shell is [n/2 + 1 of every axis, or what is kept of a folded last one], int32.
inline Element check_shells(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                            std::int64_t fold) {
  constexpr const char* kOp = "shells";
  const Element element = check_modes(kOp, x, y, fold);
  const std::int64_t axes = x.dim() - 2;
  bool fits = shell.scalar_type() == ScalarType::Int && shell.dim() == axes && shell.is_contiguous();
  for (std::int64_t a = 0; fits && a < axes; ++a) {
    const std::int64_t n = x.size(a + 1);
    fits = shell.size(a) == (a + 1 == axes && fold > 0 ? n : n / 2 + 1);
  }
  if (!fits)
    refuse(kOp, ": shell must be contiguous int32 [n/2 + 1 of every axis, or what is kept of a folded last one] for x ",
           shape_text(x), ", got ", dtype_text(shell.scalar_type()), " of shape ", shape_text(shell));
  if (shells < 1) refuse(kOp, ": shells must be at least 1, got ", shells);
  if (shell.device() != x.device()) refuse(kOp, ": shell must be on the device of x");
  return element;
}

template <class T>
ShellSum<T> shell_sum_of(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                         std::int64_t fold) {
  ShellSum<T> p{modes_of<T>(x, y, fold), static_cast<int>(shell.dim()), {}, nullptr, 0, shells};
  for (int a = 0; a < p.axes; ++a) p.n[a] = x.size(a + 1);
  p.shell = static_cast<const std::int32_t*>(shell.const_data_ptr());
  p.half = shell.size(p.axes - 1);
  return p;
}

// Of the numbers in `shell`, and of 0.
inline void check_shell_range(std::int32_t least, std::int32_t most, std::int64_t shells) {
  if (least < 0 || most >= shells)
    refuse("shells: shell must be from 0 to ", shells - 1, ", got ", least < 0 ? least : most);
}

}  // namespace gramian
