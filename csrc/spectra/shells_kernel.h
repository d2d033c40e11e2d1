// Power, or cross power, of Fourier modes: summed over shells, or of each mode. One pass over a transform.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

constexpr int kMostAxes = 4;

// Modes of a real field are kept for half of the last axis; the others are their conjugates, and count as a second one.
enum class Fold : std::int64_t { none, odd, even };  // even: the last mode of a row has no second one either

template <class T>
struct Modes {
  const T *x, *y;     // [rows, last, 2], real and imaginary parts; y may be null: power of x
  std::int64_t last;  // modes that are kept of the last axis
  Fold fold;
};

template <class T>
struct ShellSum {
  Modes<T> modes;             // of one item
  int axes;                   // 1 to kMostAxes
  std::int64_t n[kMostAxes];  // modes of every axis, of the last those that are kept
  const std::int32_t* shell;  // [n/2 + 1 of every axis, or what is kept of a folded last one], each below `shells`
  std::int64_t half;          // of the last axis in that table
  std::int64_t shells;
};

constexpr std::int64_t kShellCopies = 4;  // histograms in turns: an addition need not wait for the one before it

template <class T>
struct ShellsKernels {
  // Adds what counts towards rows [begin, end) of the table to sums [kShellCopies, shells, 1 or, with y, 2]; if folded, half of it.
  // False if a number of the table is not one of a shell: what follows it is then not added.
  bool (*sum)(const ShellSum<T>& p, std::int64_t begin, std::int64_t end, double* sums);
  // factor times the power of the modes of rows [begin, end), as often as each counts: out [rows, last, 1 or, with y, 2].
  void (*powers)(const Modes<T>& modes, T factor, std::int64_t begin, std::int64_t end, T* out);
};

GRAMIAN_DECLARE_KERNELS(ShellsKernels<float>, shells_f32)
GRAMIAN_DECLARE_KERNELS(ShellsKernels<double>, shells_f64)

}  // namespace gramian
