// Tables of factorials for symbols of spins up to a largest, kept from call to call.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "simplex/factorials.h"

namespace gramian {

// n! and 1 / n! for n <= 2 largest + 2, all that symbols of doubled spins up to `largest` take.
class FactorialTables {
 public:
  explicit FactorialTables(std::int64_t largest)
      : largest_(largest), scaled_(entries(largest)), value_(scaled_.size()), inverse_(value_) {
    value_[0] = 1;
    for (std::size_t n = 1; n < value_.size(); ++n) value_[n] = times_modulo(value_[n - 1], n);
    std::uint64_t power = value_.back(), inverse = 1;  // a^(p - 2)
    for (std::uint64_t bits = kPrime - 2; bits != 0; bits >>= 1) {
      if (bits & 1) inverse = times_modulo(inverse, power);
      power = times_modulo(power, power);
    }
    for (std::size_t n = value_.size(); n-- > 0;) {
      inverse_[n] = inverse;
      inverse = times_modulo(inverse, n);
    }
    long double mantissa = 1;
    std::int64_t exponent = 0;
    for (std::size_t n = 0; n < scaled_.size(); ++n) {
      int more = 0;
      mantissa = 2 * std::frexp(n == 0 ? mantissa : mantissa * static_cast<long double>(n), &more);
      exponent += more - 1;
      scaled_[n] = {static_cast<double>(mantissa), exponent};
    }
  }
  static std::size_t entries(std::int64_t largest) { return static_cast<std::size_t>(2 * largest + 3); }
  std::int64_t largest() const { return largest_; }
  Factorials view() const { return {scaled_.data(), value_.data(), inverse_.data()}; }

 private:
  std::int64_t largest_;
  std::vector<Scaled> scaled_;
  std::vector<std::uint64_t> value_, inverse_;
};

// The largest tables so far, or larger ones: making them takes longer than many a symbol.
inline std::shared_ptr<const FactorialTables> factorials_up_to(std::int64_t largest) {
  struct Kept {
    std::mutex mutex;
    std::shared_ptr<const FactorialTables> tables;
  };
  static auto* const kept = new Kept;  // never destroyed: a worker may still run when the process ends
  const std::lock_guard lock(kept->mutex);
  if (kept->tables == nullptr || kept->tables->largest() < largest)
    kept->tables = std::make_shared<const FactorialTables>(std::max<std::int64_t>(largest, 100));
  return kept->tables;
}

}  // namespace gramian
