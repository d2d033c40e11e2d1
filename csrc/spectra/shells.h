// gramian::spectra_shells, on every device: its schema, and what it asks of its arguments.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "spectra/shells_kernel.h"

namespace gramian {

constexpr const char* kShellsSchema =
    "spectra_shells(Tensor x, Tensor? y, Tensor shell, int shells, int fold) -> Tensor";

// x and y are [b, rows, last, 2], contiguous; shell is [rows, last], int32.
inline Element check_shells(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                            std::int64_t fold) {
  constexpr const char* kOp = "shells";
  if (x.dim() != 4 || x.size(3) != 2) refuse(kOp, ": x must be [b, rows, last, 2], got shape ", shape_text(x));
  const Element element = element_of(kOp, "x", x, false);
  if (!x.is_contiguous()) refuse(kOp, ": x must be contiguous");
  if (y.has_value()) {
    check_same(kOp, "y", *y, "x", x);
    if (y->dim() != 4 || y->size(0) != x.size(0) || y->size(1) != x.size(1) || y->size(2) != x.size(2) ||
        y->size(3) != 2 || !y->is_contiguous())
      refuse(kOp, ": y must be contiguous with the shape of x ", shape_text(x), ", got shape ", shape_text(*y));
  }
  if (shell.scalar_type() != ScalarType::Int || shell.dim() != 2 || shell.size(0) != x.size(1) ||
      shell.size(1) != x.size(2) || !shell.is_contiguous())
    refuse(kOp, ": shell must be contiguous int32 [", x.size(1), ", ", x.size(2), "], got ",
           dtype_text(shell.scalar_type()), " of shape ", shape_text(shell));
  if (shells < 1) refuse(kOp, ": shells must be at least 1, got ", shells);
  if (fold < 0 || fold > 2) refuse(kOp, ": fold must be 0, 1 or 2, got ", fold);
  if (shell.device() != x.device()) refuse(kOp, ": shell must be on the device of x");
  return element;
}

// Of the numbers in `shell`, and of 0.
inline void check_shell_range(std::int32_t least, std::int32_t most, std::int64_t shells) {
  if (least < 0 || most >= shells)
    refuse("shells: shell must be from 0 to ", shells - 1, ", got ", least < 0 ? least : most);
}

}  // namespace gramian
