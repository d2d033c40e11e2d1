// A finished block of a kernel matrix, written to its place and, transposed, to the mirrored one. Per-level code (see lanes.h).
#pragma once
#include "core/pack.h"
#include "ntk/linear_gram_kernel.h"

namespace gramian::GRAMIAN_ISA {
namespace {

GRAMIAN_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
GRAMIAN_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

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

// `sum` has whole lanes of rows and columns, `stride` values a row.
template <class T>
void write_block(const GramBlock& block, T* sum, std::int64_t stride) {
  T* const out = static_cast<T*>(block.out) + block.row * block.stride + block.col;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    T* const from = sum + r * stride;
    T* const to = out + r * block.stride;
    const std::int64_t first = block.upper ? r : 0;
    if (block.accumulate)
      for (std::int64_t c = first; c < block.cols; ++c) from[c] += to[c];
    for (std::int64_t c = first; c < block.cols; ++c) to[c] = from[c];
  }
  if (block.mirror == nullptr) return;
  T* const mirror = static_cast<T*>(block.mirror) + block.col * block.stride + block.row;
  if (!block.upper) return write_transposed(sum, stride, block.rows, block.cols, mirror, block.stride);
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < r; ++c) out[r * block.stride + c] = sum[c * stride + r];
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
