// The passes over a kernel matrix on the CPU: layers by either route, blocks over threads.
#pragma once
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "ntk/layers.h"
#include "ntk/materialise.h"

namespace gramian {

// Rows of a block: as many as the engine's largest block where one thread works, so that little is packed; with more
// threads two blocks a side for each, so that they end together.
inline std::int64_t gram_block_rows(std::int64_t rows, std::int64_t threads) {
  constexpr std::int64_t kTileMultiple = 96, kMost = 1056;
  const std::int64_t blocks = std::max(block_count(rows, kMost), threads == 1 ? 1 : 2 * threads);
  return block_count(block_count(rows, blocks), kTileMultiple) * kTileMultiple;
}

// One pass over the kernel matrix: K (+)= the sum of the layers' Hadamard Grams, block by block.
inline void add_blocks(const std::vector<LinearLayer>& layers, const KernelMatrix& k, bool wide) {
  const auto& kernel = GRAMIAN_KERNELS(linear_gram);
  const std::int64_t threads = worker_count(k.rows * k.cols);
  const std::int64_t row_block = gram_block_rows(k.rows, threads);
  const std::int64_t col_block = k.symmetric ? row_block : gram_block_rows(k.cols, threads);
  std::vector<BlockPair> pairs;
  for (std::int64_t i = 0; i < block_count(k.rows, row_block); ++i)
    for (std::int64_t j = k.symmetric ? i : 0; j < block_count(k.cols, col_block); ++j) pairs.push_back({i, j});
  const auto count = static_cast<std::int64_t>(layers.size());
  const std::int64_t workers = worker_count(static_cast<std::int64_t>(pairs.size()));
  const Workspace scratch(workers, kernel.block_scratch(layers.data(), count, k.outputs, std::min(row_block, k.rows),
                                                        std::min(col_block, k.cols), wide));
  std::vector<std::int64_t> packed(static_cast<std::size_t>(workers), -1);  // row block in each worker's scratch
  run_pieces(static_cast<std::int64_t>(pairs.size()), 1, [&](std::int64_t at, std::int64_t, std::int64_t worker) {
    const BlockPair& pair = pairs[static_cast<std::size_t>(at)];
    std::int64_t& last_rows = packed[static_cast<std::size_t>(worker)];
    const std::int64_t row = pair.i * row_block, col = pair.j * col_block;
    const GramBlock block{k.outputs,
                          row,
                          std::min(row_block, k.rows - row),
                          col,
                          std::min(col_block, k.cols - col),
                          k.symmetric && pair.i == pair.j,
                          last_rows == pair.i,
                          k.accumulate,
                          k.out,
                          k.mirror,
                          k.stride};
    kernel.block(layers.data(), count, block, wide, scratch.of(worker));
    last_rows = pair.i;
  });
}

// K (+)= the sum of the layers' Grams. `like` is any tensor of the compute type.
inline void add_grams(const std::vector<Layer>& layers, KernelMatrix k, const Tensor& like) {
  if (k.rows == 0 || k.cols == 0) return;
  const bool wide = like.scalar_type() == ScalarType::Double;
  if (!k.accumulate) prefer_huge_pages(k.out, static_cast<std::size_t>(k.rows * k.stride * (wide ? 8 : 4)));
  std::vector<LinearLayer> hadamard, materialised;
  for (const Layer& layer : layers) (layer.route == Route::hadamard ? hadamard : materialised).push_back(layer.views);
  void* const mirror = k.mirror;
  if (!hadamard.empty()) {
    if (!materialised.empty()) k.mirror = nullptr;
    add_blocks(hadamard, k, wide);
    k.accumulate = true;
    k.mirror = mirror;
  }
  if (!materialised.empty()) add_materialised(materialised, k, like);
}

}  // namespace gramian
