// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/shells_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kModes = 128;  // of a row, whose powers wait in L1 for their shells

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

// Powers, or real and imaginary parts of cross powers, of as many modes as there are lanes.
template <class T>
GRAMIAN_INLINE void products(const Modes<T>& modes, std::int64_t mode, Vec<T> (&part)[1]) {
  const Vec<T> a = load(modes.x + 2 * mode), b = load(modes.x + 2 * mode + kLanes<T>);
  part[0] += pair_sums<T>(a * a, b * b);
}

template <class T>
GRAMIAN_INLINE void products(const Modes<T>& modes, std::int64_t mode, Vec<T> (&part)[2]) {
  IntVec<T> other;
  Vec<T> sign;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes<T>; ++l) other[l] = l ^ 1, sign[l] = l % 2 == 0 ? 1 : -1;
  const Vec<T> xa = load(modes.x + 2 * mode), xb = load(modes.x + 2 * mode + kLanes<T>);
  const Vec<T> ya = load(modes.y + 2 * mode), yb = load(modes.y + 2 * mode + kLanes<T>);
  part[0] += pair_sums<T>(xa * ya, xb * yb);
  part[1] += pair_sums<T>(__builtin_shuffle(xa, other) * (sign * ya), __builtin_shuffle(xb, other) * (sign * yb));
}

// power[part][to + k] += the power of mode `first` + kStep k.
template <int kStep, bool kCross, class T>
GRAMIAN_INLINE void add_powers(const Modes<T>& modes, std::int64_t first, std::int64_t count, std::int64_t to,
                               T (*power)[kModes]) {
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
  std::int64_t row[1 << (kMostAxes - 1)];
};

template <class T>
Mirrors mirrors(const ShellSum<T>& p, std::int64_t table_row) {
  Mirrors found{1, {}};
  std::int64_t stride = 1;
  for (int a = p.axes - 2; a >= 0; --a) {
    const std::int64_t n = p.n[a], half = n / 2 + 1, k = table_row % half;
    table_row /= half;
    for (int i = found.count; i-- > 0;) {
      if (k > 0 && 2 * k < n) found.row[found.count++] = found.row[i] + (n - k) * stride;
      found.row[i] += k * stride;
    }
    stride *= n;
  }
  return found;
}

GRAMIAN_INLINE bool within(const std::int32_t* shell, std::int64_t count, std::int64_t shells) {
  std::uint32_t most = 0;  // a negative number is a large one
  for (std::int64_t k = 0; k < count; ++k) {
    const std::uint32_t number = static_cast<std::uint32_t>(shell[k]);
    most = most < number ? number : most;
  }
  return static_cast<std::int64_t>(most) < shells;
}

template <class T>
constexpr int kLine = 64 / (2 * sizeof(T));  // modes of a line of memory

template <bool kCross, class T>
GRAMIAN_INLINE void prefetch(const Modes<T>& modes, std::int64_t mode) {
  __builtin_prefetch(modes.x + 2 * mode);
  if constexpr (kCross) __builtin_prefetch(modes.y + 2 * mode);
}

// Powers of modes that share a shell are added before they are sent there: mirror images in all axes. Their rows lie far apart:
// while powers go to their shells, the modes that come next are asked for.
template <class T, bool kCross>
bool sum_rows(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  constexpr int kParts = kCross ? 2 : 1;
  const std::int64_t copy = p.shells * kParts, last = p.modes.last;
  const bool folded = p.modes.fold != Fold::none;
  // Modes that are their own mirror images in the last axis: the first, and of an even number the one at n/2.
  const std::int64_t middle = p.modes.fold == Fold::even || (!folded && last % 2 == 0) ? p.half - 1 : 0;
  Mirrors following = mirrors(p, begin);
  for (std::int64_t table_row = begin; table_row < end; ++table_row) {
    const Mirrors rows = following;
    if (table_row + 1 < end) following = mirrors(p, table_row + 1);
    for (std::int64_t at = 0; at < p.half; at += kModes) {
      const std::int64_t count = p.half - at < kModes ? p.half - at : kModes;
      T power[kParts][kModes];
      std::int64_t whole = 0;
      for (; whole + kLanes<T> <= count; whole += kLanes<T>) {
        Vec<T> part[kParts] = {};
        for (int i = 0; i < rows.count; ++i) products<T>(p.modes, rows.row[i] * last + at + whole, part);
        for (int c = 0; c < kParts; ++c) store(power[c] + whole, part[c]);
      }
      for (int c = 0; c < kParts; ++c)
        for (std::int64_t k = whole; k < count; ++k) power[c][k] = 0;
      for (int i = 0; i < rows.count; ++i) {
        const std::int64_t first = rows.row[i] * last;
        add_powers<1, kCross>(p.modes, first + at + whole, count - whole, whole, power);
        if (folded) continue;
        const std::int64_t zero = at == 0 ? 1 : 0;
        add_powers<1, kCross>(p.modes, first, zero, 0, power);
        add_powers<-1, kCross>(p.modes, first + last - at - zero, count - zero, zero, power);
      }
      for (int part = 0; part < kParts; ++part) {
        if (at == 0) power[part][0] /= 2;
        if (middle > 0 && middle < at + count && middle >= at) power[part][middle - at] /= 2;
      }
      const std::int32_t* const shell = p.shell + table_row * p.half + at;
      if (!within(shell, count, p.shells)) return false;
      const bool same_row = at + kModes < p.half;
      const Mirrors& next = same_row ? rows : following;
      const std::int64_t ahead = same_row ? at + kModes : 0;
      std::int64_t k = 0;
      for (; k + kLine<T> <= count; k += kLine<T>) {
        for (int i = 0; i < next.count; ++i) prefetch<kCross>(p.modes, next.row[i] * last + ahead + k);
#pragma GCC unroll 8
        for (int c = 0; c < kLine<T>; ++c)
          for (int part = 0; part < kParts; ++part)
            sums[c % kShellCopies * copy + shell[k + c] * kParts + part] += static_cast<double>(power[part][k + c]);
      }
      for (; k < count; ++k)
        for (int part = 0; part < kParts; ++part) sums[shell[k] * kParts + part] += static_cast<double>(power[part][k]);
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
      Vec<T> power[1] = {};
      products<T>(modes, first + k, power);
      store(out + first + k, weight * power[0]);
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
