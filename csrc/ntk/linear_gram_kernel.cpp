// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ntk/linear_gram_kernel.h"

#include "core/sweep.h"
#include "ntk/write_block.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Gradient rows (output rows times positions) that are swept at once: their packed panels and the factor stay in L2/L3.
constexpr std::int64_t kSweptRows = 512;

// Output rows of a sub-block: all of them when a layer has one position.
GRAMIAN_INLINE std::int64_t rows_at_once(std::int64_t rows, std::int64_t positions) {
  return positions == 1 ? rows : smaller(rows, larger(1, kSweptRows / positions));
}

// Rows of `a` (positions of the samples) that `rows` successive output rows touch, wherever they begin.
GRAMIAN_INLINE std::int64_t touched(std::int64_t rows, std::int64_t outputs, std::int64_t positions) {
  return ((rows + outputs - 2) / outputs + 1) * positions;
}

// The scratch memory of a block; sized by walking the same layout from a null base.
template <class T>
struct Scratch {
  T* sum;              // the block of the kernel, row-major, `sum_stride` values a row
  T *g_rows, *g_cols;  // packed; the rows of layers with one position stand one after the other, those of others last
  T *a_rows, *a_cols;
  T* partial;
  T* gram;    // <a, a'>, row-major
  T* factor;  // the same with columns repeated for the outputs
  T* wide;    // output rows x gradient columns, before the sum over positions of the columns
  std::int64_t size = 0;

  Scratch(const LinearLayer* layers, std::int64_t count, std::int64_t outputs, std::int64_t rows, std::int64_t cols,
          T* base) {
    std::int64_t kept = 0, g1 = 0, g2 = 0, a1 = 0, a2 = 0, tiles = 0, grams = 0, factors = 0, wides = 0;
    for (const LinearLayer* layer = layers; layer < layers + count; ++layer) {
      const std::int64_t t = layer->positions;
      const std::int64_t nx = rows_at_once(rows, t), ny = rows_at_once(cols, t);
      const std::int64_t sx = touched(nx, outputs, t), sy = touched(ny, outputs, t);
      const std::int64_t packed = packed_size<T, kTileRows<T>>(nx * t, layer->g1.cols);
      if (t == 1)
        kept += packed;
      else
        g1 = larger(g1, packed);
      g2 = larger(g2, packed_size<T, kTileCols<T>>(ny * t, layer->g1.cols));
      tiles = larger(tiles, partial_size<T>(nx * t, ny * t, layer->g1.cols));
      if (t > 1) wides = larger(wides, nx * round_up(ny * t, kTileCols<T>));
      if (layer->a1.cols == 0) continue;
      a1 = larger(a1, packed_size<T, kTileRows<T>>(sx, layer->a1.cols));
      a2 = larger(a2, packed_size<T, kTileCols<T>>(sy, layer->a1.cols));
      tiles = larger(tiles, partial_size<T>(sx, sy, layer->a1.cols));
      grams = larger(grams, sx * round_up(sy, kTileCols<T>));
      if (outputs > 1) factors = larger(factors, sx * round_up(ny * t, kTileCols<T>));
    }
    const auto take = [&](std::int64_t values) {
      T* const taken = base == nullptr ? nullptr : base + size;
      size += round_up(values, 4096 / static_cast<std::int64_t>(sizeof(T)));
      return taken;
    };
    g_rows = take(kept + g1);  // first: where it stands does not depend on the columns
    sum = take(round_up(rows, kLanes<T>) * round_up(cols, kTileCols<T>));
    g_cols = take(g2);
    a_rows = take(a1);
    a_cols = take(a2);
    partial = take(tiles);
    gram = take(grams);
    factor = take(factors);
    wide = take(wides);
  }
};

// What the tiles of <g, g'> are multiplied with: values[(a row) * stride + (gradient column)], or 1 where null.
template <class T>
struct Factor {
  const T* values;
  std::int64_t stride;
};

