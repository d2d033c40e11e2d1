// gramian::spectra_shells: power or cross power of Fourier modes, summed over shells.
#include "spectra/shells.h"

#include <atomic>
#include <vector>

#include "core/parallel.h"

namespace gramian {
namespace {

// False if the table holds a number that is not one of a shell.
template <class T>
bool sum_shells(const ShellsKernels<T>& kernel, const ShellSum<T>& first, std::int64_t batch, std::int64_t modes,
                T* to) {
  constexpr std::int64_t kModesEach = 1 << 16, kMostParts = 16;  // of one item; fixed, so that sums round the same
  std::int64_t rows = 1;
  for (int a = 0; a + 1 < first.axes; ++a) rows *= first.n[a] / 2 + 1;
  const std::int64_t parts = std::clamp<std::int64_t>(modes / kModesEach, 1, std::min(kMostParts, rows));
  const std::int64_t per_part = block_count(rows, parts), size = first.shells * (first.modes.y == nullptr ? 1 : 2);
  std::vector<double> copies(static_cast<std::size_t>(worker_count(batch * parts) * kShellCopies * size));
  std::vector<double> sums(static_cast<std::size_t>(batch * parts * size));
  std::atomic<bool> fits = true;
  run_pieces(batch * parts, 1, [&](std::int64_t at, std::int64_t, std::int64_t worker) {
    const std::int64_t item = at / parts, begin = at % parts * per_part, end = std::min(rows, begin + per_part);
    ShellSum<T> p = first;
    p.modes.x += item * modes * 2;
    if (p.modes.y != nullptr) p.modes.y += item * modes * 2;
    double* const own = copies.data() + worker * kShellCopies * size;
    std::fill_n(own, kShellCopies * size, 0.0);
    if (begin < end && !kernel.sum(p, begin, end, own)) fits = false;
    for (std::int64_t copy = 0; copy < kShellCopies; ++copy)
      for (std::int64_t i = 0; i < size; ++i) sums[static_cast<std::size_t>(at * size + i)] += own[copy * size + i];
  });
  const double times = first.modes.fold == Fold::none ? 1 : 2;
  for (std::int64_t item = 0; item < batch; ++item)
    for (std::int64_t i = 0; i < size; ++i) {
      double total = 0;
      for (std::int64_t part = 0; part < parts; ++part)
        total += sums[static_cast<std::size_t>((item * parts + part) * size + i)];
      to[item * size + i] = static_cast<T>(times * total);
    }
  return fits;
}

Tensor spectra_shells_cpu(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                          std::int64_t fold) {
  const Element element = check_shells(x, y, shell, shells, fold);
  Tensor out = allocate_zeros(x, {x.size(0), shells, y.has_value() ? 2 : 1});
  if (x.numel() == 0) return out;
  const auto run = [&](const auto& kernel, auto zero) {
    using T = decltype(zero);
    return sum_shells<T>(kernel, shell_sum_of<T>(x, y, shell, shells, fold), x.size(0), x.numel() / x.size(0) / 2,
                         static_cast<T*>(out.mutable_data_ptr()));
  };
  if (element == Element::f64 ? run(GRAMIAN_KERNELS(shells_f64), 0.0) : run(GRAMIAN_KERNELS(shells_f32), 0.0F))
    return out;
  const auto* const number = static_cast<const std::int32_t*>(shell.const_data_ptr());
  const auto [least, most] = std::minmax_element(number, number + shell.numel());
  check_shell_range(std::min(*least, 0), std::max(*most, 0), shells);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kShellsSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_shells", GRAMIAN_BOX(&spectra_shells_cpu)); }

}  // namespace gramian
