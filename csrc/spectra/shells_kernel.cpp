// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/shells_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kModes = 256;  // whose powers wait in L1 for their shells

template <class T, bool kCross>
GRAMIAN_INLINE void add(const ShellSum<T>& p, std::int64_t first, std::int64_t count, T weight, double* sums) {
  constexpr int kParts = kCross ? 2 : 1;
  const std::int64_t copy = p.shells * kParts;
  T power[kParts][kModes];
  for (std::int64_t at = 0; at < count; at += kModes) {
    const std::int64_t modes = count - at < kModes ? count - at : kModes;
    const T* const x = p.x + 2 * (first + at);
    if constexpr (kCross) {
      const T* const y = p.y + 2 * (first + at);
      for (std::int64_t k = 0; k < modes; ++k) {
        power[0][k] = weight * (x[2 * k] * y[2 * k] + x[2 * k + 1] * y[2 * k + 1]);
        power[1][k] = weight * (x[2 * k + 1] * y[2 * k] - x[2 * k] * y[2 * k + 1]);
      }
    } else {
      for (std::int64_t k = 0; k < modes; ++k)
        power[0][k] = weight * (x[2 * k] * x[2 * k] + x[2 * k + 1] * x[2 * k + 1]);
    }
    const std::int32_t* const shell = p.shell + first + at;
    std::int64_t k = 0;
    for (; k + kShellCopies <= modes; k += kShellCopies)
#pragma GCC unroll 4
      for (int c = 0; c < kShellCopies; ++c)
        for (int part = 0; part < kParts; ++part)
          sums[c * copy + shell[k + c] * kParts + part] += static_cast<double>(power[part][k + c]);
    for (; k < modes; ++k)
      for (int part = 0; part < kParts; ++part) sums[shell[k] * kParts + part] += static_cast<double>(power[part][k]);
  }
}

template <class T, bool kCross>
void rows(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  if (p.fold == Fold::none) return add<T, kCross>(p, begin * p.last, (end - begin) * p.last, 1, sums);
  const std::int64_t single = p.fold == Fold::even && p.last > 1 ? 1 : 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t first = row * p.last;
    add<T, kCross>(p, first, 1, 1, sums);
    add<T, kCross>(p, first + 1, p.last - 1 - single, 2, sums);
    add<T, kCross>(p, first + p.last - 1, single, 1, sums);
  }
}

template <class T>
void run(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums) {
  p.y == nullptr ? rows<T, false>(p, begin, end, sums) : rows<T, true>(p, begin, end, sums);
}

}  // namespace

extern const ShellsKernels shells{run<float>, run<double>};

}  // namespace gramian::GRAMIAN_ISA
