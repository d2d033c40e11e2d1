// The plainest sweep: every tile is squared and summed. A fixed number of blocks shares the tiles out, so that the order of
// the sum is the same on every device.
#include "core/gram_square_sum_cuda.h"

#include <algorithm>

#include "core/sweep.cuh"
#include "core/tile.cuh"

namespace gramian::cuda {
namespace {

constexpr std::int64_t kBlocks = 1024;

template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads) square_sum_kernel(Packed<T> x, Packed<T> y, double* partial) {
  __shared__ double slots[kWarps];
  T* const ring = shared_memory<T>();
  const std::int64_t tiles = tile_count(Sweep::full, x.panels(), y.panels());
  const std::int64_t mine = (tiles - blockIdx.x + gridDim.x - 1) / gridDim.x;
  const auto panels_of = [&](std::int64_t t) {
    const TilePair at = tile_at(Sweep::full, blockIdx.x + t * gridDim.x, x.panels(), y.panels());
    return PanelPair<T>{x.panel(at.i), y.panel(at.j)};
  };
  double sum = 0;
  Tile tile;
  clear_tile(tile);
  add_tiles(mine, static_cast<int>(x.depth / kSlab), panels_of, ring, tile, [&](std::int64_t) {
    GRAMIAN_UNROLL
    for (int i = 0; i < Tile::kRows; ++i) {
      T squares = 0;  // padding is zero, so the whole tile counts
      GRAMIAN_UNROLL
      for (int j = 0; j < Tile::kCols; ++j) squares += tile.v[i][j] * tile.v[i][j];
      sum += static_cast<double>(squares);
    }
    clear_tile(tile);
  });
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) total_kernel(const double* partial, int count, T* total) {
  __shared__ double slots[kWarps];
  double sum = 0;
  for (int p = static_cast<int>(threadIdx.x); p < count; p += kThreads) sum += partial[p];
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) *total = static_cast<T>(sum);
}

template <class Tile, class T = typename Tile::Value>
void run(const Rows& x, const Rows& y, void* memory, void* total, Stream stream, bool tf32 = false) {
  const Affine<T> rounding{nullptr, nullptr, tf32};
  char* at = static_cast<char*>(memory);
  double* const partial = reinterpret_cast<double*>(at);
  const Packed<T> a = pack<T>(x, rounding, at += kBlocks * sizeof(double), stream);
  const Packed<T> b = pack<T>(y, rounding, at += packed_bytes<T>(x.rows, x.cols), stream);
  const std::int64_t blocks = std::min(kBlocks, tile_count(Sweep::full, a.panels(), b.panels()));
  launch(square_sum_kernel<Tile>, grid_of_blocks(blocks), kTileBytes<T>, stream, a, b, partial);
  launch(total_kernel<T>, grid_of_blocks(1), 0, stream, static_cast<const double*>(partial), static_cast<int>(blocks),
         static_cast<T*>(total));
}

}  // namespace

std::int64_t gram_square_sum_bytes(const Rows& x, const Rows& y) {
  const std::int64_t sums = kBlocks * static_cast<std::int64_t>(sizeof(double));
  return x.element == Element::f64 ? sums + packed_bytes<double>(x.rows, x.cols) + packed_bytes<double>(y.rows, y.cols)
                                   : sums + packed_bytes<float>(x.rows, x.cols) + packed_bytes<float>(y.rows, y.cols);
}

void gram_square_sum(const Rows& x, const Rows& y, void* memory, void* total, Stream stream) {
  switch (x.element) {
    case Element::f64: return run<DmmaTile>(x, y, memory, total, stream);
    case Element::f32:
      if (allow_tf32()) return run<Tf32Tile>(x, y, memory, total, stream, true);
      return run<FmaTile>(x, y, memory, total, stream);
    default: return run<Tf32Tile>(x, y, memory, total, stream);
  }
}

}  // namespace gramian::cuda
