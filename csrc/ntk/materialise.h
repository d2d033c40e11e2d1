// The route that forms the gradients: a piece of the Jacobian's columns at a time, then all its products.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"
#include "ntk/jacobian_kernel.h"

namespace gramian {

// A small kernel matrix has too few blocks for the threads: its products are summed in slices of their parameters, each into a
// matrix of its own.
class Slices {
 public:
  static constexpr std::int64_t kSlices = 8, kMostRows = 512;

  static bool fit(const KernelMatrix& k) { return k.rows <= kMostRows && k.cols <= kMostRows; }

  Slices(const KernelMatrix& k, const Tensor& like)
      : k_(k),
        wide_(like.scalar_type() == ScalarType::Double),
        sums_(allocate_zeros(like, {kSlices, k.rows, k.cols})) {}

  void* sum_of(std::int64_t slice) const {
    return static_cast<char*>(sums_.mutable_data_ptr()) + slice * k_.rows * k_.cols * (wide_ ? 8 : 4);
  }

  // K (+)= the slices' sums, in their order.
  void finish() const { wide_ ? finish_as<double>() : finish_as<float>(); }

 private:
  template <class T>
  void finish_as() const {
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

// One side of a piece: panels of rows, and what is formed into them.
class JacobianSide {
 public:
  JacobianSide(std::int64_t rows, std::int64_t depth, const Tensor& like)
      : wide_(like.scalar_type() == ScalarType::Double),
        panels_(block_count(rows, GRAMIAN_KERNELS(jacobian).panel_rows(wide_))),
        stride_(GRAMIAN_KERNELS(jacobian).panel_stride(depth)),
        memory_(allocate(like, {panels_, stride_, GRAMIAN_KERNELS(jacobian).panel_rows(wide_)}, like.scalar_type())) {
    prefer_huge_pages(memory_.mutable_data_ptr(), static_cast<std::size_t>(memory_.numel()) * (wide_ ? 8 : 4));
  }

  JacobianPanels panels() const { return {memory_.mutable_data_ptr(), stride_}; }

  void form(const std::vector<JacobianPiece>& pieces) const {
    const auto& kernel = GRAMIAN_KERNELS(jacobian);
    const auto count = static_cast<std::int64_t>(pieces.size());
    std::int64_t most = 0;
    for (const JacobianPiece& piece : pieces) most = std::max(most, kernel.form_scratch(piece, wide_));
    const Workspace scratch(worker_count(panels_ * count), most);
    run_pieces(panels_ * count, 1, [&](std::int64_t at, std::int64_t, std::int64_t worker) {
      const JacobianPiece& piece = pieces[static_cast<std::size_t>(at / panels_)];
      kernel.form(piece, at % panels_, panels(), wide_, scratch.of(worker));
    });
  }

 private:
  bool wide_;
  std::int64_t panels_, stride_;
  Tensor memory_;
};

// K (+)= the products of the first `used` vectors of all panels; each slice of them into its own sum where there are slices.
inline void add_products(const JacobianSide& x, const JacobianSide& y, std::int64_t used, const KernelMatrix& k,
                         const std::optional<Slices>& slices, bool wide) {
  constexpr std::int64_t kBlockRows = 192;  // the sums (147 KB) and a stretch of one side's panels (196 KB) stay in L2
  const auto& kernel = GRAMIAN_KERNELS(jacobian);
  std::vector<BlockPair> pairs;
  for (std::int64_t i = 0; i < block_count(k.rows, kBlockRows); ++i)
    for (std::int64_t j = k.symmetric ? i : 0; j < block_count(k.cols, kBlockRows); ++j) pairs.push_back({i, j});
  const auto count = static_cast<std::int64_t>(pairs.size()), parts = slices ? Slices::kSlices : 1;
  const std::int64_t each = block_count(used, parts);
  const Workspace scratch(worker_count(count * parts),
                          kernel.product_scratch(std::min(kBlockRows, k.rows), std::min(kBlockRows, k.cols), wide));
  run_pieces(count * parts, 1, [&](std::int64_t at, std::int64_t, std::int64_t worker) {
    const BlockPair& pair = pairs[static_cast<std::size_t>(at % count)];
    const std::int64_t part = at / count, first = part * each, length = std::min(each, used - first);
    if (slices && length <= 0) return;
    const std::int64_t row = pair.i * kBlockRows, col = pair.j * kBlockRows;
    const GramBlock block{k.outputs,
                          row,
                          std::min(kBlockRows, k.rows - row),
                          col,
                          std::min(kBlockRows, k.cols - col),
                          k.symmetric && pair.i == pair.j,
                          false,
                          slices || k.accumulate,
                          slices ? slices->sum_of(part) : k.out,
                          slices ? nullptr : k.mirror,
                          slices ? k.cols : k.stride};
    kernel.product(x.panels(), y.panels(), first, length, block, wide, scratch.of(worker));
  });
}

// A part of one layer's gradient, formed at once: some features of g times some of a.
struct Rectangle {
  const LinearLayer* layer;
  std::int64_t g_first, g_count, a_first, a_count;
  std::int64_t vectors;  // of a panel

  JacobianPiece piece(const Rows& a, const Rows& g, std::int64_t outputs, std::int64_t at) const {
    return {a, g, outputs, layer->positions, g_first, g_count, a_first, a_count, at};
  }
};

// Rectangles of about `depth` vectors, as near to squares as the widths allow: each side of one is packed anew for every cut of
// the other. Cuts of g are whole squares of lanes, which are packed fastest; where several outputs share their a, which then is
// broadcast, they are half as long.
inline std::vector<Rectangle> rectangles_of(const std::vector<LinearLayer>& layers, std::int64_t outputs,
                                            std::int64_t depth, bool wide) {
  const auto& kernel = GRAMIAN_KERNELS(jacobian);
  const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(depth))) / (outputs > 1 ? 2 : 1);
  std::vector<Rectangle> rectangles;
  for (const LinearLayer& layer : layers) {
    const std::int64_t a_features = layer.a1.cols + (layer.ones ? 1 : 0), g_features = layer.g1.cols;
    const std::int64_t step = kernel.layout(a_features, wide).group * kernel.panel_rows(wide);
    const std::int64_t g_each = block_count(std::max(side, depth / a_features), step) * step;
    // A quarter too long is better than a cut: the bias would make two of one.
    const std::int64_t a_most =
        std::max<std::int64_t>(depth / std::clamp<std::int64_t>(g_features, 1, g_each) * 5 / 4, 1);
    const std::int64_t a_each = block_count(a_features, block_count(a_features, a_most));
    for (std::int64_t g = 0; g < g_features; g += g_each)
      for (std::int64_t a = 0; a < a_features; a += a_each) {
        const std::int64_t g_count = std::min(g_each, g_features - g), a_count = std::min(a_each, a_features - a);
        const auto [inner, group] = kernel.layout(a_count, wide);
        rectangles.push_back({&layer, g, g_count, a, a_count, block_count(g_count, group) * group * inner});
      }
  }
  return rectangles;
}

inline void add_materialised(const std::vector<LinearLayer>& layers, KernelMatrix k, const Tensor& like) {
  // Rectangles of the Jacobian wait in pieces between being formed and being multiplied. Pieces of this size are still in the
  // third cache then; but the kernel matrix is read and written for each, so they are at least kLeast vectors deep.
  constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20, kLeast = 2048;
  const bool wide = like.scalar_type() == ScalarType::Double;
  const std::int64_t row_bytes = (k.rows + (k.symmetric ? 0 : k.cols)) * (wide ? 8 : 4);
  const std::int64_t wanted = std::max(kPieceBytes / row_bytes, kLeast);
  const std::vector<Rectangle> rectangles = rectangles_of(layers, k.outputs, wanted, wide);
  std::int64_t whole = 0, largest = 1;
  for (const Rectangle& rectangle : rectangles) {
    whole += rectangle.vectors;
    largest = std::max(largest, rectangle.vectors);
  }
  const std::int64_t depth = std::max(largest, std::min(whole, wanted));
  const JacobianSide x(k.rows, depth, like), y(k.symmetric ? 0 : k.cols, depth, like);

  std::optional<Slices> slices;
  if (Slices::fit(k)) slices.emplace(k, like);
  void* const mirror = k.mirror;
  auto next = rectangles.begin();
  do {  // once even when there is nothing to form: the kernel is then zero
    std::vector<JacobianPiece> x_pieces, y_pieces;
    std::int64_t used = 0;
    for (; next != rectangles.end() && used + next->vectors <= depth; used += next->vectors, ++next) {
      x_pieces.push_back(next->piece(next->layer->a1, next->layer->g1, k.outputs, used));
      y_pieces.push_back(next->piece(next->layer->a2, next->layer->g2, k.outputs, used));
    }
    x.form(x_pieces);
    if (!k.symmetric) y.form(y_pieces);
    k.mirror = next == rectangles.end() ? mirror : nullptr;
    add_products(x, k.symmetric ? x : y, used, k, slices, wide);
    k.accumulate = true;
  } while (next != rectangles.end());
  if (slices) slices->finish();
}

}  // namespace gramian
