// Deals out one piece of device memory. A walk from a null base gives the size that a second walk needs.
#pragma once
#include <cstdint>

namespace gramian::cuda {

class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(std::int64_t count) {
    char* const taken = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += (count * static_cast<std::int64_t>(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(taken);
  }

  std::int64_t bytes() const { return bytes_; }

 private:
  static constexpr std::int64_t kAlign = 256;  // what cudaMalloc promises
  char* memory_;
  std::int64_t bytes_ = 0;
};

}  // namespace gramian::cuda
