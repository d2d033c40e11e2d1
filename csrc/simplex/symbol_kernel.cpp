// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/symbol_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;
constexpr double kMostSteps = 32;  // of a recursion that is not rescaled
constexpr double kNear = 0x1p-9;   // a difference this far below its terms has lost digits, and may be zero
constexpr double kLargest = 0x1p900, kFar = 1e9;

GRAMIAN_INLINE f64xN select(i64xN mask, f64xN yes, f64xN no) { return mask ? yes : no; }
GRAMIAN_INLINE f64xN size_of(f64xN v) { return -nonpositive(v); }
GRAMIAN_INLINE f64xN larger(f64xN a, f64xN b) { return a > b ? a : b; }

// Integers below 2^52 in one form and the other, by the bits of 2^52 + n.
constexpr std::int64_t kWholeBits = 0x4330000000000000;

GRAMIAN_INLINE f64xN number(i64xN n) {
  n |= kWholeBits;
  f64xN v;
  __builtin_memcpy(&v, &n, sizeof v);
  return v - 0x1p52;
}

GRAMIAN_INLINE i64xN integer(f64xN v) {
  v += 0x1p52;
  i64xN n;
  __builtin_memcpy(&n, &v, sizeof n);
  return n ^ kWholeBits;
}

// {x a b; y c d} as an entry of its family over x: `steps` from the first (up) or the last entry to x.
struct Path {
  f64xN x, a, b, y, c, d;
  f64xN steps;
  i64xN up;
};

GRAMIAN_INLINE void take_shorter(Path& best, f64xN x, f64xN a, f64xN b, f64xN y, f64xN c, f64xN d) {
  const auto square = [](f64xN j) { return (j + 1) * (j + 1); };
  const f64xN first = larger(size_of(a - b), size_of(c - d)), last = lower(a + b, c + d);
  const f64xN above = x - first, below = last - x;
  // The recursion is stable on the way to where the tetrahedron with edges j + 1/2 is largest; its squared volume is a
  // quadratic in the square of an edge.
  const f64xN a2 = square(a), b2 = square(b), c2 = square(c), d2 = square(d), x2 = square(x), y2 = square(y);
  const f64xN skew = a2 - b2 + c2 - d2, rest = y2 - 0.5 * (a2 + b2 + c2 + d2);
  const i64xN growing = 2 * x2 * y2 <= (a2 + b2) * (c2 + d2) + 0.25 * skew * skew - rest * rest;
  // At x = 0 the recursion upwards has a denominator of zero.
  const f64xN up = select((above == 0) | (growing & (first > 0)), above, broadcast(kFar));
  const f64xN down = select((below == 0) | ~growing, below, broadcast(kFar));
  const f64xN steps = 0.5 * lower(up, down);
  const i64xN better = steps < best.steps;
  const auto keep = [&](f64xN& to, f64xN from) { to = select(better, from, to); };
  keep(best.x, x), keep(best.a, a), keep(best.b, b), keep(best.y, y), keep(best.c, c), keep(best.d, d);
  keep(best.steps, steps);
  best.up = better ? (up < down) : best.up;
}

struct Start {
  f64xN x, sign, square;  // the symbol at the end of the family is sign sqrt(square 2^exponent)
  i64xN exponent;
};

// At an end of a family one spin of a triad is the sum of the two others, and Racah's sum has one term. As {p A B; q C D}
// with p = A + B.
GRAMIAN_INLINE Start start(const Path& path, const Scaled* factorial, i64xN inside) {
  const i64xN flip = path.up ? size_of(path.c - path.d) > size_of(path.a - path.b) : path.c + path.d < path.a + path.b;
  const f64xN a = select(flip, path.c, path.a), b = select(flip, path.d, path.b), c = select(flip, path.a, path.c),
              d = select(flip, path.b, path.d), y = path.y, x = select(path.up, size_of(a - b), a + b);
  const i64xN left = path.up & (a >= b), right = path.up & (a < b);
  const auto pick = [&](f64xN if_left, f64xN if_right, f64xN otherwise) {
    return select(left, if_left, select(right, if_right, otherwise));
  };
  const f64xN p = pick(a, b, x), A = pick(x, x, a), B = pick(b, a, b), q = pick(c, d, y), C = pick(y, y, c),
              D = pick(d, c, d);
  const f64xN s = 0.5 * (p + C + D), t = 0.5 * (q + A + D), u = 0.5 * (q + C + B);
  const f64xN above[7] = {A, B, s + 1, s - C, s - D, t - A, u - B};
  const f64xN below[8] = {p + 1, s - p, t - q, t - D, t + 1, u - q, u - C, u + 1};
  std::int64_t index_above[7][kN], index_below[8][kN];
  const auto keep = [&](std::int64_t* to, f64xN n) {
    const i64xN at = integer(n) & inside;
    __builtin_memcpy(to, &at, sizeof at);
  };
#pragma GCC unroll 7
  for (int i = 0; i < 7; ++i) keep(index_above[i], above[i]);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) keep(index_below[i], below[i]);
  f64xN numerator, denominator;
  i64xN exponent;
  for (int l = 0; l < kN; ++l) {
    double over = 1, under = 1;
    std::int64_t power = 0;
#pragma GCC unroll 7
    for (int i = 0; i < 7; ++i) {
      const Scaled& f = factorial[index_above[i][l]];
      over *= f.mantissa, power += f.exponent;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const Scaled& f = factorial[index_below[i][l]];
      under *= f.mantissa, power -= f.exponent;
    }
    numerator[l] = over, denominator[l] = under, exponent[l] = power;
  }
  return {x, select((integer(s) & 1) != 0, broadcast(-1.0), broadcast(1.0)), numerator / denominator, exponent};
}

