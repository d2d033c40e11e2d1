// CUDA kernels on the host, for tests on machines without a GPU: the same source, compiled as C++. A thread is a fiber;
// barriers and shuffles switch between fibers; an asynchronous copy arrives as late as it may. A barrier that not all
// threads of its group reach stops the program. The order of the threads between barriers can be changed, so that
// a race shows as a result that depends on it.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gramian::emulated {

// 0: rising, 1: falling, otherwise a permutation that it seeds.
inline unsigned thread_order = 0;
inline bool capturing = false;  // as if into a CUDA graph: an op that asks the device for a result fails

class Machine {
 public:
  static Machine& get() {
    static Machine machine;
    return machine;
  }

  template <class Body>
  void run(dim3 grid, unsigned threads, std::size_t shared_bytes, const Body& body) {
    const std::lock_guard lock(mutex_);
    body_ = [](const void* of) { (*static_cast<const Body*>(of))(); };
    context_ = &body;
    gridDim = grid;
    blockDim = {threads, 1, 1};
    while (fibers_.size() < threads) fibers_.push_back(new Fiber);
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, 0};
        shared_.assign(shared_bytes, '\xFF');  // NaN in every float, so that what was not written shows
        run_block(threads);
      }
  }

  void* shared() { return shared_.data(); }

  void block_barrier() { pause(State::at_block); }
  void warp_barrier() { pause(State::at_warp); }

  // read(of): of(lane) is what that lane of this warp passes.
  template <class T, class Read>
  void exchange(const T& mine, const Read& read) {
    static_assert(sizeof(T) <= sizeof(Slot));
    std::memcpy(&slots_[current_], &mine, sizeof(T));
    warp_barrier();
    read([&](unsigned lane) {
      T theirs;
      std::memcpy(&theirs, &slots_[current_ / 32 * 32 + lane % 32], sizeof(T));
      return theirs;
    });
    warp_barrier();
  }

  void copy_later(void* to, const void* from, std::size_t bytes) {
    fibers_[current_]->copies.push_back({to, from, bytes});
  }
  void commit_copies() { fibers_[current_]->groups.push_back(fibers_[current_]->copies.size()); }
  void wait_for_copies(std::size_t groups_in_flight) {
    Fiber& fiber = *fibers_[current_];
    if (fiber.groups.size() <= groups_in_flight) return;
    const std::size_t finished = fiber.groups.size() - groups_in_flight, count = fiber.groups[finished - 1];
    for (std::size_t c = 0; c < count; ++c) {
      std::memcpy(fiber.copies[c].to, fiber.copies[c].from, fiber.copies[c].bytes);
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(count));
    fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + static_cast<std::ptrdiff_t>(finished));
    for (std::size_t& group : fiber.groups) group -= count;
  }

 private:
  enum class State { ready, at_block, at_warp, done };
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  struct Slot {
    alignas(16) unsigned char bytes[32];
  };
  struct Fiber {
    ucontext_t context;  // its beginning
    jmp_buf resume;      // where it paused
    bool started = false;
    std::vector<char> stack = std::vector<char>(std::size_t{64} << 10);
    State state = State::ready;
    std::vector<Copy> copies;
    std::vector<std::size_t> groups;  // number of copies up to the end of each
  };

  static void enter() {
    Machine& machine = get();
    machine.body_(machine.context_);
    machine.pause(State::done);
  }

  // Functions that return twice stand alone, away from variables that the second time would find changed.
  __attribute__((noinline)) static void renew(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Machine::enter, 0);
    fiber.started = false;
    fiber.state = State::ready;
    fiber.copies.clear();
    fiber.groups.clear();
  }

  __attribute__((noinline)) void pause(State state) {
    Fiber& fiber = *fibers_[current_];
    fiber.state = state;
    if (_setjmp(fiber.resume) == 0) _longjmp(main_, 1);
  }

  void run_block(unsigned threads) {
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0);
    if (thread_order == 1) std::reverse(order.begin(), order.end());
    std::uint64_t random = thread_order;
    for (unsigned t = threads; thread_order > 1 && t > 1; --t) {
      random = random * 6364136223846793005U + 1442695040888963407U;
      std::swap(order[t - 1], order[(random >> 33) % t]);
    }
    for (unsigned t = 0; t < threads; ++t) renew(*fibers_[t]);
    slots_.resize(threads);
    for (;;) {
      for (const unsigned t : order)
        if (fibers_[t]->state == State::ready) {
          current_ = t;
          threadIdx = {t, 0, 0};
          resume(*fibers_[t]);
        }
      if (all(0, threads, State::done)) return;
      bool released = all(0, threads, State::at_block);
      if (released) release(0, threads);
      for (unsigned w = 0; w < threads; w += 32)
        if (all(w, std::min(w + 32, threads), State::at_warp)) {
          release(w, std::min(w + 32, threads));
          released = true;
        }
      if (!released) {
        std::fprintf(stderr, "gramian: a barrier that not all threads reach\n");
        std::abort();
      }
    }
  }

  // _setjmp and _longjmp take 20 ns, swapcontext's system calls 400: it only starts a fiber.
  __attribute__((noinline)) void resume(Fiber& fiber) {
    if (_setjmp(main_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }

  bool all(unsigned begin, unsigned end, State state) const {
    for (unsigned t = begin; t < end; ++t)
      if (fibers_[t]->state != state) return false;
    return true;
  }
  void release(unsigned begin, unsigned end) {
    for (unsigned t = begin; t < end; ++t) fibers_[t]->state = State::ready;
  }

  std::mutex mutex_;
  jmp_buf main_;
  std::vector<Fiber*> fibers_;  // kept, with their stacks, for the next launch
  std::vector<char> shared_;
  std::vector<Slot> slots_;
  unsigned current_ = 0;
  void (*body_)(const void*) = nullptr;
  const void* context_ = nullptr;
};

}  // namespace gramian::emulated

inline void __syncthreads() { gramian::emulated::Machine::get().block_barrier(); }
inline void __syncwarp() { gramian::emulated::Machine::get().warp_barrier(); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  T result;
  gramian::emulated::Machine::get().exchange(value, [&](auto of) { result = of(static_cast<unsigned>(lane)); });
  return result;
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  return __shfl_sync(lanes, value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  unsigned result = 0;
  gramian::emulated::Machine::get().exchange(predicate, [&](auto of) {
    for (unsigned lane = 0; lane < 32; ++lane) result |= static_cast<unsigned>(of(lane)) << lane;
  });
  return result;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = std::max(before, value);
  return before;
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = std::min(before, value);
  return before;
}
