// gramian::spectra_grid_shells: power of real fields on grids, summed over shells, by our own transform.
#include <optional>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"
#include "spectra/fourier_axis.h"

namespace gramian {
namespace {

constexpr const char* kOp = "grid_shells";

template <class T>
const GridShellsKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(grid_shells_f32);
  else
    return GRAMIAN_KERNELS(grid_shells_f64);
}

// Adds up the copies of the histograms of an item, and then its parts: the same bits for any number of threads.
template <class T>
void finish(double* sums, std::int64_t copies, std::int64_t shells, T* to) {
  for (std::int64_t copy = 1; copy < copies; ++copy)
    for (std::int64_t shell = 0; shell < shells; ++shell) sums[shell] += sums[copy * shells + shell];
  for (std::int64_t shell = 0; shell < shells; ++shell) to[shell] = static_cast<T>(sums[shell]);
}

template <class T>
void run(const Tensor& x, const std::optional<Tensor>& window, const Tensor& shell, std::int64_t shells, Tensor& out) {
  const GridShellsKernels<T>& kernel = kernels<T>();
  GridShells<T> p{};
  p.axes = x.dim() - 1;
  std::vector<FourierPlan<T>> plans;
  plans.reserve(static_cast<std::size_t>(p.axes));
  p.rows = 1;
  std::int64_t samples = 1;
  for (std::int64_t a = 0; a < p.axes; ++a) {
    const std::int64_t n = x.size(a + 1);
    plans.emplace_back(n);
    p.axis[a] = plans.back().axis();
    samples *= n;
    if (a > 0 && a + 1 < p.axes) p.rows *= n;
  }
  const std::int64_t first = p.axis[0].size, last = p.axis[p.axes - 1].size, frequencies = first / 2 + 1;
  const std::int64_t in_row = block_count(last, kernel.lanes), strips = block_count(p.rows * in_row, 2);
  p.blocks = in_row | 1;  // odd, so that a column of blocks does not fall into few sets of the cache
  std::vector<T> others;
  if (window.has_value()) {
    const T* weights = static_cast<const T*>(window->const_data_ptr());
    p.first_window = weights;
    weights += first;
    others.push_back(1);
    for (std::int64_t a = 1; a < p.axes; weights += p.axis[a++].size) {
      std::vector<T> product;
      for (const T outer : others)
        for (std::int64_t j = 0; j < p.axis[a].size; ++j) product.push_back(outer * weights[j]);
      others = std::move(product);
    }
    p.other_window = others.data();
  }
  p.shell = static_cast<const std::int32_t*>(shell.const_data_ptr());
  p.shells = shells;
  const T* const from = static_cast<const T*>(x.const_data_ptr());
  T* const to = static_cast<T*>(out.mutable_data_ptr());
  const std::int64_t block = 2 * kernel.lanes, modes = frequencies * p.rows * p.blocks * block;
  p.together = std::max<std::int64_t>(1, 4 * kernel.lanes / p.rows);
  const std::int64_t planes = p.axes > 2 ? p.together * p.rows * p.blocks * block : 0;
  const std::int64_t scratch = std::max(first * kernel.strips * block, p.blocks * kernel.lanes * block + planes);
  const std::int64_t batch = x.size(0), of_item = kShellCopies * shells, size = sizeof(T);
  constexpr std::int64_t kChunk = 1 << 18;  // bytes of modes that stay in the second cache
  const std::int64_t each = std::max<std::int64_t>(1, kChunk / (modes * size));
  if (each > 1) {  // small items: a worker takes some through all axes
    const std::int64_t workers = worker_count(block_count(batch, each));
    const Workspace memory(workers, (each * modes + scratch) * size);
    std::vector<double> sums(static_cast<std::size_t>(workers * each * of_item));
    run_pieces(batch, each, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      GridShells<T> some = p;
      some.x = from + begin * samples;
      some.modes = static_cast<T*>(memory.of(worker));
      some.sums = sums.data() + worker * each * of_item;
      std::fill_n(some.sums, each * of_item, 0.0);
      T* const own = some.modes + each * modes;
      kernel.first_axis(some, 0, (end - begin) * strips, own);
      kernel.other_axes(some, 0, (end - begin) * frequencies, own);
      for (std::int64_t item = begin; item < end; ++item)
        finish(some.sums + (item - begin) * of_item, kShellCopies, shells, to + item * shells);
    });
    return;
  }
  const std::int64_t workers = worker_count(std::max(strips, frequencies));
  const Workspace memory(1, (modes + workers * scratch) * size);
  constexpr std::int64_t kMostParts = 32;
  const std::int64_t per_part = block_count(block_count(frequencies, kMostParts), p.together) * p.together;
  const std::int64_t parts = block_count(frequencies, per_part);
  std::vector<double> sums(static_cast<std::size_t>(parts * of_item));
  p.modes = static_cast<T*>(memory.of(0));
  T* const own = p.modes + modes;
  for (std::int64_t item = 0; item < batch; ++item) {
    p.x = from + item * samples;
    run_pieces(strips, kernel.strips, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      kernel.first_axis(p, begin, end, own + worker * scratch);
    });
    std::fill(sums.begin(), sums.end(), 0.0);
    run_pieces(frequencies, per_part, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      GridShells<T> part = p;
      part.sums = sums.data() + begin / per_part * of_item;
      kernel.other_axes(part, begin, end, own + worker * scratch);
    });
    finish(sums.data(), parts * kShellCopies, shells, to + item * shells);
  }
}

