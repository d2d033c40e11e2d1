// Racah's sums, the same in vector lanes and in threads of a GPU: is a symbol zero, and what is a 6j symbol where the recursions
// have lost digits.
#pragma once
#include "simplex/sixj_kernel.h"

namespace gramian {

GRAMIAN_SPIN_INLINE std::int64_t larger_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
GRAMIAN_SPIN_INLINE std::int64_t smaller_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// An entry between neighbours of different sign that is this far below the one before it has lost digits, and may be zero. In a long
// family it is only asked whether it is: sums have as many terms as families entries, and long ones lose all digits too.
constexpr double kNear = 0x1p-5, kSuspect = 1e-9;
constexpr int kMostTerms = 64, kLargestTerm = 8192;  // the product of four numbers below that is exact

GRAMIAN_SPIN_INLINE double threshold(std::int64_t count) { return count <= kMostTerms ? kNear : kSuspect; }

GRAMIAN_SPIN_INLINE bool lost_digits(double below, double value, double above, std::int64_t count) {
  return (below < 0) != (above < 0) && __builtin_fabs(value) < threshold(count) * __builtin_fabs(below);
}

// A 6j symbol is a product of roots times the sum over t in [begin, end] of (-1)^t (t + 1)! over the product of all
// (t - low)! and (high - t)!.
struct RacahSum {
  std::int64_t low[4], high[3], begin, end;

  GRAMIAN_SPIN_MEMBER RacahSum(const Family& f, std::int64_t x) {
    const std::int64_t a = f.spin[0], b = f.spin[1], c = f.spin[2], d = f.spin[3], y = f.column;
    low[0] = (x + a + b) / 2, low[1] = (x + c + d) / 2, low[2] = (y + a + d) / 2, low[3] = (y + c + b) / 2;
    high[0] = (x + a + y + c) / 2, high[1] = (a + b + c + d) / 2, high[2] = (b + x + d + y) / 2;
    begin = larger_of(larger_of(low[0], low[1]), larger_of(low[2], low[3]));
    end = smaller_of(smaller_of(high[0], high[1]), high[2]);
  }
};

// ---- Zero? The sum of integers modulo 2^61 - 1. A sum that is not zero but divisible by this prime would be taken for zero;
// it is asked only of entries that are below 1e-9 of their neighbours. ----

template <class... More>
GRAMIAN_SPIN_INLINE std::uint64_t times_modulo(std::uint64_t a, std::uint64_t b, std::uint64_t c, More... more) {
  return times_modulo(times_modulo(a, b), c, more...);
}

// The sum over t of (-1)^t term(t).
template <class Term>
GRAMIAN_SPIN_INLINE bool alternates_to_zero(std::int64_t begin, std::int64_t end, const Term& term) {
  std::uint64_t total = 0;
  for (std::int64_t t = begin; t <= end; ++t) {
    total += t % 2 == 0 ? term(t) : kPrime - term(t);
    if (total >= kPrime) total -= kPrime;
  }
  return total == 0;
}

GRAMIAN_SPIN_INLINE bool is_zero_6j(const Family& f, std::int64_t x, Factorials fact) {
  const RacahSum s(f, x);
  const std::uint64_t* const inv = fact.inverse;
  return alternates_to_zero(s.begin, s.end, [&](std::int64_t t) {
    return times_modulo(fact.value[t + 1], inv[t - s.low[0]], inv[t - s.low[1]], inv[t - s.low[2]], inv[t - s.low[3]],
                        inv[s.high[0] - t], inv[s.high[1] - t], inv[s.high[2] - t]);
  });
}

GRAMIAN_SPIN_INLINE bool is_zero_3j(const Family& f, std::int64_t x, Factorials fact) {
  const std::int64_t a = f.spin[0], b = f.spin[1], m = f.spin[2], c = f.column, y = m - x;
  const std::int64_t low[2] = {(c - b + x) / 2, (c - a - y) / 2};
  const std::int64_t high[3] = {(a + b - c) / 2, (a - x) / 2, (b + y) / 2};
  const std::uint64_t* const inv = fact.inverse;
  return alternates_to_zero(larger_of(0, larger_of(-low[0], -low[1])),
                            smaller_of(smaller_of(high[0], high[1]), high[2]), [&](std::int64_t t) {
                              return times_modulo(inv[t], inv[t + low[0]], inv[t + low[1]], inv[high[0] - t],
                                                  inv[high[1] - t], inv[high[2] - t]);
                            });
}

// ---- Its value. Next to a sign change of a family an entry is smaller than its neighbours, and no recursion in double
// precision gives more digits of it than are left of theirs. The sum does, in pairs of doubles. ----

GRAMIAN_SPIN_INLINE bool is_short(const Family& f, std::int64_t x) {
  return f.count <= kMostTerms && RacahSum(f, x).end + 2 <= kLargestTerm;
}

// root * power is what the sum over its first term is multiplied by; power is 0 where that is beyond all doubles.
struct RacahScale {
  double root = 0, power = 0;

