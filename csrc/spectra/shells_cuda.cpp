// gramian::spectra_shells on CUDA. Waits for the device, to refuse shells out of range; while a CUDA graph is captured those give NaN.
#include "spectra/shells_cuda.h"

#include "core/cuda.h"
#include "spectra/shells.h"

namespace gramian {
namespace {

Tensor spectra_shells_cuda(const Tensor& x, const std::optional<Tensor>& y, const Tensor& shell, std::int64_t shells,
                           std::int64_t fold) {
  const Element element = check_shells(x, y, shell, shells, fold);
  const cuda::OnDevice device(x);
  const std::int64_t batch = x.size(0), modes = batch == 0 ? 0 : x.numel() / batch / 2;
  Tensor out = allocate_zeros(x, {batch, shells, y.has_value() ? 2 : 1});
  const auto* const number = static_cast<const std::int32_t*>(shell.const_data_ptr());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const ShellSum<T> p = shell_sum_of<T>(x, y, shell, shells, fold);
    const Tensor found = cuda::device_memory("shells", x, sizeof(cuda::ShellRange));
    auto* const on_device = static_cast<cuda::ShellRange*>(found.mutable_data_ptr());
    cuda::find_shell_range(number, shell.numel(), on_device, device.stream);
    if (!cuda::capturing(device.stream)) {
      cuda::ShellRange range;
      cuda::read_back(&range, on_device, sizeof range, device.stream);
      check_shell_range(range.least, range.most, shells);
    }
    if (modes == 0) return;
    const Tensor memory = cuda::device_memory("shells", x, cuda::shells_bytes(p, modes, batch));
    cuda::shells(p, on_device, modes, batch, memory.mutable_data_ptr(), static_cast<T*>(out.mutable_data_ptr()),
                 device.stream);
  };
  element == Element::f64 ? run(0.0) : run(0.0F);
  return out;
}

}  // namespace

GRAMIAN_CUDA_OP(kShellsSchema, "spectra_shells", &spectra_shells_cuda)

}  // namespace gramian
