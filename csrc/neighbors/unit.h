// The unit in which the neighbour ops compute, on every device.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/rows.h"

namespace gramian {

// The power of two that brings the largest row to a norm of at most one: squares neither overflow nor vanish.
template <class T>
GRAMIAN_ROWS_INLINE double unit_of(double largest, std::int64_t cols) {
  constexpr int kLeast = 8 - std::numeric_limits<T>::max_exponent, kMost = 1020;
  const int exponent = largest > 0 ? ::ilogb(largest) + 2 + ::ilogb(static_cast<double>(cols)) / 2 + 1 : 0;
  return ::ldexp(1.0, -(exponent < kLeast ? kLeast : exponent > kMost ? kMost : exponent));
}

}  // namespace gramian
