// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ntk/linear_gram_kernel.h"

#include "core/sweep.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Gradient rows (output rows times positions) that are swept at once: their packed panels and the factor stay in L2/L3.
constexpr std::int64_t kSweptRows = 512;

GRAMIAN_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
GRAMIAN_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

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

// to[c, r] = from[r, c], 16 lanes by 16 lanes where both sizes allow.
template <class T>
void write_transposed(const T* from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols, T* to,
                      std::int64_t to_stride) {
  constexpr int kN = kLanes<T>;
  for (std::int64_t c = 0; c < cols; c += kN)
    for (std::int64_t r = 0; r < rows; r += kN) {
      const int height = static_cast<int>(smaller(kN, cols - c)), width = static_cast<int>(smaller(kN, rows - r));
      Vec<T> square[kN];
#pragma GCC unroll 16
      for (int k = 0; k < kN; ++k) square[k] = load(from + (r + k) * from_stride + c);
      transpose<T>(square);
      for (int k = 0; k < height; ++k) {
        T* const at = to + (c + k) * to_stride + r;
        if (width == kN)
          store(at, square[k]);
        else
          __builtin_memcpy(at, &square[k], static_cast<std::size_t>(width) * sizeof(T));
      }
    }
}

template <class T>
void write_block(const GramBlock& block, const Scratch<T>& scratch) {
  const std::int64_t stride = round_up(block.cols, kTileCols<T>);
  T* const out = static_cast<T*>(block.out) + block.row * block.stride + block.col;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    T* const from = scratch.sum + r * stride;
    T* const to = out + r * block.stride;
    const std::int64_t first = block.upper ? r : 0;
    if (block.accumulate)
      for (std::int64_t c = first; c < block.cols; ++c) from[c] += to[c];
    for (std::int64_t c = first; c < block.cols; ++c) to[c] = from[c];
  }
  if (block.mirror == nullptr) return;
  T* const mirror = static_cast<T*>(block.mirror) + block.col * block.stride + block.row;
  if (!block.upper) return write_transposed(scratch.sum, stride, block.rows, block.cols, mirror, block.stride);
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < r; ++c) out[r * block.stride + c] = scratch.sum[c * stride + r];
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
  write_block(block, scratch);
}

void block(const LinearLayer* layers, std::int64_t count, const GramBlock& block, bool wide, void* scratch) {
  wide ? block_of<double>(layers, count, block, scratch) : block_of<float>(layers, count, block, scratch);
}

std::int64_t block_scratch(const LinearLayer* layers, std::int64_t count, std::int64_t outputs, std::int64_t rows,
                           std::int64_t cols, bool wide) {
  return wide ? Scratch<double>(layers, count, outputs, rows, cols, nullptr).size * 8
              : Scratch<float>(layers, count, outputs, rows, cols, nullptr).size * 4;
}

// A matrix whose rows are the features [first, first + count) of `source` and whose features are its `positions` rows
// from `row` on.
GRAMIAN_INLINE Rows by_feature(const Rows& source, std::int64_t row, std::int64_t positions, std::int64_t count) {
  const std::int64_t size = source.element == Element::f64 ? 8 : source.element == Element::f32 ? 4 : 2;
  Rows turned{static_cast<const char*>(source.data) + row_offset(source, row) * size,
              count,
              positions,
              source.col_stride,
              source.inner.stride,
              source.element};
  if (source.part != 0) {
    turned.row_stride = source.part_stride;
    turned.inner = {source.part, source.col_stride};
  }
  return turned;
}

template <class T>
std::int64_t jacobian_size(const JacobianPiece& piece) {
  return packed_size<T, kTileRows<T>>(piece.count, piece.positions) +
         packed_size<T, kTileCols<T>>(piece.a.cols, piece.positions) +
         partial_size<T>(piece.count, piece.a.cols, piece.positions);
}

template <class T>
void jacobian_of(const JacobianPiece& piece, std::int64_t first_sample, std::int64_t samples, void* scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  T* const packed_g = static_cast<T*>(scratch);
  T* const packed_a = packed_g + packed_size<T, kRows>(piece.count, piece.positions);
  T* const partial = packed_a + packed_size<T, kCols>(piece.a.cols, piece.positions);
  for (std::int64_t sample = first_sample; sample < first_sample + samples; ++sample) {
    const Rows a = by_feature(piece.a, sample * piece.positions, piece.positions, piece.a.cols);
    pack_block<T, kCols>(a, 0, a.rows, {}, packed_a);
    for (std::int64_t c = 0; c < piece.outputs; ++c) {
      const std::int64_t row = sample * piece.outputs + c;
      const Rows g = by_feature(piece.g, row * piece.positions, piece.positions, piece.g.cols);
      pack_block<T, kRows>(g, piece.first, piece.count, {}, packed_g);
      T* const jacobian = static_cast<T*>(piece.jacobian) + row * piece.stride;
      sweep_block(Block<T>{packed_g, 0, piece.count}, Block<T>{packed_a, 0, a.rows}, piece.positions, Region::full,
                  partial, [&](const Tile<T>& tile) {
                    T* to = jacobian + tile.row * a.rows + tile.col;
                    const T* from = tile.values;
                    for (int r = 0; r < tile.rows; ++r, to += a.rows, from += kCols)
                      __builtin_memcpy(to, from, static_cast<std::size_t>(tile.cols) * sizeof(T));
                  });
      if (!piece.ones) continue;
      T* const sums = jacobian + piece.count * a.rows;
      for (std::int64_t o = 0; o < piece.count; o += kRows) {
        T total[kRows] = {};
        for (std::int64_t first = 0; first < piece.positions; first += kSlab<T>) {  // packed slab by slab
          const std::int64_t depth = smaller(kSlab<T>, piece.positions - first);
          const T* from = packed_g + first * round_up(piece.count, kRows) + o * depth;
          for (std::int64_t t = 0; t < depth; ++t)
            for (int r = 0; r < kRows; ++r) total[r] += from[t * kRows + r];
        }
        __builtin_memcpy(sums + o, total, static_cast<std::size_t>(smaller(kRows, piece.count - o)) * sizeof(T));
      }
    }
  }
}

std::int64_t jacobian_scratch(const JacobianPiece& piece, bool wide) {
  return wide ? jacobian_size<double>(piece) * 8 : jacobian_size<float>(piece) * 4;
}

void jacobian(const JacobianPiece& piece, std::int64_t first_sample, std::int64_t samples, bool wide, void* scratch) {
  wide ? jacobian_of<double>(piece, first_sample, samples, scratch)
       : jacobian_of<float>(piece, first_sample, samples, scratch);
}

}  // namespace

extern const LinearGramKernels linear_gram{block_scratch, block, jacobian_scratch, jacobian};

}  // namespace gramian::GRAMIAN_ISA
