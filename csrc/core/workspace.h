// Scratch memory for the workers of one op call. The last buffer is kept for the next call: fresh pages cost more than
// many an op (a page fault is about 0.25 us per 4 KiB, as long as 500 AVX-512 FMAs).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gramian {

// Fresh memory of this size is mapped in pages of 2 MiB where the system leaves the choice to the program: 419 MB written
// for the first time cost 0.20 s in faults on 4 KiB pages, and a sweep touches a page of its own for every row.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096, kHuge = std::uintptr_t{2} << 20;
  if (bytes < 4 * kHuge) return;
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: failure changes nothing
#endif
}

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
    prefer_huge_pages(buffer_, wanted);
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
  static constexpr std::size_t kMostKept = std::size_t{80} << 20;  // 64 MiB and more: the modes of 4096 x 4096 samples

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
