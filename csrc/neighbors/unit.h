// The unit in which the neighbour ops compute, on every device.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gramian {

// The power of two that brings the largest row to a norm of at most one: squares neither overflow nor vanish.
template <class T>
double unit_of(double largest, std::int64_t cols) {
  const int exponent = largest > 0 ? std::ilogb(largest) + 2 + std::ilogb(static_cast<double>(cols)) / 2 + 1 : 0;
  return std::ldexp(1.0, -std::clamp(exponent, 8 - std::numeric_limits<T>::max_exponent, 1020));
}

}  // namespace gramian
