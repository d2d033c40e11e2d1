// 6j and 3j symbols by three-term recursion. All spins are doubled, so all are integers.
//
// Both symbols are entries of orthogonal matrices that diagonalise a symmetric tridiagonal matrix with known
// eigenvalues; a family is one of its eigenvectors, normalised, its sign fixed at the last entry.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "simplex/factorials.h"

namespace gramian {

// One family. 6j: {x b1 b2; column b3 b4} over x, i.e. spin[0..3] = j2, j3, l2, l3 and column = l1.
// 3j: <spin[0] x; spin[1], spin[2] - x | column spin[2]> over x.
struct Family {
  std::int32_t spin[4];
  std::int32_t column;
  std::int32_t first;   // lowest x
  std::int32_t count;   // values of x, 2 apart
  std::int32_t target;  // the index of the one value asked for
  std::int32_t sign;    // multiplies the result (3j)
};

struct SixjKernels {
  std::int32_t lanes;  // families that run at once
  // Scratch, in doubles, for families of up to `count` entries.
  std::int64_t (*scratch)(std::int64_t count);
  // At most `lanes` families at once. stride 0: out[i] is the target of family i; else its entries start at
  // out[i * stride].
  void (*sixj)(const Family* families, std::int32_t lanes, Factorials factorials, double* scratch, double* out,
               std::int64_t stride);
  void (*threej)(const Family* families, std::int32_t lanes, Factorials factorials, double* scratch, double* out,
                 std::int64_t stride);
  // All 6j with spin = j2, j3, l2, l3: out [rows, cols] over j1 = first, first + 2, ... and l1 = column, column + 2, ...
  void (*block)(const Family& family, std::int64_t rows, std::int64_t cols, Factorials factorials, double* scratch,
                double* out);
  // to [cols, rows] = from [rows, cols] transposed.
  void (*transpose)(const double* from, std::int64_t rows, std::int64_t cols, double* to);
};

GRAMIAN_DECLARE_KERNELS(SixjKernels, sixj)

}  // namespace gramian
