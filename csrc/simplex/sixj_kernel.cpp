// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/sixj_kernel.h"

#include "core/lanes.h"
#include "simplex/sixj_formulas.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

GRAMIAN_INLINE f64xN size_of(f64xN v) { return -nonpositive(v); }
GRAMIAN_INLINE f64xN select(i64xN mask, f64xN yes, f64xN no) { return mask ? yes : no; }

GRAMIAN_INLINE i64xN bits_of(f64xN v) {
  i64xN bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

// Is the sign bit of a lane set?
GRAMIAN_INLINE bool any(i64xN mask) {
#if defined(__AVX512F__)
  return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask)) != 0;
#elif GRAMIAN_VECTOR_BYTES == 32
  return __builtin_ia32_movmskpd256(reinterpret_cast<f64xN>(mask)) != 0;
#else
  std::int64_t some = 0;
  for (int l = 0; l < kN; ++l) some |= mask[l];
  return some < 0;
#endif
}

struct Lanes {
  using Value = f64xN;
  using Integer = i64xN;
  GRAMIAN_INLINE static f64xN root(f64xN v) { return gramian::GRAMIAN_ISA::root(v); }
  GRAMIAN_INLINE static f64xN number(double v) { return broadcast(v); }
  GRAMIAN_INLINE static f64xN product(f64xN a, f64xN b) { return a * b; }
  GRAMIAN_INLINE static f64xN product_error(f64xN a, f64xN b, f64xN product) {
    f64xN error;
    for (int l = 0; l < kN; ++l) error[l] = __builtin_fma(a[l], b[l], -product[l]);
    return error;
  }
};

// What a step of the recursions takes: row k of `at`, for all lanes or for each.
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

GRAMIAN_INLINE i64xN index(std::int64_t k) { return k - i64xN{}; }

// An eigenvector in each lane, as two arrays of rows: entries up to `join` are low * low_scale, the others
// high * high_scale.
struct Solved {
  const double *low, *high;
  i64xN join;
  std::int64_t bottom, top;  // the least and the largest join
  f64xN low_scale, high_scale;

  GRAMIAN_INLINE f64xN at(std::int64_t k) const {
    if (k <= bottom) return load(low + k * kN) * low_scale;
    const f64xN above = load(high + k * kN) * high_scale;
    return k > top ? above : select(index(k) > join, above, load(low + k * kN) * low_scale);
  }
};

constexpr double kBig = 0x1p300;  // a strip of steps multiplies it by less than 2^200, and its square is still a number
constexpr std::int64_t kStrip = 8;

// Brings the lanes that have outgrown kBig back: entries [from, to), and `sum`, the sum of their squares.
__attribute__((noinline)) f64xN shrink(i64xN big, double* entry, std::int64_t from, std::int64_t to, f64xN* sum) {
  const f64xN factor = select(big, broadcast(1 / kBig), broadcast(1.0));
  for (std::int64_t k = from; k < to; ++k) store(entry + k * kN, load(entry + k * kN) * factor);
  *sum = *sum * factor * factor;
  return factor;
}

