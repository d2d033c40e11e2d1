// What every CUDA op does around its kernels: take the device and the stream that torch has chosen, allocate, register. In the
// emulated build (emulate.h) the same ops are those of CPU tensors, under the name gramian_emulated.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include "core/device.h"
#include "core/tensor.h"

namespace gramian::cuda {

#if defined(GRAMIAN_EMULATED)
#define GRAMIAN_CUDA_OP(schema, name, function)                         \
  STABLE_TORCH_LIBRARY_FRAGMENT(gramian_emulated, m) { m.def(schema); } \
  STABLE_TORCH_LIBRARY_IMPL(gramian_emulated, CPU, m) { m.impl(name, GRAMIAN_BOX(function)); }
#else
#define GRAMIAN_CUDA_OP(schema, name, function) \
  STABLE_TORCH_LIBRARY_IMPL(gramian, CUDA, m) { m.impl(name, GRAMIAN_BOX(function)); }
#endif

// For the length of an op: the device of its tensors is current, `stream` is torch's.
class OnDevice {
 public:
  explicit OnDevice([[maybe_unused]] const Tensor& x)
#if !defined(GRAMIAN_EMULATED)
      : guard_(x.get_device_index()),
        stream(current_stream(x.get_device_index()))
#endif
  {
  }

#if !defined(GRAMIAN_EMULATED)
 private:
  static Stream current_stream(std::int32_t device);
  torch::stable::accelerator::DeviceGuard guard_;

 public:
#endif
  Stream stream = nullptr;
};

// Device memory for the length of an op, from torch's allocator. What the device could not hold at all is refused.
inline Tensor device_memory(const char* op, const Tensor& like, std::int64_t bytes) {
  if (bytes > memory_bytes())
    refuse(op, ": its arguments must leave room on the device, which has ", memory_bytes() >> 20,
           " MiB; the kernels need ", bytes >> 20, " MiB");
  return torch::stable::new_empty(like, {bytes > 0 ? bytes : 1}, ScalarType::Byte);  // null would stand for counting
}

}  // namespace gramian::cuda
