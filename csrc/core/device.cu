#include "core/device.cuh"

namespace gramian::cuda {

namespace {
int (*ask_tf32)() = nullptr;

void refuse_capture(Stream stream) {
  if (capturing(stream)) throw DeviceError("gramian: this op waits for the device, so a CUDA graph cannot capture it");
}
}  // namespace

bool allow_tf32() { return ask_tf32 != nullptr && ask_tf32() != 0; }

#if defined(__CUDACC__)

int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

MemoryInfo memory_info() {
  std::size_t free = 0, all = 0;
  check(cudaMemGetInfo(&free, &all));
  return {static_cast<std::int64_t>(free), static_cast<std::int64_t>(all)};
}

bool capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

void read_back(void* host, const void* device, std::size_t bytes, Stream stream) {
  refuse_capture(stream);
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream)));
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

void write_over(void* device, const void* host, std::size_t bytes, Stream stream) {
  refuse_capture(stream);
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)));
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
}

void set_zero(void* device, std::size_t bytes, Stream stream) {
  check(cudaMemsetAsync(device, 0, bytes, static_cast<cudaStream_t>(stream)));
}

#else

int multiprocessors() { return 3; }  // few, so that a block of a persistent grid has several tiles
MemoryInfo memory_info() { return {std::int64_t{1} << 32, std::int64_t{1} << 33}; }
bool capturing(Stream) { return emulated::capturing; }
void read_back(void* host, const void* device, std::size_t bytes, Stream stream) {
  refuse_capture(stream);
  std::memcpy(host, device, bytes);
}
void write_over(void* device, const void* host, std::size_t bytes, Stream stream) {
  refuse_capture(stream);
  std::memcpy(device, host, bytes);
}
void set_zero(void* device, std::size_t bytes, Stream) { std::memset(device, 0, bytes); }

#endif

}  // namespace gramian::cuda

// The stable ABI does not show the setting, so the Python layer hands over a function that reads it.
extern "C" __attribute__((visibility("default"))) void gramian_ask_tf32(int (*ask)()) { gramian::cuda::ask_tf32 = ask; }

#if defined(__CUDACC__)
// For `gramian info`: 13000 for CUDA 13.0, 0 without a driver. Starts nothing on the device.
extern "C" __attribute__((visibility("default"))) int gramian_cuda_driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}
extern "C" __attribute__((visibility("default"))) int gramian_cuda_runtime() { return CUDART_VERSION; }
#else
extern "C" __attribute__((visibility("default"))) void gramian_thread_order(unsigned order) {
  gramian::emulated::thread_order = order;
}
extern "C" __attribute__((visibility("default"))) void gramian_capture(int on) {
  gramian::emulated::capturing = on != 0;
}
#endif