  GRAMIAN_SPIN_MEMBER RacahScale(const Family& f, std::int64_t x, const RacahSum& s, const Scaled* factorial) {
    double square = 1, first = factorial[s.begin + 1].mantissa;
    std::int64_t square_exponent = 0, exponent = factorial[s.begin + 1].exponent;
    const auto divide = [&](std::int64_t n) { first /= factorial[n].mantissa, exponent -= factorial[n].exponent; };
    for (int i = 0; i < 4; ++i) divide(s.begin - s.low[i]);
    for (int i = 0; i < 3; ++i) divide(s.high[i] - s.begin);
    const auto triad = [&](std::int64_t sum, std::int64_t j1, std::int64_t j2, std::int64_t j3) {
      const Scaled &f1 = factorial[sum - j1], &f2 = factorial[sum - j2], &f3 = factorial[sum - j3],
                   &under = factorial[sum + 1];
      square = square * f1.mantissa * f2.mantissa * f3.mantissa / under.mantissa;
      square_exponent += f1.exponent + f2.exponent + f3.exponent - under.exponent;
    };
    const std::int64_t a = f.spin[0], b = f.spin[1], c = f.spin[2], d = f.spin[3], y = f.column;
    triad(s.low[0], x, a, b), triad(s.low[1], x, c, d), triad(s.low[2], y, a, d), triad(s.low[3], y, c, b);
    const std::int64_t odd = square_exponent & 1, biased = exponent + ((square_exponent - odd) >> 1) + 1023;
    if (biased < 1 || biased > 2046) return;
    const std::int64_t bits = biased << 52;
    __builtin_memcpy(&power, &bits, sizeof power);
    root = (s.begin % 2 == 0 ? first : -first) * __builtin_sqrt(odd ? 2 * square : square);
  }
};

// `Math` names the type of a value and that of an integer beside it; product(a, b), rounded, and what rounding took from it.
template <class Math>
struct Pair {
  typename Math::Value high, low;
};

template <class Math>
GRAMIAN_SPIN_INLINE Pair<Math> difference(Pair<Math> a, Pair<Math> b) {
  using V = typename Math::Value;
  const V high = a.high - b.high, other = high - a.high;
  const V low = (a.high - (high - other)) - (b.high + other) + (a.low - b.low), sum = high + low;
  return {sum, low - (sum - high)};
}

template <class Math>
GRAMIAN_SPIN_INLINE Pair<Math> times(Pair<Math> a, typename Math::Value b) {
  using V = typename Math::Value;
  const V high = Math::product(a.high, b);
  const V low = Math::product_error(a.high, b, high) + a.low * b, sum = high + low;
  return {sum, low - (sum - high)};
}

template <class Math>
struct RacahTerms {
  typename Math::Value begin, low[4], high[3];
  typename Math::Integer count;  // behind the first
};

// The sum over its first term, 0 where it loses so many digits that it is no better than what recursions give. By Horner: 1 -
// r(1 - r'(1 - ...)), r the ratio of neighbouring terms, here as a numerator `rest` and a denominator `unit`. Both take a power of
// two out at each step.
template <class Math>
GRAMIAN_SPIN_INLINE typename Math::Value added_up(const RacahTerms<Math>& s, std::int64_t longest) {
  using V = typename Math::Value;
  using Integer = typename Math::Integer;
  const V one = Math::number(1.0);
  Pair<Math> rest{}, unit{one, V{}};
  V size{};
  for (std::int64_t k = longest - 1; k >= 0; --k) {
    const V t = s.begin + static_cast<double>(k);
    const auto active = k - Integer{} < s.count;
    V up = (t + 2) * (s.high[0] - t) * ((s.high[1] - t) * (s.high[2] - t));
    V down = (t + 1 - s.low[0]) * (t + 1 - s.low[1]) * ((t + 1 - s.low[2]) * (t + 1 - s.low[3]));
    Integer bits;
    __builtin_memcpy(&bits, &down, sizeof bits);
    bits = 0x7FE0000000000000 - (bits & 0x7FF0000000000000);
    V scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    up = active ? up * scale : V{};
    down = active ? down * scale : one;
    rest = times<Math>(difference(unit, rest), up);
    size = (unit.high + size) * up;
    unit = times<Math>(unit, down);
  }
  const V sum = difference(unit, rest).high;
  constexpr double kMostLost = 0x1p50;  // pairs keep 2^-104, tolerance is 2^-40
  return unit.high + size < kMostLost * (sum < 0 ? -sum : sum) ? sum / unit.high : V{};
}

}  // namespace gramian
