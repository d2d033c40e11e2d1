// The register tile: kTileRows x kTileCols dot products at once, from packed panels. Per-level code (see lanes.h).
//
// A panel is `width` rows of a matrix, transposed: element (k, r) at panel[k * width + r]. One step along k then loads
// kTileCols values of the column panel as vectors and broadcasts kTileRows values of the row panel.
#pragma once
#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Two column vectors and 12 rows fill 24 accumulators of 32 registers (6 rows, 12 of 16): 2 + 12 loads for 24 FMAs, and
// far more FMAs in flight than their latency (4) times their number a cycle (2) asks for.
template <class T>
constexpr int kTileCols = 2 * kLanes<T>;
template <class T>
constexpr int kTileRows = kRegisters == 32 ? 12 : 6;

// tile[r * kTileCols + c] (+)= sum_k rows[k, r] * cols[k, c]
template <class T>
GRAMIAN_INLINE void multiply_tile(const T* rows, const T* cols, std::int64_t depth, bool accumulate, T* tile) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  Vec<T> left[kRows] = {}, right[kRows] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec<T> col_left = load(cols), col_right = load(cols + kN);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = broadcast(rows[r]);
      left[r] += row * col_left;
      right[r] += row * col_right;
    }
    rows += kRows;
    cols += kCols;
  }
  // Slabs are summed by themselves and then added: rounding grows with the slab plus the number of slabs, not the depth.
  if (accumulate) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      left[r] += load(tile + r * kCols);
      right[r] += load(tile + r * kCols + kN);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(tile + r * kCols, left[r]);
    store(tile + r * kCols + kN, right[r]);
  }
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