// Forward from the first entry to `join`, backward from the last, each in the direction in which entries grow where the
// recursion is unstable the other way. The two are chains of dependent operations, and side by side take the time of
// one. They are joined by two entries: neighbours are never both small where solutions oscillate.
template <bool kShared>
GRAMIAN_INLINE Solved solve(const Steps<kShared>& steps, i64xN count, std::int64_t longest, f64xN eigenvalue,
                            i64xN join, f64xN sign, double* low, double* high) {
  using S = Steps<kShared>;
  std::int64_t bottom = join[0], top = join[0];
  for (int l = 1; l < kN; ++l) {
    bottom = join[l] < bottom ? join[l] : bottom;
    top = join[l] > top ? join[l] : top;
  }
  f64xN up = broadcast(1.0), up_before = {}, up_beside = {}, low_sum = up;
  f64xN down = select(count == index(longest), broadcast(1.0), f64xN{}), down_before = {}, high_sum = {};
  store(low, up);
  store(high + (longest - 1) * kN, down);
  if (top + 1 < longest) high_sum = down * down;
  const auto forward = [&](std::int64_t k) {  // from k to k + 1
    const f64xN inverse = S::at(steps.inverse, k);
    const f64xN next = (eigenvalue - S::at(steps.diagonal, k)) * inverse * up - (up_beside * inverse) * up_before;
    up_beside = S::at(steps.beside, k);
    up_before = up;
    up = next;
  };
  const auto backward = [&](std::int64_t k) {  // from k to k - 1
    const f64xN inverse = S::at(steps.inverse, k - 1);
    f64xN next =
        (eigenvalue - S::at(steps.diagonal, k)) * inverse * down - (S::at(steps.beside, k) * inverse) * down_before;
    if constexpr (!kShared) next = select(count == index(k), broadcast(1.0), next);
    down_before = down;
    down = next;
  };
  const auto keep_up = [&](std::int64_t k) {
    const i64xN big = size_of(up) > kBig;
    if (!any(big)) return;
    const f64xN factor = shrink(big, low, 0, k + 1, &low_sum);
    up *= factor;
    up_before *= factor;
  };
  const auto keep_down = [&](std::int64_t k) {
    const i64xN big = size_of(down) > kBig;
    if (!any(big)) return;
    const f64xN factor = shrink(big, high, k, longest, &high_sum);
    down *= factor;
    down_before *= factor;
  };

  std::int64_t f = 0, b = longest - 1;
  while (f < bottom || b > top + 1) {
    const std::int64_t f_stop = f + kStrip < bottom ? f + kStrip : bottom;
    const std::int64_t b_stop = b - kStrip > top + 1 ? b - kStrip : top + 1;
    const auto low_step = [&] {
      forward(f++);
      store(low + f * kN, up);
      low_sum += up * up;
    };
    const auto high_step = [&] {
      backward(b--);
      store(high + b * kN, down);
      high_sum += down * down;
    };
    while (f < f_stop && b > b_stop) low_step(), high_step();
    while (f < f_stop) low_step();
    while (b > b_stop) high_step();
    keep_up(f);
    keep_down(b);
  }
  // Where some lanes have met and others have not. A lane that has is held at zero: it would grow beyond all bounds.
  f64xN product = {}, square = {};
  for (const std::int64_t stop = top + 1 < longest ? top + 1 : longest - 1; f < stop;) {
    forward(f++);
    up = select(index(f) > join + 1, f64xN{}, up);
    store(low + f * kN, up);
    const f64xN own = select(index(f) > join, f64xN{}, up);
    low_sum += own * own;
    keep_up(f);
  }
  while (b > bottom) {
    backward(b--);
    down = select(index(b) < join, f64xN{}, down);
    store(high + b * kN, down);
    const f64xN own = select(index(b) > join, down, f64xN{});
    high_sum += own * own;
    keep_down(b);
  }
  for (std::int64_t k = bottom; k < longest && k <= top + 1; ++k) {
    const i64xN here = (index(k) >= join) & (index(k) <= join + 1);
    const f64xN of_low = load(low + k * kN), of_high = select(here, load(high + k * kN), f64xN{});
    product += of_low * of_high;
    square += of_high * of_high;
  }
  const f64xN ratio = product / square, turned = select(ratio < 0, -sign, sign);
  const f64xN scale = turned / root(low_sum + ratio * (ratio * high_sum));
  return {low, high, join, bottom, top, scale, scale * ratio};
}

// The index, of `count`, that is nearest to x and not the last.
GRAMIAN_INLINE i64xN nearest(f64xN x, f64xN first, i64xN count) {
  constexpr double kWhole = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  constexpr double kFar = 1e6;
  f64xN k = 0.5 * (x - first);
  k = k > 0 ? k : f64xN{};
  k = k < kFar ? k : broadcast(kFar);
  i64xN bits;
  k += kWhole;
  __builtin_memcpy(&bits, &k, sizeof bits);
  const i64xN at = bits - 0x4338000000000000, last = count - 2;
  const i64xN inside = at < last ? at : last;
  return inside > 0 ? inside : i64xN{};
}

// An entry of a family that is to be computed again, by Racah's sum.
struct Entry {
  Family family;
  int x;
  double* value;
};

// Writes those of at most kN entries whose sums lose few enough digits to be better than what stands there.
__attribute__((noinline)) void refine(const Entry* entries, int count, Factorials factorials) {
  RacahTerms<Lanes> terms{};
  std::int64_t longest = 0;
  double root[kN], power[kN];
  for (int l = 0; l < count; ++l) {
    const Entry& own = entries[l];
    const RacahSum sum(own.family, own.x);
    const RacahScale scale(own.family, own.x, sum, factorials.scaled);
    terms.begin[l] = sum.begin, terms.count[l] = sum.end - sum.begin;
    for (int i = 0; i < 4; ++i) terms.low[i][l] = sum.low[i];
    for (int i = 0; i < 3; ++i) terms.high[i][l] = sum.high[i];
    root[l] = scale.root, power[l] = scale.power;
    longest = larger_of(longest, sum.end - sum.begin);
  }
  const f64xN value = added_up<Lanes>(terms, longest);
  for (int l = 0; l < count; ++l)
    if (power[l] != 0 && value[l] != 0) *entries[l].value = value[l] * root[l] * power[l];
}

