// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/shells_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kModes = 128;             // of a row, whose powers wait in L1 for their shells
constexpr std::int64_t kMostModes = 2 * kModes;  // rather than a short rest on its own

// a0 + a1, a2 + a3, .., b0 + b1, ..: within quarters of 16 bytes first, so that only one shuffle leaves them.
template <class T>
GRAMIAN_INLINE Vec<T> pair_sums(Vec<T> a, Vec<T> b) {
  constexpr int kN = kLanes<T>, kHalf = 8 / sizeof(T);
  IntVec<T> first, second, order;
#pragma GCC unroll 16
  for (int l = 0; l < kN; ++l) {
    const int quarter = l / (2 * kHalf) * 2 * kHalf, in_half = l % kHalf, from_b = l / kHalf % 2;
    first[l] = quarter + 2 * in_half + from_b * kN;
    second[l] = first[l] + 1;
    order[l] = l % (kN / 2) / kHalf * 2 * kHalf + in_half + (l < kN / 2 ? 0 : kHalf);
  }
  return __builtin_shuffle(__builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, second), order);
}

// Adds up powers, or real and imaginary parts of cross powers, of as many modes as there are lanes; each is the sum of two neighbours
// in `parts`, first those of half of the modes, then of the others.
template <class T>
GRAMIAN_INLINE void add_products(const Modes<T>& modes, std::int64_t mode, Vec<T> (&parts)[1][2]) {
  const Vec<T> a = load(modes.x + 2 * mode), b = load(modes.x + 2 * mode + kLanes<T>);
  parts[0][0] += a * a;
  parts[0][1] += b * b;
}

template <class T>
GRAMIAN_INLINE void add_products(const Modes<T>& modes, std::int64_t mode, Vec<T> (&parts)[2][2]) {
  IntVec<T> other;
  Vec<T> sign;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) other[l] = l ^ 1, sign[l] = l % 2 == 0 ? 1 : -1;
  for (int half = 0; half < 2; ++half) {
    const std::int64_t at = 2 * mode + half * kLanes<T>;
    const Vec<T> x = load(modes.x + at), y = load(modes.y + at);
    parts[0][half] += x * y;
    parts[1][half] += __builtin_shuffle(x, other) * (sign * y);
  }
}

// power[part][to + k] += the power of mode `first` + kStep k.
template <int kStep, bool kCross, class T>
GRAMIAN_INLINE void add_powers(const Modes<T>& modes, std::int64_t first, std::int64_t count, std::int64_t to,
                               T (*power)[kMostModes]) {
  const T* const x = modes.x + 2 * first;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t re = 2 * kStep * k, im = re + 1;
    if constexpr (kCross) {
      const T* const y = modes.y + 2 * first;
      power[0][to + k] += x[re] * y[re] + x[im] * y[im];
      power[1][to + k] += x[im] * y[re] - x[re] * y[im];
    } else {
      power[0][to + k] += x[re] * x[re] + x[im] * x[im];
    }
  }
}

// Rows of modes whose wave numbers differ in signs alone, in all axes but the last: they share a row of the table.
struct Mirrors {
  int count;
  std::int64_t first[1 << (kMostAxes - 1)];  // mode
};

// |k| in all axes but the last, from one row of the table to the next.
template <class T>
class TableRow {
 public:
  TableRow(const ShellSum<T>& p, std::int64_t row) : p_(p) {
    for (int a = p.axes - 2; a >= 0; --a) {
      const std::int64_t half = p.n[a] / 2 + 1;
      k_[a] = row % half;
      row /= half;
    }
  }

  void operator++() {
    for (int a = p_.axes - 2; a >= 0 && ++k_[a] > p_.n[a] / 2; --a) k_[a] = 0;
  }

  Mirrors mirrors() const {
    Mirrors found{1, {}};
    std::int64_t stride = p_.modes.last;
    for (int a = p_.axes - 2; a >= 0; --a) {
      const std::int64_t n = p_.n[a], k = k_[a];
      for (int i = found.count; i-- > 0;) {
        if (k > 0 && 2 * k < n) found.first[found.count++] = found.first[i] + (n - k) * stride;
        found.first[i] += k * stride;
      }
      stride *= n;
    }
    return found;
  }

 private:
  const ShellSum<T>& p_;
  std::int64_t k_[kMostAxes - 1];
};

struct Range {
  std::uint32_t least, most;  // a negative number is a large one
};

GRAMIAN_INLINE Range range_of(const std::int32_t* shell, std::int64_t count) {
  Range found{~0U, 0};
  for (std::int64_t k = 0; k < count; ++k) {
    const std::uint32_t number = static_cast<std::uint32_t>(shell[k]);
    found.least = number < found.least ? number : found.least;
    found.most = found.most < number ? number : found.most;
  }
  return found;
}

