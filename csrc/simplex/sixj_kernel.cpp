// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/sixj_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

GRAMIAN_INLINE f64xN size_of(f64xN v) { return -nonpositive(v); }

GRAMIAN_INLINE f64xN select(i64xN mask, f64xN yes, f64xN no) { return mask ? yes : no; }

GRAMIAN_INLINE bool any(i64xN mask) {
#if defined(__AVX512F__)
  return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask)) != 0;
#else
  std::int64_t some = 0;
  for (int l = 0; l < kN; ++l) some |= mask[l];
  return some != 0;
#endif
}

// ---- Is a symbol exactly zero? Racah's sum of integers modulo 2^61 - 1. A sum that is not zero but divisible by this
// prime would be taken for zero; it is asked only of entries that are below 1e-9 of both their neighbours. ----

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

int most(int a, int b) { return a > b ? a : b; }
int least(int a, int b) { return a < b ? a : b; }

bool is_zero_6j(const Family& f, int x, Factorials fact) {
  const int a = f.spin[0], b = f.spin[1], c = f.spin[2], d = f.spin[3], y = f.column;
  const int low[4] = {(x + a + b) / 2, (x + c + d) / 2, (y + a + d) / 2, (y + c + b) / 2};
  const int high[3] = {(x + a + y + c) / 2, (a + b + c + d) / 2, (b + x + d + y) / 2};
  const int begin = most(most(low[0], low[1]), most(low[2], low[3])), end = least(least(high[0], high[1]), high[2]);
  std::uint64_t total = 0;
  for (int t = begin; t <= end; ++t) {
    const std::uint64_t* inv = fact.inverse;
    const std::uint64_t term = times(fact.value[t + 1], inv[t - low[0]], inv[t - low[1]], inv[t - low[2]],
                                     inv[t - low[3]], inv[high[0] - t], inv[high[1] - t], inv[high[2] - t]);
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

// ---- The tridiagonal matrices. x is doubled; products of integers stay exact below 2^53. ----

struct Recoupling {
  static constexpr bool kRowFactor = true;  // entries are divided by sqrt(2 x + 1)
  f64xN a, b, c, d;

  GRAMIAN_INLINE f64xN diagonal(f64xN x) const {
    const f64xN a2 = a * (a + 2), b2 = b * (b + 2), c2 = c * (c + 2), d2 = d * (d + 2), x2 = x * (x + 2);
    const f64xN bent = 0.5 * (x2 + a2 - b2) * ((x2 + d2 - c2) / select(x2 == 0, broadcast(1.0), x2));
    return 0.25 * (a2 + d2 - bent);
  }
  // Between x - 2 and x.
  GRAMIAN_INLINE f64xN beside(f64xN x) const {
    const f64xN square = x * x, ab = a - b, cd = c - d, sum = a + b + 2, other = c + d + 2;
    const f64xN left = (square - ab * ab) * (sum * sum - square), right = (square - cd * cd) * (other * other - square);
    return root(left * (right / (square - 1))) / (16 * x);
  }
  GRAMIAN_INLINE static f64xN eigenvalue(f64xN y) { return 0.25 * y * (y + 2); }
  static bool is_zero(const Family& f, int x, Factorials fact) { return is_zero_6j(f, x, fact); }
  static int sign(const Family& f) { return (f.spin[0] + f.spin[1] + f.spin[2] + f.spin[3]) % 4 == 0 ? 1 : -1; }
};

struct Coupling {
  static constexpr bool kRowFactor = false;
  f64xN a, b, m, unused;

  GRAMIAN_INLINE f64xN diagonal(f64xN x) const { return 0.25 * (a * (a + 2) + b * (b + 2) + 2 * x * (m - x)); }
  GRAMIAN_INLINE f64xN beside(f64xN x) const {
    const f64xN y = m - x;
    return 0.25 * root((a - x + 2) * (a + x) * ((b + y + 2) * (b - y)));
  }
  GRAMIAN_INLINE static f64xN eigenvalue(f64xN y) { return 0.25 * y * (y + 2); }
  static bool is_zero(const Family& f, int x, Factorials fact) { return is_zero_3j(f, x, fact); }
  static int sign(const Family&) { return 1; }
};

// What a step of the recursion takes: row k of `at`, for all lanes or for each.
template <bool kShared>
struct Steps {
  static constexpr int kStride = kShared ? 1 : kN;
  double* diagonal;
  double* beside;   // between k and k + 1; 0 behind the last entry
  double* inverse;  // 1 / beside, or 0

  GRAMIAN_INLINE static f64xN at(const double* row, std::int64_t k) {
    if constexpr (kShared)
      return broadcast(row[k]);
    else
      return load(row + k * kN);
  }
};

struct Solved {
  i64xN join;          // entries behind this index are still to be multiplied by `ratio`
  f64xN ratio, scale;  // `scale` makes it a unit vector with the right sign
};

constexpr double kBig = 0x1p400;

// Brings the lanes that have outgrown kBig back, in entries [from, to) and in `sum`, the sum of their squares.
__attribute__((noinline)) f64xN shrink(i64xN big, double* entry, std::int64_t from, std::int64_t to, f64xN* sum) {
  const f64xN factor = select(big, broadcast(1 / kBig), broadcast(1.0));
  for (std::int64_t k = from; k < to; ++k) store(entry + k * kN, load(entry + k * kN) * factor);
  *sum = *sum * factor * factor;
  return factor;
}

GRAMIAN_INLINE i64xN index(std::int64_t k) { return k - i64xN{}; }

// One eigenvector in each lane. Forward from the first entry for as long as entries grow, as they do where the recursion
// is unstable the other way; backward from the last to the same place; joined there, where the entry is large.
template <bool kShared>
GRAMIAN_INLINE Solved solve(const Steps<kShared>& steps, i64xN count, std::int64_t longest, f64xN eigenvalue,
                            f64xN sign, double* entry) {
  using S = Steps<kShared>;
  i64xN alive = count > 1, join = {};
  f64xN value = broadcast(1.0), before = {}, beside = {}, low_sum = value, peak = value;
  store(entry, value);
  for (std::int64_t k = 0; k + 1 < longest && any(alive); ++k) {
    const f64xN inverse = S::at(steps.inverse, k);
    const f64xN next = (eigenvalue - S::at(steps.diagonal, k)) * inverse * value - (beside * inverse) * before;
    beside = S::at(steps.beside, k);
    before = value;
    value = next;
    store(entry + (k + 1) * kN, value);
    alive &= (size_of(value) >= size_of(before)) & (index(k + 1) < count);
    join = alive ? index(k + 1) : join;
    low_sum = select(alive, low_sum + value * value, low_sum);
    const i64xN big = alive & (size_of(value) > kBig);
    if (any(big)) {
      const f64xN factor = shrink(big, entry, 0, k + 2, &low_sum);
      value *= factor;
      before *= factor;
    }
    peak = select(alive, value, peak);
  }

  f64xN high_sum = {}, meeting = {};
  value = before = f64xN{};
  for (std::int64_t k = longest - 1; k >= 0 && any(join <= index(k)); --k) {
    f64xN next = {};
    if (k + 1 < longest) {
      const f64xN inverse = S::at(steps.inverse, k);
      next = (eigenvalue - S::at(steps.diagonal, k + 1)) * inverse * value -
             (S::at(steps.beside, k + 1) * inverse) * before;
    }
    before = value;
    value = count == index(k + 1) ? broadcast(1.0) : next;
    const i64xN big = (join <= index(k)) & (size_of(value) > kBig);
    if (any(big)) {
      const f64xN factor = shrink(big, entry, k + 1, longest, &high_sum);
      value *= factor;
      before *= factor;
    }
    const i64xN behind = join < index(k);
    meeting = select(join == index(k), value, meeting);
    high_sum = select(behind, high_sum + value * value, high_sum);
    store(entry + k * kN, select(behind, value, load(entry + k * kN)));
  }
  const f64xN ratio = peak / meeting, turned = select(ratio < 0, -sign, sign);
  return {join, ratio, turned / root(low_sum + ratio * (ratio * high_sum))};
}

constexpr double kSuspect = 1e-9;  // an entry this far below both its neighbours may be zero

// The finished entry k of all lanes; an entry that should be exactly zero is.
template <class Basis>
GRAMIAN_INLINE f64xN finished(const Family* families, std::int32_t lanes, std::int32_t column_step,
                              const Solved& solved, i64xN count, Factorials factorials, const double* entry,
                              std::int64_t k) {
  const auto raw = [&](std::int64_t row) {
    const f64xN value = load(entry + row * kN);
    return select(index(row) > solved.join, value * solved.ratio, value);
  };
  f64xN value = raw(k);
  const i64xN inside = index(k + 1) < count;
  if (k > 0 && any(inside)) {
    const i64xN suspect =
        inside & (size_of(value) < kSuspect * size_of(raw(k - 1))) & (size_of(value) < kSuspect * size_of(raw(k + 1)));
    if (any(suspect))
      for (int l = 0; l < lanes; ++l) {
        Family family = families[column_step == 0 ? l : 0];
        family.column += l * column_step;
        if (suspect[l] != 0 && Basis::is_zero(family, family.first + 2 * static_cast<int>(k), factorials)) value[l] = 0;
      }
  }
  return value * solved.scale;
}

GRAMIAN_INLINE f64xN normaliser(f64xN doubled) { return 1 / root(doubled + 1); }

template <class Basis>
void families_of(const Family* families, std::int32_t lanes, Factorials factorials, double* scratch, double* out,
                 std::int64_t stride) {
  Basis basis;
  f64xN spin[4], column, first, sign;
  i64xN count;
  std::int64_t longest = 1;
  for (int l = 0; l < kN; ++l) {
    const Family& f = families[l < lanes ? l : 0];
    for (int i = 0; i < 4; ++i) spin[i][l] = f.spin[i];
    column[l] = f.column;
    first[l] = f.first;
    count[l] = f.count;
    sign[l] = f.sign * Basis::sign(f);
    longest = f.count > longest ? f.count : longest;
  }
  basis = {spin[0], spin[1], spin[2], spin[3]};
  const Steps<false> steps{scratch, scratch + longest * kN, scratch + 2 * longest * kN};
  double* entry = scratch + 3 * longest * kN;
  for (std::int64_t k = 0; k < longest; ++k) {
    const i64xN linked = index(k + 1) < count;
    const f64xN x = first + static_cast<double>(2 * k), beside = basis.beside(x + 2);
    store(steps.diagonal + k * kN, select(index(k) < count, basis.diagonal(x), f64xN{}));
    store(steps.beside + k * kN, select(linked, beside, f64xN{}));
    store(steps.inverse + k * kN, select(linked, 1 / beside, f64xN{}));
  }
  const Solved solved = solve<false>(steps, count, longest, Basis::eigenvalue(column), sign, entry);
  const f64xN by_column = normaliser(column);
  if (stride == 0) {
    // Only rows that some lane asks for.
    for (int l = 0; l < lanes; ++l) {
      const std::int64_t k = families[l].target;
      f64xN value = finished<Basis>(families, lanes, 0, solved, count, factorials, entry, k) * by_column;
      if (Basis::kRowFactor) value *= normaliser(first + static_cast<double>(2 * k));
      out[l] = value[l];
    }
    return;
  }
  for (std::int64_t k = 0; k < longest; ++k) {
    f64xN value = finished<Basis>(families, lanes, 0, solved, count, factorials, entry, k) * by_column;
    if (Basis::kRowFactor) value *= normaliser(first + static_cast<double>(2 * k));
    for (int l = 0; l < lanes; ++l)
      if (k < families[l].count) out[l * stride + k] = value[l];
  }
}

void block(const Family& family, std::int64_t rows, std::int64_t cols, Factorials factorials, double* scratch,
           double* out) {
  const std::int64_t n = family.count, padded = (n + kN - 1) / kN * kN;
  const Recoupling basis{broadcast<double>(family.spin[0]), broadcast<double>(family.spin[1]),
                         broadcast<double>(family.spin[2]), broadcast<double>(family.spin[3])};
  const Steps<true> steps{scratch, scratch + padded, scratch + 2 * padded};
  double *by_row = scratch + 3 * padded, *entry = by_row + padded;
  f64xN lane;
  for (int l = 0; l < kN; ++l) lane[l] = 2 * l;
  for (std::int64_t k = 0; k < n; k += kN) {
    const f64xN x = family.first + static_cast<double>(2 * k) + lane;
    f64xN beside = basis.beside(x + 2);
    store(steps.diagonal + k, basis.diagonal(x));
    store(steps.beside + k, beside);
    store(steps.inverse + k, 1 / beside);
    store(by_row + k, normaliser(x));
  }
  steps.beside[n - 1] = steps.inverse[n - 1] = 0;
  const f64xN sign = broadcast<double>(Recoupling::sign(family));
  for (std::int64_t j = 0; j < cols; j += kN) {
    const auto lanes = static_cast<std::int32_t>(cols - j < kN ? cols - j : kN);
    Family here = family;
    here.column += static_cast<std::int32_t>(2 * j);
    f64xN column = here.column + lane;
    const double last = family.column + static_cast<double>(2 * (cols - 1));
    column = column > last ? broadcast(last) : column;
    const i64xN count = index(n);
    const Solved solved = solve<true>(steps, count, n, Recoupling::eigenvalue(column), sign, entry);
    const f64xN by_column = normaliser(column);
    for (std::int64_t k = 0; k < rows; ++k) {
      const f64xN value =
          finished<Recoupling>(&here, lanes, 2, solved, count, factorials, entry, k) * (by_column * by_row[k]);
      double* to = out + k * cols + j;
      if (lanes == kN)
        store(to, value);
      else
        for (int l = 0; l < lanes; ++l) to[l] = value[l];
    }
  }
}

std::int64_t scratch_of(std::int64_t count) { return 4 * (count + kN) * kN; }

}  // namespace

extern const SixjKernels sixj{kN, scratch_of, families_of<Recoupling>, families_of<Coupling>, block};

}  // namespace gramian::GRAMIAN_ISA