// Without roots or divisions: with E(z) = (z^2 - (a-b)^2)((a+b+2)^2 - z^2)(z^2 - (c-d)^2)((c+d+2)^2 - z^2) between the
// neighbours of z - 1, the symbol is h times that at the end over the root of the product of E(z) z'^2 / 4, with
// h'' = (x + 1) N(x) h' - E(z) (z^2 - 4) / 4 h. All is scaled by a power of two near (largest)^5.
GRAMIAN_INLINE f64xN value_of(const Path& path, const Start& from) {
  const f64xN a = path.a, b = path.b, c = path.c, d = path.d;
  const auto two = [](f64xN j) { return j * (j + 2); };
  const f64xN a2 = two(a), b2 = two(b), c2 = two(c), d2 = two(d);
  const f64xN linear = 2 * two(path.y) - (a2 + b2 + (c2 + d2)), constant = (a2 - b2) * (d2 - c2);
  const f64xN ab = (a - b) * (a - b), cd = (c - d) * (c - d), sum = a + b + 2, other = c + d + 2;
  const f64xN ab_sum = sum * sum, cd_sum = other * other;
  const auto link = [&](f64xN z2) { return (z2 - ab) * (ab_sum - z2) * ((z2 - cd) * (cd_sum - z2)); };
  f64xN scale = larger(sum, other);
  scale *= scale * scale * (scale * scale);
  i64xN bits;
  __builtin_memcpy(&bits, &scale, sizeof bits);
  bits = 0x7FE0000000000000 - (bits & 0x7FF0000000000000);
  __builtin_memcpy(&scale, &bits, sizeof scale);
  const f64xN scale2 = 0.25 * scale * scale;

  const f64xN turn = select(path.up, f64xN{}, broadcast(2.0)), stride = 2 - 2 * turn;
  f64xN x = from.x, h = broadcast(1.0), before = {}, square = h, z2 = (x + turn) * (x + turn), e = {};
  i64xN lost = {};
  for (f64xN left = path.steps;; left -= 1) {
    const i64xN active = left > 0;
    if (!any_less(f64xN{}, left)) break;
    const f64xN x2 = two(x), term = scale * (x + 1) * (x2 * (x2 + linear) + constant) * h;
    const f64xN next = term - scale2 * (e * (z2 - 4)) * before;
    const f64xN ahead = x + 2 - turn, ahead2 = ahead * ahead;
    e = link(ahead2);
    square = select(active, square * (scale2 * e * z2), square);
    lost = active ? size_of(next) < kNear * size_of(term) : lost;
    before = h;
    h = select(active, next, h);
    z2 = ahead2;
    x += stride;
  }
  const i64xN odd = from.exponent & 1, half = (from.exponent - odd) >> 1;
  f64xN power = {};
  const i64xN power_bits = (half + 1023) << 52;
  __builtin_memcpy(&power, &power_bits, sizeof power);
  const f64xN value =
      from.sign * h * (root(from.square * select(odd != 0, broadcast(2.0), broadcast(1.0)) / square) * power);
  const i64xN fine = ~lost & (square > 1 / kLargest) & (size_of(h) < kLargest) & (half > -900) & (half < 900);
  return select(fine, value, broadcast(__builtin_nan("")));
}

GRAMIAN_INLINE f64xN lanes_of(const i64xN (&spins)[6], const Scaled* factorial) {
  f64xN j[6];
  for (int i = 0; i < 6; ++i) j[i] = number(spins[i]);
  i64xN inside = ~i64xN{};
  constexpr int triads[4][3] = {{0, 1, 2}, {0, 4, 5}, {3, 1, 5}, {3, 4, 2}};
#pragma GCC unroll 4
  for (const auto& t : triads) {
    inside &= ((spins[t[0]] + spins[t[1]] + spins[t[2]]) & 1) == 0;
    inside &= (j[t[0]] + j[t[1]] >= j[t[2]]) & (size_of(j[t[0]] - j[t[1]]) <= j[t[2]]);
  }
  Path path{};
  path.steps = broadcast(kFar);
#pragma GCC unroll 3
  for (int column = 0; column < 3; ++column) {
    const int next = (column + 1) % 3, last = (column + 2) % 3;
    const f64xN x = j[column], a = j[next], b = j[last], y = j[3 + column], c = j[3 + next], d = j[3 + last];
    take_shorter(path, x, a, b, y, c, d);
    take_shorter(path, y, a, d, x, c, b);
  }
  const i64xN near = path.steps <= kMostSteps;
  path.steps = select(inside & near, path.steps, f64xN{});
  const f64xN value = value_of(path, start(path, factorial, inside));
  return select(inside, select(near, value, broadcast(__builtin_nan(""))), f64xN{});
}

void symbols(const std::int64_t* const* spins, std::int64_t begin, std::int64_t end, const Scaled* factorial,
             double* values) {
  i64xN own[6];
  std::int64_t i = begin;
  for (; i + kN <= end; i += kN) {
    for (int k = 0; k < 6; ++k) __builtin_memcpy(&own[k], spins[k] + i, sizeof own[k]);
    store(values + i, lanes_of(own, factorial));
  }
  if (i == end) return;
  for (int k = 0; k < 6; ++k)
    for (int l = 0; l < kN; ++l) own[k][l] = spins[k][i + l < end ? i + l : end - 1];
  const f64xN rest = lanes_of(own, factorial);
  for (int l = 0; i + l < end; ++l) values[i + l] = rest[l];
}

}  // namespace

extern const SymbolKernels symbol{symbols};

}  // namespace gramian::GRAMIAN_ISA
