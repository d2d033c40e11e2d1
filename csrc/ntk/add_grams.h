// The passes over a kernel matrix on the CPU: layers by either route, blocks over threads.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "ntk/layers.h"

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

// Products of a small kernel matrix are summed in slices of their features, each by one worker into a matrix of its own: its
// blocks are too few for the threads.
class Slices {
 public:
  static constexpr std::int64_t kSlices = 8, kMostRows = 512;

  static bool fit(const KernelMatrix& k) { return k.rows <= kMostRows && k.cols <= kMostRows; }

  Slices(const KernelMatrix& k, const Tensor& like)
      : k_(k),
        wide_(like.scalar_type() == ScalarType::Double),
        sums_(torch::stable::new_zeros(like, {kSlices, k.rows, k.cols})) {}

  void add(const LinearLayer& products) {
    const auto& kernel = GRAMIAN_KERNELS(linear_gram);
    const std::int64_t each = block_count(products.g1.cols, kSlices);
    const Workspace scratch(worker_count(kSlices), kernel.block_scratch(&products, 1, 1, k_.rows, k_.cols, wide_));
    run_pieces(kSlices, 1, [&](std::int64_t slice, std::int64_t, std::int64_t worker) {
      const std::int64_t first = slice * each, count = std::min(each, products.g1.cols - first);
      if (count <= 0) return;
      LinearLayer some = products;
      for (Rows* rows : {&some.g1, &some.g2}) {
        rows->data = static_cast<const char*>(rows->data) + first * value_bytes();
        rows->cols = count;
      }
      kernel.block(&some, 1, {1, 0, k_.rows, 0, k_.cols, k_.symmetric, false, true, sum_of(slice), nullptr, k_.cols},
                   wide_, scratch.of(worker));
    });
  }

  // K (+)= the slices' sums, in their order.
  void finish() { wide_ ? finish_as<double>() : finish_as<float>(); }

 private:
  std::int64_t value_bytes() const { return wide_ ? 8 : 4; }
  void* sum_of(std::int64_t slice) const {
    return static_cast<char*>(sums_.mutable_data_ptr()) + slice * k_.rows * k_.cols * value_bytes();
  }

  template <class T>
  void finish_as() {
    const std::int64_t size = k_.rows * k_.cols;
    const T* const sums = static_cast<const T*>(sums_.const_data_ptr());
    T* const out = static_cast<T*>(k_.out);
    T* const mirror = static_cast<T*>(k_.mirror);
    for (std::int64_t i = 0; i < k_.rows; ++i)
      for (std::int64_t j = k_.symmetric ? i : 0; j < k_.cols; ++j) {
        T total = k_.accumulate ? out[i * k_.stride + j] : T{0};
        for (std::int64_t slice = 0; slice < kSlices; ++slice) total += sums[slice * size + i * k_.cols + j];
        out[i * k_.stride + j] = total;
        if (mirror != nullptr) mirror[j * k_.stride + i] = total;
      }
  }

  KernelMatrix k_;
  bool wide_;
  Tensor sums_;
};

// K (+)= the sum of the layers' Grams. `like` is any tensor of the compute type.
inline void add_grams(const std::vector<Layer>& layers, KernelMatrix k, const Tensor& like) {
  if (k.rows == 0 || k.cols == 0) return;
  const auto& kernel = GRAMIAN_KERNELS(linear_gram);
  const bool wide = like.scalar_type() == ScalarType::Double;
  const std::int64_t value_bytes = wide ? 8 : 4, sides = k.symmetric ? 1 : 2;
  if (!k.accumulate) prefer_huge_pages(k.out, static_cast<std::size_t>(k.rows * k.stride * value_bytes));

  std::vector<LinearLayer> hadamard;
  std::vector<LinearLayer> materialised;
  for (const Layer& layer : layers) (layer.route == Route::hadamard ? hadamard : materialised).push_back(layer.views);
  if (materialised.empty()) return add_blocks(hadamard, k, wide);

  // Pieces of the Jacobian wait here between being formed and being multiplied. Larger ones let the kernel matrix be read and
  // written less often; where its slices stay in the cache, so should they.
  const bool sliced = Slices::fit(k);
  const std::int64_t jacobian_bytes =
      sliced ? std::int64_t{8} << 20 : std::max(std::int64_t{32} << 20, k.rows * k.cols * value_bytes / 8);
  const auto features = [](const LinearLayer& layer) { return layer.a1.cols + (layer.ones ? 1 : 0); };
  std::int64_t width = 0, widest = 1;
  for (const LinearLayer& layer : materialised) {
    width += layer.g1.cols * features(layer);
    widest = std::max(widest, features(layer));
  }
  width = std::min(width, std::max(widest, jacobian_bytes / (value_bytes * (k.rows + (sides - 1) * k.cols))));
  const Tensor jacobian1 = torch::stable::new_empty(like, {k.rows, width}, like.scalar_type());
  const Tensor jacobian2 = torch::stable::new_empty(like, {sides == 2 ? k.cols : 0, width}, like.scalar_type());

  void* const mirror = k.mirror;
  if (sliced && !hadamard.empty()) {
    k.mirror = nullptr;
    add_blocks(hadamard, k, wide);
    hadamard.clear();
    k.accumulate = true;
    k.mirror = mirror;
  }
  std::optional<Slices> slices;
  if (sliced) slices.emplace(k, like);
  std::size_t at = 0;
  std::int64_t first = 0;  // feature of materialised[at] that the next piece begins with
  while (at < materialised.size()) {
    std::int64_t used = 0;
    for (; at < materialised.size(); ++at, first = 0) {
      const LinearLayer& layer = materialised[at];
      const std::int64_t each = features(layer);
      const std::int64_t count = std::min(layer.g1.cols - first, each > 0 ? (width - used) / each : layer.g1.cols);
      for (std::int64_t side = 0; side < sides && count > 0; ++side) {
        const Rows& a = side == 0 ? layer.a1 : layer.a2;
        const Tensor& to = side == 0 ? jacobian1 : jacobian2;
        const JacobianPiece piece{a,          side == 0 ? layer.g1 : layer.g2,
                                  k.outputs,  layer.positions,
                                  layer.ones, first,
                                  count,      static_cast<char*>(to.mutable_data_ptr()) + used * value_bytes,
                                  width};
        const std::int64_t samples = a.rows / layer.positions;
        const Workspace scratch(worker_count(samples), kernel.jacobian_scratch(piece, wide));
        run_pieces(samples, 1, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
          kernel.jacobian(piece, begin, end - begin, wide, scratch.of(worker));
        });
      }
      used += count * each;
      first += count;
      if (first < layer.g1.cols) break;  // full
    }
    const Element element = wide ? Element::f64 : Element::f32;
    const Rows none{nullptr, 0, 0, 0, 1, element};
    const auto formed = [&](const Tensor& jacobian) {
      return Rows{jacobian.const_data_ptr(), jacobian.size(0), used, width, 1, element};
    };
    const Rows rows = formed(jacobian1);
    const LinearLayer products{none, rows, none, sides == 2 ? formed(jacobian2) : rows, 1, true, false};
    if (sliced) {
      slices->add(products);
      continue;
    }
    hadamard.push_back(products);
    k.mirror = at == materialised.size() ? mirror : nullptr;
    add_blocks(hadamard, k, wide);
    hadamard.clear();
    k.accumulate = true;
  }
  if (sliced) slices->finish();
}

}  // namespace gramian