// Entries whose sums are short enough wait until there is one for each lane.
struct Refiner {
  Factorials factorials;
  Entry entries[kN];
  int count = 0;

  explicit Refiner(Factorials tables) : factorials(tables) {}
  void add(const Family& family, int x, double* value) {
    if (!is_short(family, x)) return;
    entries[count++] = {family, x, value};
    if (count == kN) flush();
  }
  void flush() {
    if (count > 0) refine(entries, count, factorials);
    count = 0;
  }
};

// Entry k of a family, which lost digits: `value` beside `below`, the one before it, stands scaled in *to.
template <class Basis>
__attribute__((noinline)) void settle(const Family& f, std::int64_t k, double below, double value, double* to,
                                      Refiner& refiner) {
  const int x = f.first + 2 * static_cast<int>(k);
  if (__builtin_fabs(value) < kSuspect * __builtin_fabs(below) && Basis::is_zero(f, x, refiner.factorials))
    *to = 0;
  else if (Basis::kRefined)
    refiner.add(f, x, to);
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
  const std::int64_t size = longest * kN;
  const Steps<false> steps{scratch, scratch + size, scratch + 2 * size};
  for (std::int64_t k = 0; k < longest; ++k) {
    const i64xN linked = index(k + 1) < count;
    const f64xN x = first + static_cast<double>(2 * k), beside = basis.beside(x + 2);
    store(steps.diagonal + k * kN, select(index(k) < count, basis.diagonal(x), f64xN{}));
    store(steps.beside + k * kN, select(linked, beside, f64xN{}));
    store(steps.inverse + k * kN, select(linked, 1 / beside, f64xN{}));
  }
  const Solved solved =
      solve<false>(steps, count, longest, Basis::eigenvalue(column), nearest(basis.centre(column), first, count),
                   sign * normaliser(column), scratch + 3 * size, scratch + 4 * size);
  const auto entry = [&](std::int64_t k, int l) {
    return k <= solved.join[l] ? solved.low[k * kN + l] * solved.low_scale[l]
                               : solved.high[k * kN + l] * solved.high_scale[l];
  };
  Refiner refiner(factorials);
  for (int l = 0; l < lanes; ++l) {
    const Family& f = families[l];
    const std::int64_t begin = stride == 0 ? f.target : 0, end = stride == 0 ? begin + 1 : f.count;
    for (std::int64_t k = begin; k < end; ++k) {
      double* const to = stride == 0 ? out + l : out + l * stride + k;
      const double value = entry(k, l);
      const int x = f.first + 2 * static_cast<int>(k);
      *to = Basis::kRowFactor ? value / __builtin_sqrt(x + 1) : value;
      if (k == 0 || k + 1 == f.count) continue;
      const double below = entry(k - 1, l);
      if (lost_digits(below, value, entry(k + 1, l), f.count)) settle<Basis>(f, k, below, value, to, refiner);
    }
  }
  refiner.flush();
}

// The same for `lost` lanes of columns [from, from + lanes) of row k.
__attribute__((noinline)) void settle_lanes(const Family& family, std::int64_t k, std::int64_t from, int lanes,
                                            i64xN lost, f64xN below, f64xN value, double* row, Refiner& refiner) {
  Family own = family;
  for (int l = 0; l < lanes; ++l) {
    own.column = family.column + static_cast<std::int32_t>(2 * (from + l));
    if (lost[l] < 0) settle<Recoupling<Lanes>>(own, k, below[l], value[l], row + from + l, refiner);
  }
}

