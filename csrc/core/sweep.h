// The Gram sweep: every tile of X Yᵀ in a block, computed in registers and handed to an epilogue before it is
// forgotten. Per-level code (see lanes.h). An op is an epilogue; the shapes of a sweep (full, symmetric, causal) are the
// regions below together with the list of blocks that core/schedule.h hands out.
#pragma once
#include "core/pack.h"
#include "core/tile.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Which pairs (i, j) of rows a sweep visits; tiles without one are not computed, tiles on the edge are, and the
// epilogue ignores the rest of them.
enum class Region {
  full,
  upper,  // j >= i: a symmetric product, every tile serves its rows and its columns
  lower,  // j < i: causal
};

template <class T>
struct Tile {
  const T* values;        // [kTileRows, kTileCols]
  std::int64_t row, col;  // of its first value, in the whole matrix
  int rows, cols;         // how much of it lies within the matrix
};

// A block of packed rows: [first, first + rows) of the matrix. `Packed` is the type of the values, or Bf16Pair.
template <class Packed>
struct Block {
  const Packed* packed;
  std::int64_t first, rows;
};

// A group of row panels meets a chunk of column panels slab after slab before the sweep moves on, so that what waits
// between the slabs of deep rows stays in L2: a slab of the group (8 x 24 KiB) and its tiles with the chunk (396 KiB).
template <class T>
constexpr std::int64_t kGroupRows = 8 * kTileRows<T>;
template <class T>
constexpr std::int64_t kChunkCols = 33 * 2 * kLanes<T>;

template <class T>
GRAMIAN_INLINE std::int64_t partial_size(std::int64_t rows, std::int64_t cols, std::int64_t depth) {
  if (depth <= kSlab<T>) return 0;
  const std::int64_t group = round_up(rows, kTileRows<T>), chunk = round_up(cols, kTileCols<T>);
  return (group < kGroupRows<T> ? group : kGroupRows<T>)*(chunk < kChunkCols<T> ? chunk : kChunkCols<T>);
}

GRAMIAN_INLINE bool touches(Region region, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols) {
  if (region == Region::upper) return col + cols > row;
  if (region == Region::lower) return col < row + rows - 1;
  return true;
}

// `depth` counts packed values of a row.
template <class Packed, class T, class Epilogue>
GRAMIAN_INLINE void sweep_block(const Block<Packed>& x, const Block<Packed>& y, std::int64_t depth, Region region,
                                T* partial, Epilogue&& epilogue) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const std::int64_t x_padded = round_up(x.rows, kRows), y_padded = round_up(y.rows, kCols);
  alignas(64) T finished[kRows * kCols];
  for (std::int64_t chunk = 0; chunk < y_padded; chunk += kChunkCols<T>)
    for (std::int64_t group = 0; group < x_padded; group += kGroupRows<T>) {
      const std::int64_t chunk_end = chunk + kChunkCols<T> < y_padded ? chunk + kChunkCols<T> : y_padded;
      const std::int64_t group_end = group + kGroupRows<T> < x_padded ? group + kGroupRows<T> : x_padded;
      std::int64_t start = 0;
      do {  // once even when depth is 0: the tile is then zero, and an epilogue may still have work
        const std::int64_t in_slab = depth - start < kSlab<T> ? depth - start : kSlab<T>;
        const bool last = start + in_slab == depth;
        const Packed* x_slab = x.packed + start * x_padded;
        const Packed* y_slab = y.packed + start * y_padded;
        T* waiting = partial;
        for (std::int64_t j = chunk; j < chunk_end; j += kCols)
          for (std::int64_t i = group; i < group_end; i += kRows, waiting += kRows * kCols) {
            if (!touches(region, x.first + i, kRows, y.first + j, kCols)) continue;
            T* tile = depth > kSlab<T> ? waiting : finished;
            multiply_tile(x_slab + i * in_slab, y_slab + j * in_slab, in_slab, start > 0, tile);
            if (last) {
              const std::int64_t rows = x.rows - i, cols = y.rows - j;
              epilogue(Tile<T>{tile, x.first + i, y.first + j, rows < kRows ? static_cast<int>(rows) : kRows,
                               cols < kCols ? static_cast<int>(cols) : kCols});
            }
          }
        start += in_slab;
      } while (start < depth);
    }
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
