// gramian::spectra_shells on CUDA. Waits for the device: shells out of range are refused.
#include "spectra/shells_cuda.h"

#include <algorithm>

#include "core/cuda.h"
#include "spectra/shells.h"

namespace gramian {
namespace {

Tensor spectra_shells_cuda(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                           std::int64_t fold) {
  const Element element = check_shells(x, y, shell, shells, fold);
  const cuda::OnDevice device(x);
  const std::int64_t batch = x.size(0), modes = batch == 0 ? 0 : x.numel() / batch / 2;
  Tensor out = torch::stable::new_zeros(x, {batch, shells, y.has_value() ? 2 : 1});
  const auto* const number = static_cast<const std::int32_t*>(shell.const_data_ptr());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const ShellSum<T> p = shell_sum_of<T>(x, y, shell, shells, fold);
    const std::int64_t bytes = modes == 0 ? 0 : cuda::shells_bytes(p, modes, batch);
    const Tensor memory = cuda::device_memory("shells", x, std::max<std::int64_t>(bytes, sizeof(cuda::ShellRange)));
    const cuda::ShellRange range = cuda::shell_range(number, shell.numel(), memory.mutable_data_ptr(), device.stream);
    check_shell_range(range.least, range.most, shells);
    if (modes > 0)
      cuda::shells(p, modes, batch, memory.mutable_data_ptr(), static_cast<T*>(out.mutable_data_ptr()), device.stream);
  };
  element == Element::f64 ? run(0.0) : run(0.0F);
  return out;
}

}  // namespace

GRAMIAN_CUDA_OP(kShellsSchema, "spectra_shells", &spectra_shells_cuda)

}  // namespace gramian