void block(const Family& family, std::int64_t rows, std::int64_t cols, Factorials factorials, double* scratch,
           double* out) {
  const std::int64_t n = family.count, padded = (n + kN - 1) / kN * kN;
  const Recoupling<Lanes> basis{broadcast<double>(family.spin[0]), broadcast<double>(family.spin[1]),
                                broadcast<double>(family.spin[2]), broadcast<double>(family.spin[3])};
  const Steps<true> steps{scratch, scratch + padded, scratch + 2 * padded};
  double *by_row = scratch + 3 * padded, *low = by_row + padded, *high = low + n * kN;
  f64xN lane;
  for (int l = 0; l < kN; ++l) lane[l] = 2 * l;
  for (std::int64_t k = 0; k < n; k += kN) {
    const f64xN x = family.first + static_cast<double>(2 * k) + lane;
    const f64xN beside = basis.beside(x + 2);
    store(steps.diagonal + k, basis.diagonal(x));
    store(steps.beside + k, beside);
    store(steps.inverse + k, 1 / beside);
    store(by_row + k, normaliser(x));
  }
  steps.beside[n - 1] = steps.inverse[n - 1] = 0;
  const double* end = out + rows * cols;
  const f64xN first = broadcast<double>(family.first), sign = broadcast<double>(Recoupling<Lanes>::sign(family));
  const double last = family.column + static_cast<double>(2 * (cols - 1));
  const f64xN near = broadcast(threshold(n));
  Refiner refiner(factorials);
  // From the last columns to the first: what a store of whole lanes puts behind the end of a row is written over.
  for (std::int64_t j = (cols - 1) / kN * kN; j >= 0; j -= kN) {
    const int lanes = static_cast<int>(cols - j < kN ? cols - j : kN);
    f64xN column = family.column + static_cast<double>(2 * j) + lane;
    column = column > last ? broadcast(last) : column;
    const Solved solved =
        solve<true>(steps, index(n), n, Recoupling<Lanes>::eigenvalue(column),
                    nearest(basis.centre(column), first, index(n)), sign * normaliser(column), low, high);
    f64xN second = {}, before = {};  // the entries two before and one before
    i64xN low_before = {};           // lanes in which the latter is far below the former
    const auto look = [&](std::int64_t k, f64xN value) {
      if (any(low_before) && k > 1)
        settle_lanes(family, k - 1, j, lanes, low_before & (bits_of(value) ^ bits_of(second)), second, before,
                     out + (k - 1) * cols, refiner);
      low_before = size_of(value) < near * size_of(before);
      second = before;
      before = value;
    };
    const auto put = [&](std::int64_t k, f64xN value) {
      look(k, value);
      value *= by_row[k];
      double* to = out + k * cols + j;
      if (to + kN <= end)
        store(to, value);
      else
        for (int l = 0; l < lanes; ++l) to[l] = value[l];
    };
    std::int64_t k = 0;
    for (; k < rows && k <= solved.bottom; ++k) put(k, load(low + k * kN) * solved.low_scale);
    for (; k < rows && k <= solved.top; ++k) put(k, solved.at(k));
    for (; k < rows; ++k) put(k, load(high + k * kN) * solved.high_scale);
    if (k < n) look(k, solved.at(k));
  }
  refiner.flush();
}

void transpose(const double* from, std::int64_t rows, std::int64_t cols, double* to) {
  using f64x4 = double __attribute__((vector_size(32)));
  using i64x4 = std::int64_t __attribute__((vector_size(32)));
  std::int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    std::int64_t j = 0;
    for (; j + 4 <= cols; j += 4) {
      f64x4 row[4], col[4];
      for (int r = 0; r < 4; ++r) __builtin_memcpy(&row[r], from + (i + r) * cols + j, sizeof row[r]);
      const f64x4 even01 = __builtin_shuffle(row[0], row[1], i64x4{0, 4, 2, 6});
      const f64x4 odd01 = __builtin_shuffle(row[0], row[1], i64x4{1, 5, 3, 7});
      const f64x4 even23 = __builtin_shuffle(row[2], row[3], i64x4{0, 4, 2, 6});
      const f64x4 odd23 = __builtin_shuffle(row[2], row[3], i64x4{1, 5, 3, 7});
      col[0] = __builtin_shuffle(even01, even23, i64x4{0, 1, 4, 5});
      col[1] = __builtin_shuffle(odd01, odd23, i64x4{0, 1, 4, 5});
      col[2] = __builtin_shuffle(even01, even23, i64x4{2, 3, 6, 7});
      col[3] = __builtin_shuffle(odd01, odd23, i64x4{2, 3, 6, 7});
      for (int c = 0; c < 4; ++c) __builtin_memcpy(to + (j + c) * rows + i, &col[c], sizeof col[c]);
    }
    for (; j < cols; ++j)
      for (int r = 0; r < 4; ++r) to[j * rows + i + r] = from[(i + r) * cols + j];
  }
  for (; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) to[j * rows + i] = from[i * cols + j];
}

std::int64_t scratch_of(std::int64_t count) { return 6 * (count + kN) * kN; }

}  // namespace

extern const SixjKernels sixj{kN,    scratch_of, families_of<Recoupling<Lanes>>, families_of<Coupling<Lanes>>,
                              block, transpose};

}  // namespace gramian::GRAMIAN_ISA
