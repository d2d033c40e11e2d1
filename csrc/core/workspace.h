// Scratch memory for the workers of one op call. The last buffer is kept for the next call: fresh pages cost more than
// many an op (a page fault is about 0.25 us per 4 KiB, as long as 500 AVX-512 FMAs).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

namespace gramian {

class Workspace {
 public:
  Workspace(std::int64_t workers, std::int64_t bytes_each)
      : each_(static_cast<std::size_t>(bytes_each + kAlign - 1) / kAlign * kAlign) {
    const std::size_t wanted = each_ * static_cast<std::size_t>(workers);
    {
      const std::lock_guard lock(kept().mutex);
      std::swap(buffer_, kept().buffer);
      std::swap(size_, kept().size);
    }
    if (size_ >= wanted) return;
    std::free(buffer_);
    buffer_ = std::aligned_alloc(kAlign, wanted);
    if (buffer_ == nullptr) throw std::bad_alloc();
    size_ = wanted;
  }

  ~Workspace() {
    if (size_ <= kMostKept) {
      const std::lock_guard lock(kept().mutex);
      std::swap(buffer_, kept().buffer);
      std::swap(size_, kept().size);
    }
    std::free(buffer_);
  }

  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* of(std::int64_t worker) const { return static_cast<char*>(buffer_) + each_ * static_cast<std::size_t>(worker); }

 private:
  static constexpr std::size_t kAlign = 4096;
  static constexpr std::size_t kMostKept = std::size_t{64} << 20;

  struct Kept {
    std::mutex mutex;
    void* buffer = nullptr;
    std::size_t size = 0;
  };
  static Kept& kept() {
    static auto* kept = new Kept;  // never destroyed: a worker may still run when the process ends
    return *kept;
  }

  std::size_t each_;
  void* buffer_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gramian
