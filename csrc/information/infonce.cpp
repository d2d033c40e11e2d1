// gramian::information_infonce: mean_i (f_i . g_i - log Σ_j exp(f_i . g_j)) + log n, and its gradient, without [n, n].
#include <cmath>
#include <cstring>
#include <tuple>

#include "core/parallel.h"
#include "core/workspace.h"
#include "information/infonce.h"
#include "information/infonce_kernel.h"

namespace gramian {
namespace {

// Partial sums of the gradient by g: as many threads can work on it, and their number must not depend on that of threads.
constexpr std::int64_t kMostPartials = 8;

template <class T>
const InfonceKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(infonce_f32);
  else
    return GRAMIAN_KERNELS(infonce_f64);
}

std::tuple<Tensor, Tensor, Tensor> information_infonce_cpu(const Tensor& f_given, const Tensor& g_given,
                                                           bool gradients) {
  InfonceCall call(f_given, g_given, gradients);
  const std::int64_t n = call.n, d = call.d;
  double value = 0;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
    const auto& kernel = kernels<T>();
    const InfonceProblem<T> p{static_cast<const T*>(call.f.const_data_ptr()),
                              static_cast<const T*>(call.g.const_data_ptr()), n, d};
    const Workspace packed(1, kernel.packed_size(p, gradients) * kBytes);
    T* const panels = static_cast<T*>(packed.of(0));
    kernel.pack(p, gradients, panels);
    const std::int64_t bands = block_count(n, kBandRows);
    const std::int64_t per_part = gradients ? block_count(bands, kMostPartials) : 1,
                       parts = block_count(bands, per_part);
    const std::int64_t stride = gradients ? kernel.partial_size(p) : 0;
    const Workspace sums(1, (parts * stride + n) * kBytes),
        scratch(worker_count(parts), kernel.scratch(p, gradients) * kBytes);
    T* const log_sums = static_cast<T*>(sums.of(0));
    T* const partials = log_sums + n;
    T* const by_f = static_cast<T*>(call.grad_f.mutable_data_ptr());
    T* const by_g = static_cast<T*>(call.grad_g.mutable_data_ptr());
    std::memset(partials, 0, static_cast<std::size_t>(parts * stride) * sizeof(T));
    // One band of every part after the other: a piece that was a whole part would not let a long call be interrupted.
    for (std::int64_t step = 0; step < per_part; ++step)
      run_pieces(parts, 1, [&](std::int64_t part, std::int64_t, std::int64_t worker) {
        const std::int64_t band = part * per_part + step;
        if (band < bands)
          kernel.band(p, panels, band * kBandRows, log_sums, gradients ? by_f : nullptr, partials + part * stride,
                      static_cast<T*>(scratch.of(worker)));
      });
    // d value / d f_i = (g_i - Σ_j P_ij g_j) / n, and likewise for g_j: the kernel left the expectations.
    if (gradients)
      run_pieces(n, kBandRows, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        for (std::int64_t i = begin; i < end; ++i) {
          kernel.finish(p, partials, parts, i, by_g);
          for (std::int64_t k = i * d; k < (i + 1) * d; ++k) {
            by_f[k] = (p.g[k] - by_f[k]) / static_cast<T>(n);
            by_g[k] = (p.f[k] - by_g[k]) / static_cast<T>(n);
          }
        }
      });
    for (std::int64_t i = 0; i < n; ++i) {
      double score = 0;
      for (std::int64_t k = i * d; k < (i + 1) * d; ++k) score += static_cast<double>(p.f[k]) * p.g[k];
      value += score - log_sums[i];
    }
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
  value = value / static_cast<double>(n) + std::log(static_cast<double>(n));
  return {number(call.f, value, call.f.scalar_type()), call.grad_f, call.grad_g};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kInfonceSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("information_infonce", GRAMIAN_BOX(&information_infonce_cpu)); }

}  // namespace gramian
