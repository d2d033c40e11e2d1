// Loaded before all else (LD_PRELOAD) by tests/test_faults.py: lets the n-th allocation that the ops library asks for fail, its own
// or torch's for a tensor of its.
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

std::atomic<long> countdown{-1};  // negative: nothing fails

bool of_library(const void* caller) {
  Dl_info info;
  return dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
         (std::strstr(info.dli_fname, "_ops_cpu") != nullptr || std::strstr(info.dli_fname, "libc10") != nullptr);
}

bool fails(const void* caller) { return countdown.load() >= 0 && of_library(caller) && countdown.fetch_sub(1) == 0; }

}  // namespace

extern "C" {

void fail_allocation(long n) { countdown.store(n); }

long allocations_left() { return countdown.load(); }

void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  static const auto real = reinterpret_cast<void* (*)(std::size_t, std::size_t)>(dlsym(RTLD_NEXT, "aligned_alloc"));
  return fails(__builtin_return_address(0)) ? nullptr : real(alignment, bytes);
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  static const auto real =
      reinterpret_cast<int (*)(void**, std::size_t, std::size_t)>(dlsym(RTLD_NEXT, "posix_memalign"));
  return fails(__builtin_return_address(0)) ? ENOMEM : real(memory, alignment, bytes);
}
}

void* operator new(std::size_t bytes) {
  void* const memory = fails(__builtin_return_address(0)) ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
