// What every CUDA kernel needs of its machine, which is a GPU or, in tests, its emulation on the host (emulate.h): launches,
// warp sums, asynchronous copies.
#pragma once
#include <cstdint>
#include <limits>
#include <string>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define GRAMIAN_PRAGMA(text) _Pragma(#text)
#define GRAMIAN_UNROLL _Pragma("unroll")
#define GRAMIAN_UNROLL_BY(times) GRAMIAN_PRAGMA(unroll times)
#else
#include "core/emulate.h"
#define GRAMIAN_UNROLL
#define GRAMIAN_UNROLL_BY(times)
#endif

#include "core/device.h"

#define GRAMIAN_DEVICE __device__ __forceinline__
#define GRAMIAN_BOTH __host__ __device__ __forceinline__

namespace gramian::cuda {

constexpr unsigned kAllLanes = ~0U;
constexpr int kThreads = 256;  // of every kernel here
constexpr int kWarps = kThreads / 32;
// Constants, which device code may use as they are; the functions it may not call.
template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
template <class T>
constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
template <class T>
constexpr T kSmallest = std::numeric_limits<T>::min();  // of the normal range

#if defined(__CUDACC__)
inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw DeviceError(std::string("gramian: CUDA: ") + cudaGetErrorString(status));
}
#endif

// So many blocks of threads, or enough of them for so many threads.
inline dim3 grid_of_blocks(std::int64_t x, std::int64_t y = 1) {
  if (x > std::numeric_limits<std::int32_t>::max() || y > 65535)
    throw DeviceError("gramian: CUDA: the arguments need more blocks of threads than a grid can have");
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), 1};
}
inline dim3 grid_of_threads(std::int64_t count) { return grid_of_blocks((count + kThreads - 1) / kThreads); }

// kernel<<<grid, kThreads, shared_bytes, stream>>>(arguments...)
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, std::size_t shared_bytes, Stream stream,
            const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
#if defined(__CUDACC__)
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  kernel<<<grid, kThreads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError());
#else
  (void)stream;
  emulated::Machine::get().run(grid, kThreads, shared_bytes, [&] { kernel(arguments...); });
#endif
}

// The memory that a launch asked for, as T.
template <class T>
GRAMIAN_DEVICE T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#else
  return static_cast<T*>(emulated::Machine::get().shared());
#endif
}

GRAMIAN_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
GRAMIAN_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / 32; }

// a * b, rounded: never part of a fused multiply-add.
GRAMIAN_DEVICE double rounded_product(double a, double b) {
#if defined(__CUDACC__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// sin and cos of pi x.
template <class T>
GRAMIAN_DEVICE void sincospi_of(T x, T* sin_x, T* cos_x) {
#if defined(__CUDACC__)
  if constexpr (sizeof(T) == 8)
    sincospi(x, sin_x, cos_x);
  else
    sincospif(x, sin_x, cos_x);
#else
  const auto angle = static_cast<long double>(x) * 3.14159265358979323846264338327950288L;
  *sin_x = static_cast<T>(std::sin(angle));
  *cos_x = static_cast<T>(std::cos(angle));
#endif
}

// Over the warp, in a fixed order; every lane gets the same bits.
template <class T>
GRAMIAN_DEVICE T warp_sum(T value) {
  GRAMIAN_UNROLL
  for (int half = 16; half > 0; half /= 2) value += __shfl_xor_sync(kAllLanes, value, half);
  return value;
}
template <class T>
GRAMIAN_DEVICE T warp_max(T value) {
  GRAMIAN_UNROLL
  for (int half = 16; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, half);
    value = other > value ? other : value;
  }
  return value;
}
template <class T>
GRAMIAN_DEVICE T warp_min(T value) {
  GRAMIAN_UNROLL
  for (int half = 16; half > 0; half /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, half);
    value = other < value ? other : value;
  }
  return value;
}

// Over the block, in a fixed order; `slots` is shared memory of kWarps values. Every thread gets the same bits.
template <class T>
GRAMIAN_DEVICE T block_sum(T value, T* slots) {
  value = warp_sum(value);
  __syncthreads();
  if (lane_index() == 0) slots[warp_index()] = value;
  __syncthreads();
  T total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += slots[warp];
  return total;
}

// 16 bytes from global to shared memory, both aligned to 16; arrives when wait_for_copies says so.
GRAMIAN_DEVICE void copy_16_bytes(void* shared, const void* global) {
#if defined(__CUDACC__)
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0 || reinterpret_cast<std::uintptr_t>(shared) % 16 != 0)
    std::abort();
  emulated::Machine::get().copy_later(shared, global, 16);
#endif
}

// Ends a group of copies.
GRAMIAN_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulated::Machine::get().commit_copies();
#endif
}

// This thread's copies have arrived, but for the last kInFlight groups. Others see them after a barrier.
template <int kInFlight>
GRAMIAN_DEVICE void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
#else
  emulated::Machine::get().wait_for_copies(kInFlight);
#endif
}

}  // namespace gramian::cuda
