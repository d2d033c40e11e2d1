// The CUDA kernels of 6j and 3j symbols.
#pragma once
#include "core/device.h"
#include "simplex/sixj_kernel.h"

namespace gramian::cuda {

// Of `n` doubled spins: the largest, and how far from the end the first stands that is negative or beyond `limit` (0: none is).
struct SpinFacts {
  unsigned long long largest, bad_from_end;
};
// On the device, both zero before.
void measure_spins(const std::int64_t* spins, std::int64_t n, std::int64_t limit, SpinFacts* facts, Stream stream);

// values[i] of the symbols spins [6, n]; tables on the device.
void sixj(const std::int64_t* spins, std::int64_t n, Factorials tables, double* values, Stream stream);
void threej(const std::int64_t* spins, std::int64_t n, Factorials tables, double* values, Stream stream);

// Of spins [5, n] = j2, j3, l1, l2, l3 the lowest j1, and the longest family of all, into *longest (zero before).
void family_sizes(const std::int64_t* spins, std::int64_t n, std::int64_t* first, unsigned long long* longest,
                  Stream stream);
// values [n, width], zero before.
void families(const std::int64_t* spins, std::int64_t n, std::int64_t width, Factorials tables, double* values,
              Stream stream);

// A matrix of symbols: its families over j1, one for each l1.
struct BlockWork {
  Family family;
  std::int64_t rows, cols;
  std::int64_t column;  // how many columns the blocks before it have
  std::int64_t offset;  // of its values
};
// `work` of `count` blocks with `columns` in all, on the device.
void blocks(const BlockWork* work, std::int64_t count, std::int64_t columns, Factorials tables, double* values,
            Stream stream);

// A block that is another one, or its transpose.
struct ImageWork {
  std::int64_t from, to, rows, cols;  // places of the values; sizes of the original
  bool transposed;
};
void images(const ImageWork* work, std::int64_t count, double* values, Stream stream);

}  // namespace gramian::cuda