template <bool kCross, class T>
GRAMIAN_INLINE void prefetch(const Modes<T>& modes, std::int64_t mode) {
  __builtin_prefetch(modes.x + 2 * mode);
  if constexpr (kCross) __builtin_prefetch(modes.y + 2 * mode);
}

template <bool kCross, class T>
GRAMIAN_INLINE void fetch(const Modes<T>& modes, const Mirrors& rows, std::int64_t at, std::int64_t count) {
  for (std::int64_t k = 0; k < count; k += 64 / (2 * sizeof(T)))
    for (int i = 0; i < rows.count; ++i) prefetch<kCross>(modes, rows.first[i] + at + k);
}

// Of [at, at + count) in each of the rows, mirror images in all axes, which share a shell: what counts there. Of a short row the end is
// computed twice rather than mode by mode.
template <class T, bool kCross>
GRAMIAN_INLINE void add_mirrors(const ShellSum<T>& p, const Mirrors& rows, std::int64_t at, std::int64_t count,
                                T (*power)[kMostModes]) {
  constexpr int kParts = kCross ? 2 : 1;
  const std::int64_t last = p.modes.last;
  const bool whole = count >= kLanes<T>;
  for (std::int64_t k = 0; whole && k < count; k += kLanes<T>) {
    const std::int64_t from = k + kLanes<T> <= count ? k : count - kLanes<T>;
    Vec<T> parts[kParts][2] = {};
    for (int i = 0; i < rows.count; ++i) add_products<T>(p.modes, rows.first[i] + at + from, parts);
    for (int c = 0; c < kParts; ++c) store(power[c] + from, pair_sums<T>(parts[c][0], parts[c][1]));
  }
  for (int c = 0; c < kParts; ++c)
    for (std::int64_t k = 0; !whole && k < count; ++k) power[c][k] = 0;
  for (int i = 0; i < rows.count; ++i) {
    const std::int64_t first = rows.first[i];
    if (!whole) add_powers<1, kCross>(p.modes, first + at, count, 0, power);
    if (p.modes.fold != Fold::none) continue;
    const std::int64_t zero = at == 0 ? 1 : 0;
    add_powers<1, kCross>(p.modes, first, zero, 0, power);
    add_powers<-1, kCross>(p.modes, first + last - at - zero, count - zero, zero, power);
  }
}

// Adds powers to their shells, and meanwhile asks for the modes that come next: their rows lie far apart.
template <class T, bool kCross>
GRAMIAN_INLINE void scatter(const ShellSum<T>& p, const std::int32_t* shell, std::int64_t count,
                            const T (*power)[kMostModes], const Mirrors& next, std::int64_t next_at, double* sums) {
  constexpr int kParts = kCross ? 2 : 1, kLine = 64 / (2 * sizeof(T));
  const std::int64_t copy = p.shells * kParts;
  std::int64_t k = 0;
  for (; k + kLine <= count; k += kLine) {
    for (int i = 0; i < next.count; ++i) prefetch<kCross>(p.modes, next.first[i] + next_at + k);
#pragma GCC unroll 4
    for (int c = 0; c < kLine; c += 2) {
      std::uint64_t pair;  // of shells, in one load: accesses to L1 are what an addition costs
      __builtin_memcpy(&pair, shell + k + c, sizeof pair);
      const std::int64_t one = static_cast<std::uint32_t>(pair), other = static_cast<std::int64_t>(pair >> 32);
      for (int part = 0; part < kParts; ++part) {
        sums[c % kShellCopies * copy + one * kParts + part] += static_cast<double>(power[part][k + c]);
        sums[(c + 1) % kShellCopies * copy + other * kParts + part] += static_cast<double>(power[part][k + c + 1]);
      }
    }
  }
  fetch<kCross>(p.modes, next, next_at + k, 2 * kLine);  // the rest, and the line that the end of a row is in
  for (; k < count; ++k)
    for (int part = 0; part < kParts; ++part) sums[shell[k] * kParts + part] += static_cast<double>(power[part][k]);
}

