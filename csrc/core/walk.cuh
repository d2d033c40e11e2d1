// What an op does on the device, written once and walked twice: from a null base nothing is launched and the memory that it
// takes is counted; then it runs in a piece of that size.
#pragma once
#include "core/arena.h"
#include "core/device.cuh"

namespace gramian::cuda {

class Walk {
 public:
  Walk(void* memory, Stream stream) : arena_(memory), stream_(stream), counting_(memory == nullptr) {}

  bool counting() const { return counting_; }
  Stream stream() const { return stream_; }
  std::int64_t bytes() const { return arena_.bytes(); }

  template <class T>
  T* take(std::int64_t count) {
    return arena_.take<T>(count);
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, std::size_t shared_bytes, const Arguments&... arguments) const {
    if (!counting_) cuda::launch(kernel, grid, shared_bytes, stream_, static_cast<Parameters>(arguments)...);
  }

 private:
  Arena arena_;
  Stream stream_;
  bool counting_;
};

}  // namespace gramian::cuda
