// Racah's sums: is a symbol zero, and what is a 6j symbol where the recursions have lost digits. Per-level code (see lanes.h).
#pragma once
#include "core/lanes.h"
#include "simplex/sixj_kernel.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

GRAMIAN_INLINE f64xN size_of(f64xN v) { return -nonpositive(v); }
GRAMIAN_INLINE f64xN select(i64xN mask, f64xN yes, f64xN no) { return mask ? yes : no; }

int most(int a, int b) { return a > b ? a : b; }
int least(int a, int b) { return a < b ? a : b; }

// The symbol is a product of roots times the sum over t in [begin, end] of (-1)^t (t + 1)! over the product of all
// (t - low)! and (high - t)!.
struct Sum {
  int low[4], high[3], begin, end;

  Sum(const Family& f, int x) {
    const int a = f.spin[0], b = f.spin[1], c = f.spin[2], d = f.spin[3], y = f.column;
    low[0] = (x + a + b) / 2, low[1] = (x + c + d) / 2, low[2] = (y + a + d) / 2, low[3] = (y + c + b) / 2;
    high[0] = (x + a + y + c) / 2, high[1] = (a + b + c + d) / 2, high[2] = (b + x + d + y) / 2;
    begin = most(most(low[0], low[1]), most(low[2], low[3])), end = least(least(high[0], high[1]), high[2]);
  }
};

// ---- Zero? The sum of integers modulo 2^61 - 1. A sum that is not zero but divisible by this prime would be taken for zero;
// it is asked only of entries that are below 1e-9 of their neighbours. ----

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

std::uint64_t times(std::uint64_t a, std::uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  const std::uint64_t sum = static_cast<std::uint64_t>(product & kPrime) + static_cast<std::uint64_t>(product >> 61);
  return sum >= kPrime ? sum - kPrime : sum;
}

template <class... More>
std::uint64_t times(std::uint64_t a, std::uint64_t b, std::uint64_t c, More... more) {
  return times(times(a, b), c, more...);
}

bool is_zero_6j(const Family& f, int x, Factorials fact) {
  const Sum s(f, x);
  std::uint64_t total = 0;
  for (int t = s.begin; t <= s.end; ++t) {
    const std::uint64_t* inv = fact.inverse;
    const std::uint64_t term = times(fact.value[t + 1], inv[t - s.low[0]], inv[t - s.low[1]], inv[t - s.low[2]],
                                     inv[t - s.low[3]], inv[s.high[0] - t], inv[s.high[1] - t], inv[s.high[2] - t]);
    total += t % 2 == 0 ? term : kPrime - term;
    if (total >= kPrime) total -= kPrime;
  }
  return total == 0;
}

bool is_zero_3j(const Family& f, int x, Factorials fact) {
  const int a = f.spin[0], b = f.spin[1], m = f.spin[2], c = f.column, y = m - x;
  const int low[2] = {(c - b + x) / 2, (c - a - y) / 2}, high[3] = {(a + b - c) / 2, (a - x) / 2, (b + y) / 2};
  const int begin = most(0, most(-low[0], -low[1])), end = least(least(high[0], high[1]), high[2]);
  std::uint64_t total = 0;
  for (int t = begin; t <= end; ++t) {
    const std::uint64_t* inv = fact.inverse;
    const std::uint64_t term =
        times(inv[t], inv[t + low[0]], inv[t + low[1]], inv[high[0] - t], inv[high[1] - t], inv[high[2] - t]);
    total += t % 2 == 0 ? term : kPrime - term;
    if (total >= kPrime) total -= kPrime;
  }
  return total == 0;
}

// ---- Its value. Next to a sign change of a family an entry is smaller than its neighbours, and no recursion in double
// precision gives more digits of it than are left of theirs. The sum does, in pairs of doubles, one symbol a lane. ----

struct Pair {
  f64xN high, low;
};

GRAMIAN_INLINE Pair difference(Pair a, Pair b) {
  const f64xN high = a.high - b.high, other = high - a.high;
  const f64xN low = (a.high - (high - other)) - (b.high + other) + (a.low - b.low), sum = high + low;
  return {sum, low - (sum - high)};
}

GRAMIAN_INLINE Pair times(Pair a, f64xN b) {
  const f64xN high = a.high * b;
  f64xN low;
  for (int l = 0; l < kN; ++l) low[l] = __builtin_fma(a.high[l], b[l], -high[l]);
  low += a.low * b;
  const f64xN sum = high + low;
  return {sum, low - (sum - high)};
}

