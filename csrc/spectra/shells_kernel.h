// Power, or cross power, of Fourier modes summed over shells: one pass over a transform.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

// Modes of a real field are kept for half of the last axis; the others are their conjugates, and count as a second one.
enum class Fold : std::int64_t { none, odd, even };  // even: the last mode of a row has no second one either

template <class T>
struct ShellSum {
  const T *x, *y;             // [rows, last, 2], real and imaginary parts; y may be null: power of x
  const std::int32_t* shell;  // [rows, last], each below `shells`
  std::int64_t last, shells;
  Fold fold;
};

constexpr std::int64_t kShellCopies = 4;  // histograms in turns: an addition need not wait for the one before it

struct ShellsKernels {
  // Adds rows [begin, end) to sums [kShellCopies, shells, 1 or, with y, 2].
  void (*f32)(const ShellSum<float>& p, std::int64_t begin, std::int64_t end, double* sums);
  void (*f64)(const ShellSum<double>& p, std::int64_t begin, std::int64_t end, double* sums);
};

GRAMIAN_DECLARE_KERNELS(ShellsKernels, shells)

}  // namespace gramian
