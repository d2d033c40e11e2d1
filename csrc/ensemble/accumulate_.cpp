// gramian::ensemble_accumulate_: adds models to the sums from which errors are decomposed into bias and variance.
#include "core/parallel.h"
#include "ensemble/accumulate.h"

namespace gramian {
namespace {

constexpr std::int64_t kGrain = 16384;  // columns of a piece

template <class T>
const AccumulateKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(accumulate_f32);
  else
    return GRAMIAN_KERNELS(accumulate_f64);
}

void ensemble_accumulate_cpu(const Tensor& predictions, const std::optional<Tensor>& target, Tensor sums,
                             std::optional<Tensor> squares) {
  AccumulateCall call(predictions, target, sums, squares);
  if (call.empty()) return;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const AccumulateProblem<T> problem = call.problem<T>();
    run_pieces(
        call.n, std::max<std::int64_t>(1, kGrain / call.c),
        [&](std::int64_t begin, std::int64_t end, std::int64_t) { kernels<T>().accumulate(problem, begin, end); });
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAccumulateSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("ensemble_accumulate_", GRAMIAN_BOX(&ensemble_accumulate_cpu)); }

}  // namespace gramian