constexpr int kMostTerms = 64, kLargestTerm = 8192;  // the product of four numbers below that is exact

// An entry of a family that is to be computed again.
struct Entry {
  Family family;
  int x;
  double* value;
};

// Writes those of at most kN entries whose sums lose few enough digits to be better than what stands there.
__attribute__((noinline)) void refine(const Entry* entries, int count, Factorials fact) {
  f64xN begin = {}, low[4] = {}, high[3] = {};
  i64xN terms = {};
  std::int64_t longest = 0;
  double root_of[kN] = {}, factor[kN] = {};
  for (int l = 0; l < count; ++l) {
    const Sum s(entries[l].family, entries[l].x);
    begin[l] = s.begin, terms[l] = s.end - s.begin;
    longest = terms[l] > longest ? terms[l] : longest;
    double square = 1, first = fact.scaled[s.begin + 1].mantissa;
    std::int64_t square_exponent = 0, exponent = fact.scaled[s.begin + 1].exponent;
    const auto divide = [&](int n) { first /= fact.scaled[n].mantissa, exponent -= fact.scaled[n].exponent; };
    for (int i = 0; i < 4; ++i) low[i][l] = s.low[i], divide(s.begin - s.low[i]);
    for (int i = 0; i < 3; ++i) high[i][l] = s.high[i], divide(s.high[i] - s.begin);
    const auto& j = entries[l].family.spin;
    const int x = entries[l].x, y = entries[l].family.column;
    const int triads[4][3] = {{x, j[0], j[1]}, {x, j[2], j[3]}, {y, j[0], j[3]}, {y, j[2], j[1]}};
    for (int i = 0; i < 4; ++i) {
      for (const int spin : triads[i]) {
        const Scaled& f = fact.scaled[s.low[i] - spin];
        square *= f.mantissa, square_exponent += f.exponent;
      }
      square /= fact.scaled[s.low[i] + 1].mantissa, square_exponent -= fact.scaled[s.low[i] + 1].exponent;
    }
    const std::int64_t odd = square_exponent & 1, power = exponent + ((square_exponent - odd) >> 1) + 1023;
    if (power < 1 || power > 2046) continue;
    const std::int64_t bits = power << 52;
    __builtin_memcpy(&factor[l], &bits, sizeof bits);
    root_of[l] = (s.begin % 2 == 0 ? first : -first) * __builtin_sqrt(odd ? 2 * square : square);
  }
  // Horner: the sum over its first term is 1 - r(1 - r'(1 - ...)), r the ratio of neighbouring terms, here as a numerator
  // `rest` and a denominator `unit`. Both take a power of two out at each step.
  Pair rest{}, unit{broadcast(1.0), {}};
  f64xN size = {};
  for (std::int64_t k = longest - 1; k >= 0; --k) {
    const f64xN t = begin + static_cast<double>(k);
    const i64xN active = k < terms;
    f64xN up = (t + 2) * (high[0] - t) * ((high[1] - t) * (high[2] - t));
    f64xN down = (t + 1 - low[0]) * (t + 1 - low[1]) * ((t + 1 - low[2]) * (t + 1 - low[3]));
    i64xN bits;
    __builtin_memcpy(&bits, &down, sizeof bits);
    bits = 0x7FE0000000000000 - (bits & 0x7FF0000000000000);
    f64xN scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    up = select(active, up * scale, f64xN{});
    down = select(active, down * scale, broadcast(1.0));
    rest = times(difference(unit, rest), up);
    size = (unit.high + size) * up;
    unit = times(unit, down);
  }
  const Pair sum = difference(unit, rest);
  constexpr double kMostLost = 0x1p50;  // pairs keep 2^-104, tolerance is 2^-40
  for (int l = 0; l < count; ++l)
    if (factor[l] != 0 && unit.high[l] + size[l] < kMostLost * __builtin_fabs(sum.high[l]))
      *entries[l].value = sum.high[l] / unit.high[l] * root_of[l] * factor[l];
}

// Entries whose sums are short enough wait until there is one for each lane.
struct Refiner {
  Factorials factorials;
  Entry entries[kN];
  int count = 0;

  explicit Refiner(Factorials tables) : factorials(tables) {}
  void add(const Family& family, int x, double* value) {
    if (family.count > kMostTerms || Sum(family, x).end + 2 > kLargestTerm) return;
    entries[count++] = {family, x, value};
    if (count == kN) flush();
  }
  void flush() {
    if (count > 0) refine(entries, count, factorials);
    count = 0;
  }
};

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
