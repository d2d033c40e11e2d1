// The current CUDA device, without CUDA's headers: what an op asks it before and after its kernels.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gramian::cuda {

using Stream = void*;  // a cudaStream_t

int multiprocessors();
std::int64_t memory_bytes();  // that the device has, used or not

// Device memory to the host; waits for the stream.
void read_back(void* host, const void* device, std::size_t bytes, Stream stream);
void set_zero(void* device, std::size_t bytes, Stream stream);

}  // namespace gramian::cuda