// <a, a'> (+ 1) for the samples of output rows [row, row + rows) and columns [col, col + cols).
template <class T>
Factor<T> activation_factor(const LinearLayer& layer, std::int64_t outputs, std::int64_t row, std::int64_t rows,
                            std::int64_t col, std::int64_t cols, bool upper, const Scratch<T>& scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  if (layer.a1.cols == 0) return {nullptr, 0};
  const std::int64_t t = layer.positions;
  const std::int64_t first_row = row / outputs * t, last_row = ((row + rows - 1) / outputs + 1) * t;
  const std::int64_t first_col = col / outputs * t, last_col = ((col + cols - 1) / outputs + 1) * t;
  const std::int64_t stride = round_up(last_col - first_col, kCols);
  const Block<T> x{scratch.a_rows, first_row, last_row - first_row}, y{scratch.a_cols, first_col, last_col - first_col};
  if (layer.equal) {
    for (std::int64_t j = 0; j < y.rows; ++j)
      scratch.a_cols[j] = convert<T>(layer.a2, row_offset(layer.a2, y.first + j));
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const T number = convert<T>(layer.a1, row_offset(layer.a1, x.first + i));
      for (std::int64_t j = 0; j < y.rows; ++j)
        scratch.gram[i * stride + j] = static_cast<T>((scratch.a_cols[j] == number ? 1 : 0) + (layer.ones ? 1 : 0));
    }
  } else {
    pack_block<T, kRows>(layer.a1, x.first, x.rows, {}, scratch.a_rows);
    pack_block<T, kCols>(layer.a2, y.first, y.rows, {}, scratch.a_cols);
    const Vec<T> one = broadcast(static_cast<T>(layer.ones ? 1 : 0));
    const Region region = upper && outputs == 1 && t == 1 ? Region::upper : Region::full;
    sweep_block(x, y, layer.a1.cols, region, scratch.partial, [&](const Tile<T>& tile) {
      T* to = scratch.gram + (tile.row - first_row) * stride + tile.col - first_col;
      const T* from = tile.values;
      for (int r = 0; r < tile.rows; ++r, to += stride, from += kCols) {
        store(to, load(from) + one);
        store(to + kN, load(from + kN) + one);
      }
    });
  }
  if (outputs == 1) return {scratch.gram, stride};

  const std::int64_t wide = round_up(cols * t, kCols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    T* to = scratch.factor + i * wide;
    for (std::int64_t j = 0, output = col % outputs, sample = 0; j < cols; ++j) {
      const T* from = scratch.gram + i * stride + sample * t;
      for (std::int64_t s = 0; s < t; ++s) *to++ = from[s];
      if (++output == outputs) output = 0, ++sample;
    }
  }
  return {scratch.factor, wide};
}

// to[q, y] (+)= sum_t factor[t, y] <g[q, t], g'[y]> for the rows that a tile holds; `to` begins at output row `row`.
template <class T>
GRAMIAN_INLINE void add_tile(const Tile<T>& tile, const Factor<T>& factor, std::int64_t outputs, std::int64_t positions,
                             std::int64_t row, std::int64_t first_col, bool add, T* to, std::int64_t stride) {
  constexpr int kCols = kTileCols<T>, kN = kLanes<T>;
  const std::int64_t col = tile.col - first_col;
  std::int64_t q = tile.row / positions, t = tile.row % positions;
  std::int64_t sample = q / outputs - row / outputs, output = q % outputs;
  const T* from = tile.values;
  for (int r = 0; r < tile.rows; ++r, from += kCols) {
    Vec<T> left = load(from), right = load(from + kN);
    if (factor.values != nullptr) {
      const T* with = factor.values + (sample * positions + t) * factor.stride + col;
      left *= load(with);
      right *= load(with + kN);
    }
    T* at = to + (q - row) * stride + col;
    if (add) {
      left += load(at);
      right += load(at + kN);
    }
    store(at, left);
    store(at + kN, right);
    if (++t < positions) continue;
    t = 0;
    ++q;
    if (++output == outputs) output = 0, ++sample;
  }
}

