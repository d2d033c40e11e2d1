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
#if defined(GRAMIAN_EMULATED)
  explicit OnDevice(const Tensor& x) {
    if (!x.is_cpu())
      throw DeviceError("gramian bug: tensors must be known to share a device before it is made current");
  }
#else
  explicit OnDevice(const Tensor& x) : guard_(x.get_device_index()), stream(current_stream(x.get_device_index())) {}

 private:
  static Stream current_stream(std::int32_t device);
  torch::stable::accelerator::DeviceGuard guard_;

 public:
#endif
  Stream stream = nullptr;
};

// Device memory for the length of an op, from torch's allocator. By now it has given the results theirs, and it alone knows what it
// can still give: beside what is free, all that it keeps for tensors to come.
inline Tensor device_memory(const char* op, const Tensor& like, std::int64_t bytes) {
  try {
    return torch::stable::new_empty(like, {bytes > 0 ? bytes : 1}, ScalarType::Byte);  // null would stand for counting
  } catch (const std::runtime_error&) {
    const MemoryInfo memory = memory_info();
    throw OutOfMemory(std::string(op) + ": the kernels take " + std::to_string(bytes >> 20) +
                      " MiB beside arguments and results, and of the device's " + std::to_string(memory.all >> 20) +
                      " MiB " + std::to_string(memory.free >> 20) + " are free");
  }
}

}  // namespace gramian::cuda
