#include "core/interrupt.h"

#include <atomic>
#include <chrono>

namespace gramian {
namespace {

std::atomic<InterruptCheck> installed{nullptr};

}  // namespace

void set_interrupt_check(InterruptCheck check) { installed.store(check); }

void check_interrupt() {
  using Clock = std::chrono::steady_clock;
  thread_local Clock::time_point last = Clock::now();
  const Clock::time_point now = Clock::now();
  if (now - last < std::chrono::milliseconds(100)) return;
  last = now;
  if (const InterruptCheck check = installed.load()) check();
}

}  // namespace gramian
