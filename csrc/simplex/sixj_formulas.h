// What 6j and 3j symbols are made of, the same in vector lanes and in threads of a GPU: which are admissible, and the
// tridiagonal matrices whose eigenvectors families of them are. `Math` names the type of a value and its
// functions: root, and number, a constant in every lane.
#pragma once
#include "simplex/racah.h"

namespace gramian {

// ---- Admissible spins, all doubled ----

GRAMIAN_SPIN_INLINE std::int64_t apart(std::int64_t a, std::int64_t b) { return a > b ? a - b : b - a; }

GRAMIAN_SPIN_INLINE bool is_triad(std::int64_t a, std::int64_t b, std::int64_t c) {
  return (a + b + c) % 2 == 0 && a + b >= c && apart(a, b) <= c;
}

// The family {x a; b} of a 6j symbol over its upper left spin; no entries where nothing is admissible.
GRAMIAN_SPIN_INLINE Family recoupling(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d,
                                      std::int64_t column) {
  const std::int64_t first = larger_of(apart(a, b), apart(c, d)), last = smaller_of(a + b, c + d);
  const bool fits = is_triad(column, a, d) && is_triad(column, c, b) && (a + b + c + d) % 2 == 0 && first <= last;
  return {{static_cast<std::int32_t>(a), static_cast<std::int32_t>(b), static_cast<std::int32_t>(c),
           static_cast<std::int32_t>(d)},
          static_cast<std::int32_t>(column),
          static_cast<std::int32_t>(first),
          fits ? static_cast<std::int32_t>((last - first) / 2 + 1) : 0,
          0,
          1};
}

// The shortest family that holds the symbol spin(0), ..., spin(5) = j1, j2, j3, l1, l2, l3, and its place in it. Any of the three
// columns may come first; the number of entries is the same over either spin of a column.
template <class Spin>
GRAMIAN_SPIN_INLINE Family shortest_recoupling(const Spin& spin) {
  Family best{};
  for (int column = 0; column < 3; ++column) {
    const int next = (column + 1) % 3, last = (column + 2) % 3;
    Family family = recoupling(spin(next), spin(last), spin(3 + next), spin(3 + last), spin(3 + column));
    const std::int64_t x = spin(column);
    if (family.count == 0 || x < family.first || x > family.first + 2 * (family.count - 1) ||
        (x - family.first) % 2 != 0)
      return Family{};
    family.target = static_cast<std::int32_t>((x - family.first) / 2);
    if (best.count == 0 || family.count < best.count) best = family;
  }
  return best;
}

// The family over m1 of the 3j symbol spin(0), ..., spin(5) = j1, j2, j3, m1, m2, m3, and its place in it.
template <class Spin>
GRAMIAN_SPIN_INLINE Family coupling(const Spin& spin) {
  const std::int64_t a = spin(0), b = spin(1), c = spin(2), m1 = spin(3), m2 = spin(4), m3 = spin(5), m = -m3;
  for (int i = 0; i < 3; ++i)
    if (spin(3 + i) < -spin(i) || spin(3 + i) > spin(i) || (spin(i) + spin(3 + i)) % 2 != 0) return Family{};
  if (m1 + m2 + m3 != 0 || !is_triad(a, b, c)) return Family{};
  const std::int64_t first = larger_of(-a, m - b), last = smaller_of(a, m + b);
  return {{static_cast<std::int32_t>(a), static_cast<std::int32_t>(b), static_cast<std::int32_t>(m), 0},
          static_cast<std::int32_t>(c),
          static_cast<std::int32_t>(first),
          static_cast<std::int32_t>((last - first) / 2 + 1),
          static_cast<std::int32_t>((m1 - first) / 2),
          (a - b - m3) % 4 == 0 ? 1 : -1};
}

// ---- The tridiagonal matrices. x is doubled; products of integers stay exact below 2^53. ----

template <class Math>
struct Recoupling {
  using V = typename Math::Value;
  static constexpr bool kRowFactor = true;  // entries are divided by sqrt(2 x + 1)
  static constexpr bool kRefined = true;
  V a, b, c, d;

  GRAMIAN_SPIN_MEMBER V diagonal(V x) const {
    const V a2 = a * (a + 2), b2 = b * (b + 2), c2 = c * (c + 2), d2 = d * (d + 2), x2 = x * (x + 2);
    const V bent = 0.5 * (x2 + a2 - b2) * ((x2 + d2 - c2) / (x2 == 0 ? Math::number(1.0) : x2));
    return 0.25 * (a2 + d2 - bent);
  }
  // Between x - 2 and x.
  GRAMIAN_SPIN_MEMBER V beside(V x) const {
    const V square = x * x, ab = a - b, cd = c - d, sum = a + b + 2, other = c + d + 2;
    const V left = (square - ab * ab) * (sum * sum - square), right = (square - cd * cd) * (other * other - square);
    return 0.0625 * Math::root(left * (right / (square * (square - 1))));
  }
  GRAMIAN_SPIN_MEMBER static V eigenvalue(V y) { return 0.25 * y * (y + 2); }
  // Where the tetrahedron with edges j + 1/2 is largest: its squared volume is a quadratic in the square of an edge.
  GRAMIAN_SPIN_MEMBER V centre(V y) const {
    const V a2 = (a + 1) * (a + 1), b2 = (b + 1) * (b + 1), c2 = (c + 1) * (c + 1), d2 = (d + 1) * (d + 1);
    const V y2 = (y + 1) * (y + 1), skew = a2 - b2 + c2 - d2, rest = y2 - 0.5 * (a2 + b2 + c2 + d2);
    const V x2 = ((a2 + b2) * (c2 + d2) + 0.25 * skew * skew - rest * rest) / (2 * y2);
    return Math::root(x2 > 0 ? x2 : V{}) - 1;
  }
  GRAMIAN_SPIN_MEMBER static bool is_zero(const Family& f, int x, Factorials fact) { return is_zero_6j(f, x, fact); }
  GRAMIAN_SPIN_MEMBER static int sign(const Family& f) {
    return (f.spin[0] + f.spin[1] + f.spin[2] + f.spin[3]) % 4 == 0 ? 1 : -1;
  }
};

template <class Math>
struct Coupling {
  using V = typename Math::Value;
  static constexpr bool kRowFactor = false, kRefined = false;
  V a, b, m, unused;

  GRAMIAN_SPIN_MEMBER V diagonal(V x) const { return 0.25 * (a * (a + 2) + b * (b + 2) + 2 * x * (m - x)); }
  GRAMIAN_SPIN_MEMBER V beside(V x) const {
    const V y = m - x;
    return 0.25 * Math::root((a - x + 2) * (a + x) * ((b + y + 2) * (b - y)));
  }
  GRAMIAN_SPIN_MEMBER static V eigenvalue(V y) { return 0.25 * y * (y + 2); }
  // The mean of x: the projection of a on the sum of a and b, projected on the axis.
  GRAMIAN_SPIN_MEMBER V centre(V y) const {
    const V a2 = a * (a + 2), b2 = b * (b + 2), y2 = y * (y + 2);
    return m * (y2 + a2 - b2) / (y2 == 0 ? Math::number(1.0) : 2 * y2);
  }
  GRAMIAN_SPIN_MEMBER static bool is_zero(const Family& f, int x, Factorials fact) { return is_zero_3j(f, x, fact); }
  GRAMIAN_SPIN_MEMBER static int sign(const Family&) { return 1; }
};

}  // namespace gramian
