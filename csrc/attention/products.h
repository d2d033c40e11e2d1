// The products of attention, from packed panels and strips (see attention_kernel.cpp). Per-level code (see lanes.h).
#pragma once
#include "core/pack.h"
#include "core/tile.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Rows of a tile whose left factor is a strip read by columns: must divide kTileCols.
constexpr int kKeyRows = kRegisters == 32 ? 8 : 4;

template <class T, int kRows>
struct Sums {
  Vec<T> left[kRows] = {}, right[kRows] = {};
};

// sums[r] += sum_k rows[r * kRowStep + k * kDepthStep] * cols[k]
template <int kRowStep, int kDepthStep, class T, int kRows>
GRAMIAN_INLINE void multiply(const T* rows, const T* cols, std::int64_t depth, Sums<T, kRows>& sums) {
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec<T> col_left = load(cols), col_right = load(cols + kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = broadcast(rows[r * kRowStep]);
      sums.left[r] += row * col_left;
      sums.right[r] += row * col_right;
    }
    rows += kDepthStep;
    cols += kTileCols<T>;
  }
}

template <class T, int kRows>
GRAMIAN_INLINE void load_sums(const T* tile, Sums<T, kRows>& sums) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sums.left[r] = load(tile + r * kTileCols<T>);
    sums.right[r] = load(tile + r * kTileCols<T> + kLanes<T>);
  }
}

template <class T, int kRows>
GRAMIAN_INLINE void store_sums(const Sums<T, kRows>& sums, T* tile) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(tile + r * kTileCols<T>, sums.left[r]);
    store(tile + r * kTileCols<T> + kLanes<T>, sums.right[r]);
  }
}

// Panels of kWidth rows: element (f, r) at panel[f * kWidth + r]; rows up to `padded` are zero. `order` names the rows.
template <class T, int kWidth>
void pack_by_features(const Rows& source, std::int64_t first, std::int64_t rows, std::int64_t padded, T* to,
                      const std::int32_t* order = nullptr) {
  for (std::int64_t r = 0; r < padded; r += kWidth, to += kWidth * source.cols) {
    const std::int64_t left = rows - r;
    const int here = left <= 0 ? 0 : left < kWidth ? static_cast<int>(left) : kWidth;
    pack_panel<T, kWidth>(source, first + r, here, 0, source.cols, {}, to, order);
  }
}

// Rows [first, first + rows) in panels of kTileCols features; rows up to `padded` are zero.
template <class T>
void pack_by_rows(const Rows& source, std::int64_t first, std::int64_t rows, std::int64_t padded, T* to) {
  constexpr int kWidth = kTileCols<T>;
  const T* data = static_cast<const T*>(source.data);
  for (std::int64_t f = 0; f < source.cols; f += kWidth) {
    const int width = source.cols - f < kWidth ? static_cast<int>(source.cols - f) : kWidth;
    for (std::int64_t r = 0; r < padded; ++r, to += kWidth) {
      if (r >= rows || width < kWidth) __builtin_memset(to, 0, kWidth * sizeof(T));
      if (r >= rows) continue;
      const T* from = data + (first + r) * source.row_stride + f * source.col_stride;
      if (source.col_stride == 1 && width == kWidth)
        __builtin_memcpy(to, from, kWidth * sizeof(T));
      else
        for (int c = 0; c < width; ++c) to[c] = from[c * source.col_stride];
    }
  }
}

// tile = rows cols^T (+ rows2 cols2^T), from panels of rows and of keys. Alone in its function: next to what surrounds it the
// compiler would keep an accumulator in memory.
template <class T>
__attribute__((noinline)) void product(const T* rows, const T* cols, const T* rows2, const T* cols2, std::int64_t depth,
                                       T* tile) {
  constexpr int kRows = kTileRows<T>;
  Sums<T, kRows> sums;
  multiply<1, kRows>(rows, cols, depth, sums);
  if (rows2 != nullptr) multiply<1, kRows>(rows2, cols2, depth, sums);
  store_sums(sums, tile);
}

// Tiles of x yᵀ (+ x2 y2ᵀ), from panels of rows and panels of keys, for `strips` strips of keys: tile (j, i) goes to `to` as a part
// of strip j, and then to finish(j, i, tile).
template <class T, class Finish>
GRAMIAN_INLINE void rows_by_keys(std::int64_t padded, std::int64_t strips, const T* x, const T* y, const T* x2,
                                 const T* y2, std::int64_t depth, T* to, const Finish& finish) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  for (std::int64_t j = 0; j < strips; ++j)
    for (std::int64_t i = 0; i < padded; i += kRows, to += kRows * kCols) {
      product(x + i * depth, y + j * kCols * depth, x2 == nullptr ? nullptr : x2 + i * depth,
              x2 == nullptr ? nullptr : y2 + j * kCols * depth, depth, to);
      finish(j, i, to);
    }
}

// tiles += strips y (+ strips2 y2), y by keys in panels `apart` from one another; a tile is kTileRows x kTileCols.
template <class T>
__attribute__((noinline)) void over_keys(std::int64_t padded, std::int64_t strips, const T* left, const T* y,
                                         const T* left2, const T* y2, std::int64_t apart, std::int64_t features,
                                         T* tiles) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  for (std::int64_t i = 0; i < padded; i += kRows)
    for (std::int64_t f = 0; f < features; f += kCols, tiles += kRows * kCols) {
      Sums<T, kRows> sums;
      load_sums(tiles, sums);
      for (std::int64_t j = 0; j < strips; ++j) {
        const std::int64_t row = (j * padded + i) * kCols, key = f / kCols * apart + j * kCols * kCols;
        multiply<kCols, 1>(left + row, y + key, kCols, sums);
        if (left2 != nullptr) multiply<kCols, 1>(left2 + row, y2 + key, kCols, sums);
      }
      store_sums(sums, tiles);
    }
}

// to[key, feature] += strips^T x, x by rows; `apart` from panel to panel of `to`.
template <class T>
__attribute__((noinline)) void over_queries(std::int64_t padded, std::int64_t strips, const T* left, const T* x,
                                            std::int64_t apart, std::int64_t features, T* to) {
  constexpr int kCols = kTileCols<T>;
  for (std::int64_t j = 0; j < strips; ++j)
    for (std::int64_t f = 0; f < features; f += kCols)
      for (int key = 0; key < kCols; key += kKeyRows) {
        T* tile = to + f / kCols * apart + (j * kCols + key) * kCols;
        Sums<T, kKeyRows> sums;
        load_sums(tile, sums);
        multiply<1, kCols>(left + j * padded * kCols + key, x + f * padded, padded, sums);
        store_sums(sums, tile);
      }
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