// The same where all belong to one shell, as beyond the last one.
template <class T, bool kCross>
GRAMIAN_INLINE void gather(const ShellSum<T>& p, std::int32_t shell, std::int64_t count, const T (*power)[kMostModes],
                           const Mirrors& next, std::int64_t next_at, double* sums) {
  constexpr int kParts = kCross ? 2 : 1, kApart = 8;
  fetch<kCross>(p.modes, next, next_at, count + 64 / (2 * sizeof(T)));
  for (int part = 0; part < kParts; ++part) {
    double total[kApart] = {};
    std::int64_t k = 0;
    for (; k + kApart <= count; k += kApart)
      for (int c = 0; c < kApart; ++c) total[c] += static_cast<double>(power[part][k + c]);
    for (; k < count; ++k) total[0] += static_cast<double>(power[part][k]);
    for (int c = 0; c < kApart; ++c) sums[c % kShellCopies * p.shells * kParts + shell * kParts + part] += total[c];
  }
}

template <class T, bool kCross>
bool sum_rows(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  constexpr int kParts = kCross ? 2 : 1;
  // Modes that are their own mirror images in the last axis: the first, and of an even number the one at n/2.
  const bool folded = p.modes.fold != Fold::none;
  const std::int64_t middle = p.modes.fold == Fold::even || (!folded && p.modes.last % 2 == 0) ? p.half - 1 : 0;
  TableRow<T> place(p, begin);
  Mirrors following = place.mirrors();
  for (std::int64_t table_row = begin; table_row < end; ++table_row) {
    const Mirrors rows = following;
    if (table_row + 1 < end) ++place, following = place.mirrors();
    for (std::int64_t at = 0, count; at < p.half; at += count) {
      const std::int64_t left = p.half - at;
      count = left < kMostModes ? left : kModes;
      T power[kParts][kMostModes];
      add_mirrors<T, kCross>(p, rows, at, count, power);
      for (int part = 0; part < kParts; ++part) {
        if (at == 0) power[part][0] /= 2;
        if (middle > 0 && middle < at + count && middle >= at) power[part][middle - at] /= 2;
      }
      const std::int32_t* const shell = p.shell + table_row * p.half + at;
      const Range range = range_of(shell, count);
      if (range.most >= p.shells) return false;
      const bool same_row = at + count < p.half;
      const Mirrors& next = same_row ? rows : following;
      const std::int64_t next_at = same_row ? at + count : 0;
      if (range.least == range.most)
        gather<T, kCross>(p, shell[0], count, power, next, next_at, sums);
      else
        scatter<T, kCross>(p, shell, count, power, next, next_at, sums);
    }
  }
  return true;
}

template <class T>
bool sum(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  return p.modes.y == nullptr ? sum_rows<T, false>(p, begin, end, sums) : sum_rows<T, true>(p, begin, end, sums);
}

template <class T, bool kCross>
GRAMIAN_INLINE void write_powers(const Modes<T>& modes, std::int64_t first, std::int64_t count, T weight, T* out) {
  const T* const x = modes.x + 2 * first;
  if constexpr (kCross) {
    const T* const y = modes.y + 2 * first;
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t re = 2 * k, im = re + 1;
      out[2 * first + re] = weight * (x[re] * y[re] + x[im] * y[im]);
      out[2 * first + im] = weight * (x[im] * y[re] - x[re] * y[im]);
    }
  } else {
    std::int64_t k = 0;
    for (; k + kLanes<T> <= count; k += kLanes<T>) {
      Vec<T> parts[1][2] = {};
      add_products<T>(modes, first + k, parts);
      store(out + first + k, weight * pair_sums<T>(parts[0][0], parts[0][1]));
    }
    for (; k < count; ++k) out[first + k] = weight * (x[2 * k] * x[2 * k] + x[2 * k + 1] * x[2 * k + 1]);
  }
}

template <class T, bool kCross>
void write_rows(const Modes<T>& modes, T factor, std::int64_t begin, std::int64_t end, T* out) {
  const std::int64_t last = modes.last, single = modes.fold == Fold::even && last > 1 ? 1 : 0;
  if (modes.fold == Fold::none) return write_powers<T, kCross>(modes, begin * last, (end - begin) * last, factor, out);
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t first = row * last;
    write_powers<T, kCross>(modes, first, 1, factor, out);
    write_powers<T, kCross>(modes, first + 1, last - 1 - single, 2 * factor, out);
    write_powers<T, kCross>(modes, first + last - 1, single, factor, out);
  }
}

template <class T>
void powers(const Modes<T>& modes, T factor, std::int64_t begin, std::int64_t end, T* out) {
  modes.y == nullptr ? write_rows<T, false>(modes, factor, begin, end, out)
                     : write_rows<T, true>(modes, factor, begin, end, out);
}

}  // namespace

extern const ShellsKernels<float> shells_f32{sum<float>, powers<float>};
extern const ShellsKernels<double> shells_f64{sum<double>, powers<double>};

}  // namespace gramian::GRAMIAN_ISA
