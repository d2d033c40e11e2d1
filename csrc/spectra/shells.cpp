// gramian::spectra_shells: power or cross power of Fourier modes, summed over shells.
#include <vector>

#include "core/parallel.h"
#include "spectra/shells.h"

namespace gramian {
namespace {

template <class T>
void sum_shells(void (*kernel)(const ShellSum<T>&, std::int64_t, std::int64_t, double*), const Tensor& x,
                const Tensor* y, const Tensor& shell, std::int64_t shells, Fold fold, Tensor& out) {
  constexpr std::int64_t kModesEach = 1 << 16, kMostParts = 16;  // of one item; fixed, so that sums round the same
  const std::int64_t batch = x.size(0), rows = x.size(1), last = x.size(2), parts_of_sum = y == nullptr ? 1 : 2;
  const std::int64_t parts =
      std::clamp<std::int64_t>(rows * last / kModesEach, 1, std::min(kMostParts, std::max<std::int64_t>(rows, 1)));
  const std::int64_t per_part = block_count(rows, parts), size = shells * parts_of_sum;
  std::vector<double> sums(static_cast<std::size_t>(batch * parts * kShellCopies * size));
  run_pieces(batch * parts, 1, [&](std::int64_t at, std::int64_t, std::int64_t) {
    const std::int64_t item = at / parts, begin = at % parts * per_part, end = std::min(rows, begin + per_part);
    const auto modes = [&](const Tensor& t) {
      return static_cast<const T*>(t.const_data_ptr()) + item * rows * last * 2;
    };
    const ShellSum<T> p{modes(x),
                        y == nullptr ? nullptr : modes(*y),
                        static_cast<const std::int32_t*>(shell.const_data_ptr()),
                        last,
                        shells,
                        fold};
    if (begin < end) kernel(p, begin, end, sums.data() + at * kShellCopies * size);
  });
  T* const to = static_cast<T*>(out.mutable_data_ptr());
  for (std::int64_t item = 0; item < batch; ++item)
    for (std::int64_t i = 0; i < size; ++i) {
      double total = 0;
      for (std::int64_t copy = 0; copy < parts * kShellCopies; ++copy)
        total += sums[static_cast<std::size_t>((item * parts * kShellCopies + copy) * size + i)];
      to[item * size + i] = static_cast<T>(total);
    }
}

Tensor spectra_shells_cpu(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                          std::int64_t fold) {
  const Element element = check_shells(x, y, shell, shells, fold);
  const std::int64_t modes = shell.size(0) * shell.size(1);
  const auto* const number = static_cast<const std::int32_t*>(shell.const_data_ptr());
  std::int32_t least = 0, most = 0;
  for (std::int64_t i = 0; i < modes; ++i) least = std::min(least, number[i]), most = std::max(most, number[i]);
  check_shell_range(least, most, shells);

  Tensor out = torch::stable::new_zeros(x, {x.size(0), shells, y.has_value() ? 2 : 1});
  if (modes == 0) return out;
  const Tensor* const other = y.has_value() ? &*y : nullptr;
  if (element == Element::f64)
    sum_shells<double>(GRAMIAN_KERNELS(shells).f64, x, other, shell, shells, static_cast<Fold>(fold), out);
  else
    sum_shells<float>(GRAMIAN_KERNELS(shells).f32, x, other, shell, shells, static_cast<Fold>(fold), out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kShellsSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_shells", GRAMIAN_BOX(&spectra_shells_cpu)); }

}  // namespace gramian
