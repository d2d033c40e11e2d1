// From samples of real fields on grids to their power, summed over shells. The transform is never written out whole: the
// first axis goes through memory once, all others stay in cache until they end in histograms.
#pragma once
#include <cstdint>

#include "spectra/shells_kernel.h"

namespace gramian {

constexpr int kMostPasses = 32;

// How one axis is transformed: passes of decimation in frequency, in place. Frequencies come out in the order of their
// digits reversed, which is no matter to a sum over shells: `place` says where each one is.
template <class T>
struct FourierAxis {
  std::int64_t size;
  int passes;
  int radix[kMostPasses];
  const T* twiddles;              // pass by pass [size / (all radices so far), radix - 1, real and imaginary part]
  const std::int32_t* place;      // of each frequency
  const std::int32_t* frequency;  // of each place
};

// Memory of `modes`: [items, n/2 + 1 frequencies of the first axis, samples of the middle axes, blocks of the last, 2, lanes].
// A block is as many samples as a vector has lanes, its real parts and then its imaginary parts.
template <class T>
struct GridShells {
  const T* x;  // [items, samples]
  std::int64_t axes;
  FourierAxis<T> axis[kMostAxes];
  std::int64_t rows;          // samples of the middle axes: of one frequency of the first axis, rows of the last
  std::int64_t blocks;        // of a row
  std::int64_t together;      // frequencies of the first axis whose rows share lanes, because one has few
  const T* first_window;      // of the first axis, or null
  const T* other_window;      // [rows, last axis], products over the other axes, or null
  const std::int32_t* shell;  // [n/2 + 1 of every axis], each below `shells`
  std::int64_t shells;
  T* modes;
  double* sums;  // [items, kShellCopies, shells]
};

template <class T>
struct GridShellsKernels {
  int lanes, strips;  // strips: whose first axes are in scratch at a time
  // Strips [begin, end) of two blocks, counted through all items: the first axis, from samples to modes.
  void (*first_axis)(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch);
  // Frequencies [begin, end) of the first axis, counted through all items: the other axes, from modes to sums.
  void (*other_axes)(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch);
};

GRAMIAN_DECLARE_KERNELS(GridShellsKernels<float>, grid_shells_f32)
GRAMIAN_DECLARE_KERNELS(GridShellsKernels<double>, grid_shells_f64)

}  // namespace gramian
