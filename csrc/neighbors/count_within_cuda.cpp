// gramian::neighbors_count_within on CUDA.
#include "neighbors/count_within_cuda.h"

#include "core/cuda.h"
#include "neighbors/count_within.h"

namespace gramian {
namespace {

Tensor neighbors_count_within_cuda(const Tensor& x, const Tensor& radius, const std::optional<Tensor>& y_given,
                                   const std::string& metric_name, bool exclude_self) {
  const CountWithinCall call(x, radius, y_given, metric_name, exclude_self);
  const cuda::OnDevice device(x);
  Tensor counts = allocate(x, call.shape, ScalarType::Long);
  if (counts.numel() == 0) return counts;
  const Tensor radii = torch::stable::contiguous(radius);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const T* const r = static_cast<const T*>(radii.const_data_ptr());
    const auto count = [&](std::int64_t batch) {
      return cuda::CountArguments{rows_of(x, call.element, batch),
                                  rows_of(call.self ? x : *y_given, call.element, batch),
                                  call.metric,
                                  call.self,
                                  exclude_self,
                                  r + batch * call.n};
    };
    const Tensor memory = cuda::device_memory("count_within", x, cuda::count_within_bytes(count(0)));
    for (std::int64_t b = 0; b < call.batches; ++b)
      cuda::count_within(count(b), memory.mutable_data_ptr(),
                         static_cast<std::int64_t*>(counts.mutable_data_ptr()) + b * call.n, device.stream);
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
  return counts;
}

}  // namespace

GRAMIAN_CUDA_OP(kCountWithinSchema, "neighbors_count_within", &neighbors_count_within_cuda)

}  // namespace gramian
