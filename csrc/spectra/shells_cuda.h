// The CUDA kernels of shells.
#pragma once
#include "core/device.h"
#include "spectra/shells_kernel.h"

namespace gramian::cuda {

struct ShellRange {
  std::int32_t least, most;
};

// Of `count` numbers, and of 0.
void find_shell_range(const std::int32_t* shell, std::int64_t count, ShellRange* range, Stream stream);

// Bytes of device memory that the sums of `batch` items work in.
template <class T>
std::int64_t shells_bytes(const ShellSum<T>& p, std::int64_t modes, std::int64_t batch);
// out [batch, shells, 1 or, with y, 2]; p is the first item, of `modes` modes. NaN where the range, on the device, leaves p.shells.
template <class T>
void shells(const ShellSum<T>& p, const ShellRange* range, std::int64_t modes, std::int64_t batch, void* memory, T* out,
            Stream stream);

}  // namespace gramian::cuda