// x is [b, n1, .., nD], D from 2 to 4; window holds the weights of all axes, one after another; shell is [n1/2 + 1, .., nD/2 + 1].
Tensor spectra_grid_shells_cpu(const Tensor& x, const std::optional<Tensor>& window, const Tensor& shell,
                               std::int64_t shells) {
  if (x.dim() < 3 || x.dim() > kMostAxes + 1)
    refuse(kOp, ": x must be [b, n1, .., nD] with 2 to ", kMostAxes, " axes, got shape ", shape_text(x));
  const Element element = element_of(kOp, "x", x, false);
  std::int64_t samples = 0, modes = 1;
  bool fits = shell.dim() == x.dim() - 1;
  for (std::int64_t a = 1; a < x.dim(); ++a) {
    const std::int64_t n = x.size(a);
    if (n < 1 || n > INT32_MAX || (n > 1 && FourierPlan<float>::radices(n).empty()))
      refuse(kOp, ": x must have 2^a 3^b 5^c samples along its axes, got shape ", shape_text(x));
    samples += n;
    modes *= n / 2 + 1;
    fits = fits && shell.size(a - 1) == n / 2 + 1;
  }
  if (!fits || shell.scalar_type() != ScalarType::Int || !shell.is_contiguous())
    refuse(kOp, ": shell must be contiguous int32 with n/2 + 1 along each axis of x ", shape_text(x), ", got ",
           dtype_text(shell.scalar_type()), " of shape ", shape_text(shell));
  if (window.has_value()) {
    check_same(kOp, "window", *window, "x", x);
    if (window->dim() != 1 || window->size(0) != samples || !window->is_contiguous())
      refuse(kOp, ": window must be contiguous with ", samples, " weights, those of each axis, got shape ",
             shape_text(*window));
  }
  if (shells < 1) refuse(kOp, ": shells must be at least 1, got ", shells);
  const auto* const number = static_cast<const std::int32_t*>(shell.const_data_ptr());
  std::int32_t least = 0, most = 0;
  for (std::int64_t i = 0; i < modes; ++i) least = std::min(least, number[i]), most = std::max(most, number[i]);
  if (least < 0 || most >= shells)
    refuse(kOp, ": shell must be from 0 to ", shells - 1, ", got ", least < 0 ? least : most);

  Tensor out = allocate_zeros(x, {x.size(0), shells});
  if (x.size(0) == 0) return out;
  const Tensor read = torch::stable::contiguous(x);
  element == Element::f64 ? run<double>(read, window, shell, shells, out)
                          : run<float>(read, window, shell, shells, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("spectra_grid_shells(Tensor x, Tensor? window, Tensor shell, int shells) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("spectra_grid_shells", GRAMIAN_BOX(&spectra_grid_shells_cpu)); }

}  // namespace gramian
