// Views of tables of factorials, as kernels read them; factorial_tables.h makes them.
#pragma once
#include <cstdint>

namespace gramian {

// mantissa * 2^exponent, the mantissa in [1, 2).
struct Scaled {
  double mantissa;
  std::int64_t exponent;
};

struct Factorials {
  const Scaled* scaled;          // n!
  const std::uint64_t* value;    // n! modulo the prime 2^61 - 1, by which an entry next to a zero is told from zero
  const std::uint64_t* inverse;  // 1 / n! modulo that
};

}  // namespace gramian
