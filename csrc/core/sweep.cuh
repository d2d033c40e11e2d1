// Which tiles a sweep visits, and in what order. Pure index arithmetic, the same on both sides.
#pragma once
#include "core/device.cuh"
#include "core/schedule.h"

namespace gramian::cuda {

struct TilePair {
  std::int64_t i, j;  // row and column panel
};

GRAMIAN_BOTH std::int64_t tile_count(Sweep sweep, std::int64_t rows, std::int64_t cols) {
  return sweep == Sweep::full ? rows * cols : rows * (rows + 1) / 2;
}

// The t-th tile of `rows` x `cols` panels. Full: down groups of 8 row panels, so that the blocks of threads that run at the same
// time share panels in L2. Symmetric (j >= i) and causal (j <= i): row i and the row that completes it to a full one are laid
// end to end, which makes a rectangle of the triangle.
GRAMIAN_BOTH TilePair tile_at(Sweep sweep, std::int64_t t, std::int64_t rows, std::int64_t cols) {
  if (sweep == Sweep::full) {
    constexpr std::int64_t kGroup = 8;
    const std::int64_t first = t / (kGroup * cols) * kGroup, within = t % (kGroup * cols);
    const std::int64_t height = rows - first < kGroup ? rows - first : kGroup;
    return {first + within % height, within / height};
  }
  const std::int64_t width = rows % 2 == 0 ? rows + 1 : rows;
  std::int64_t i = t / width, offset = t % width;
  if (offset >= rows - i) {
    offset -= rows - i;
    i = width - 1 - i + (rows % 2 == 0 ? -1 : 1);
  }
  return sweep == Sweep::symmetric ? TilePair{i, i + offset} : TilePair{i + offset, i};
}

}  // namespace gramian::cuda
