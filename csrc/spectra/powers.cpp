// gramian::spectra_powers: power or cross power of each Fourier mode, as often as it counts.
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "spectra/shells.h"

namespace gramian {
namespace {

Tensor spectra_powers_cpu(const Tensor& x, const std::optional<Tensor>& y, std::int64_t fold, double factor) {
  const Element element = check_modes("powers", x, y, fold);
  std::vector<std::int64_t> shape;
  for (std::int64_t a = 0; a + 1 < x.dim(); ++a) shape.push_back(x.size(a));
  shape.push_back(y.has_value() ? 2 : 1);
  Tensor out = allocate(x, shape);
  if (x.numel() == 0) return out;
  const auto run = [&](const auto& kernel, auto zero) {
    using T = decltype(zero);
    constexpr std::int64_t kGrain = 1 << 14;  // modes of a piece
    const Modes<T> modes = modes_of<T>(x, y, fold);
    T* const to = static_cast<T*>(out.mutable_data_ptr());
    prefer_huge_pages(to, static_cast<std::size_t>(out.numel()) * sizeof(T));
    run_pieces(x.numel() / 2 / modes.last, std::max<std::int64_t>(1, kGrain / modes.last),
               [&](std::int64_t begin, std::int64_t end, std::int64_t) {
                 kernel.powers(modes, static_cast<T>(factor), begin, end, to);
               });
  };
  element == Element::f64 ? run(GRAMIAN_KERNELS(shells_f64), 0.0) : run(GRAMIAN_KERNELS(shells_f32), 0.0F);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("spectra_powers(Tensor x, Tensor? y, int fold, float factor) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_powers", GRAMIAN_BOX(&spectra_powers_cpu)); }

}  // namespace gramian
