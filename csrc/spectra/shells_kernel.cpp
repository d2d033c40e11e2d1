// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/shells_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kModes = 128;  // of a row, whose powers wait in L1 for their shells

// power[part][to + k] += the power of mode `first` + kStep k.
template <int kStep, bool kCross, class T>
GRAMIAN_INLINE void add_powers(const Modes<T>& modes, std::int64_t first, std::int64_t count, std::int64_t to,
                               T (*power)[kModes]) {
  const T* const x = modes.x + 2 * first;
  if constexpr (kCross) {
    const T* const y = modes.y + 2 * first;
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t re = 2 * kStep * k, im = re + 1;
      power[0][to + k] += x[re] * y[re] + x[im] * y[im];
      power[1][to + k] += x[im] * y[re] - x[re] * y[im];
    }
  } else {
    for (std::int64_t k = 0; k < count; ++k) {
      const std::int64_t re = 2 * kStep * k, im = re + 1;
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

// Powers of modes that share a shell are added before they are sent there: mirror images in all axes.
template <class T, bool kCross>
void sum_rows(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  constexpr int kParts = kCross ? 2 : 1;
  const std::int64_t copy = p.shells * kParts, last = p.modes.last;
  const bool folded = p.modes.fold != Fold::none;
  // Modes that are their own mirror images in the last axis: the first, and of an even number the one at n/2.
  const std::int64_t middle = p.modes.fold == Fold::even || (!folded && last % 2 == 0) ? p.half - 1 : 0;
  for (std::int64_t table_row = begin; table_row < end; ++table_row) {
    const Mirrors rows = mirrors(p, table_row);
    for (std::int64_t at = 0; at < p.half; at += kModes) {
      const std::int64_t count = p.half - at < kModes ? p.half - at : kModes;
      T power[kParts][kModes];
      for (std::int64_t k = 0; k < kParts * kModes; k += kLanes<T>) store(power[0] + k, Vec<T>{});
      for (int i = 0; i < rows.count; ++i) {
        const std::int64_t first = rows.row[i] * last;
        add_powers<1, kCross>(p.modes, first + at, count, 0, power);
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
      std::int64_t k = 0;
      for (; k + kShellCopies <= count; k += kShellCopies)
#pragma GCC unroll 4
        for (int c = 0; c < kShellCopies; ++c)
          for (int part = 0; part < kParts; ++part)
            sums[c * copy + shell[k + c] * kParts + part] += static_cast<double>(power[part][k + c]);
      for (; k < count; ++k)
        for (int part = 0; part < kParts; ++part) sums[shell[k] * kParts + part] += static_cast<double>(power[part][k]);
    }
  }
}

template <class T>
void sum(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  p.modes.y == nullptr ? sum_rows<T, false>(p, begin, end, sums) : sum_rows<T, true>(p, begin, end, sums);
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
    for (std::int64_t k = 0; k < count; ++k)
      out[first + k] = weight * (x[2 * k] * x[2 * k] + x[2 * k + 1] * x[2 * k + 1]);
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