// sum (+)= the layer's part of the block.
template <class T>
void add_layer(const LinearLayer& layer, const GramBlock& block, bool add, T* g_rows, const Scratch<T>& scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const std::int64_t t = layer.positions, sum_stride = round_up(block.cols, kCols);
  const std::int64_t rows_each = rows_at_once(block.rows, t), cols_each = rows_at_once(block.cols, t);
  for (std::int64_t i = 0; i < block.rows; i += rows_each) {
    const std::int64_t row = block.row + i, rows = smaller(rows_each, block.rows - i);
    const Block<T> x{g_rows, row * t, rows * t};
    if (t > 1 || !block.same_rows) pack_block<T, kRows>(layer.g1, x.first, x.rows, {}, g_rows);
    for (std::int64_t j = 0; j < block.cols; j += cols_each) {
      const std::int64_t col = block.col + j, cols = smaller(cols_each, block.cols - j);
      if (block.upper && col + cols <= row) continue;
      const Factor<T> factor = activation_factor(layer, block.outputs, row, rows, col, cols, block.upper, scratch);
      const Block<T> y{scratch.g_cols, col * t, cols * t};
      pack_block<T, kCols>(layer.g2, y.first, y.rows, {}, scratch.g_cols);
      T* const sum = scratch.sum + i * sum_stride + j;
      if (t == 1) {
        sweep_block(
            x, y, layer.g1.cols, block.upper ? Region::upper : Region::full, scratch.partial,
            [&](const Tile<T>& tile) { add_tile(tile, factor, block.outputs, 1, row, y.first, add, sum, sum_stride); });
        continue;
      }
      const std::int64_t wide = round_up(y.rows, kCols);
      __builtin_memset(scratch.wide, 0, static_cast<std::size_t>(rows * wide) * sizeof(T));
      sweep_block(x, y, layer.g1.cols, Region::full, scratch.partial, [&](const Tile<T>& tile) {
        add_tile(tile, factor, block.outputs, t, row, y.first, true, scratch.wide, wide);
      });
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) {
          T total = 0;
          for (std::int64_t s = 0; s < t; ++s) total += scratch.wide[r * wide + c * t + s];
          T& to = sum[r * sum_stride + c];
          to = add ? to + total : total;
        }
    }
  }
}

template <class T>
void block_of(const LinearLayer* layers, std::int64_t count, const GramBlock& block, void* memory) {
  const Scratch<T> scratch(layers, count, block.outputs, block.rows, block.cols, static_cast<T*>(memory));
  T* kept = scratch.g_rows;
  for (std::int64_t l = 0; l < count; ++l)
    if (layers[l].positions == 1) kept += packed_size<T, kTileRows<T>>(block.rows, layers[l].g1.cols);
  T* const passing = kept;
  kept = scratch.g_rows;
  for (std::int64_t l = 0; l < count; ++l) {
    const bool keeps = layers[l].positions == 1;
    add_layer(layers[l], block, l > 0, keeps ? kept : passing, scratch);
    if (keeps) kept += packed_size<T, kTileRows<T>>(block.rows, layers[l].g1.cols);
  }
  write_block(block, scratch.sum, round_up(block.cols, kTileCols<T>));
}

void block(const LinearLayer* layers, std::int64_t count, const GramBlock& block, bool wide, void* scratch) {
  wide ? block_of<double>(layers, count, block, scratch) : block_of<float>(layers, count, block, scratch);
}

std::int64_t block_scratch(const LinearLayer* layers, std::int64_t count, std::int64_t outputs, std::int64_t rows,
                           std::int64_t cols, bool wide) {
  return wide ? Scratch<double>(layers, count, outputs, rows, cols, nullptr).size * 8
              : Scratch<float>(layers, count, outputs, rows, cols, nullptr).size * 4;
}

}  // namespace

extern const LinearGramKernels linear_gram{block_scratch, block};

}  // namespace gramian::GRAMIAN_ISA
