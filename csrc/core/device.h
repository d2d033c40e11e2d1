// The current CUDA device, without CUDA's headers: what an op asks it before and after its kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

namespace gramian::cuda {

using Stream = void*;  // a cudaStream_t

// What the device or its driver failed at: a RuntimeError in Python. Not a std::runtime_error, which GRAMIAN_BOX takes for
// torch's want of memory.
class DeviceError : public std::exception {
 public:
  explicit DeviceError(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

int multiprocessors();

struct MemoryInfo {
  std::int64_t free, all;  // bytes of the device
};
MemoryInfo memory_info();

// Whether products of float32 may be rounded to TF32: what torch.backends.cuda.matmul says now.
bool allow_tf32();

// Whether what the stream is given goes into a CUDA graph: then nothing runs now, and the host cannot be told of a result.
bool capturing(Stream stream);

// Device memory to the host; waits for the stream, which a CUDA graph cannot: a DeviceError while one is captured.
void read_back(void* host, const void* device, std::size_t bytes, Stream stream);
// The other way, with the same wait; the host's memory may be used again at once.
void write_over(void* device, const void* host, std::size_t bytes, Stream stream);
void set_zero(void* device, std::size_t bytes, Stream stream);

}  // namespace gramian::cuda
