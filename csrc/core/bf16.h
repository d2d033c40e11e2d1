// Panels of bfloat16 pairs: two neighbouring features in one 32-bit word, so that a panel looks like one of float32 with half
// the depth and the AVX-512 bf16 dot does two features a lane. Twice the flops of float32 FMAs, for filters whose error is
// accounted for. Per-level code (see lanes.h).
#pragma once
#include "core/pack.h"
#include "core/tile.h"

namespace gramian::GRAMIAN_ISA {
namespace {

struct Bf16Pair {
  std::uint32_t word;  // the even feature in the low half
};

// Nearest, ties to even. The bits, in the low half of each lane. Not for NaN.
GRAMIAN_INLINE i32xN bf16_bits(f32xN v) {
  i32xN word;
  __builtin_memcpy(&word, &v, sizeof word);
  return (word + 0x7FFF + ((word >> 16) & 1)) >> 16 & 0xFFFF;
}

GRAMIAN_INLINE f32xN bf16_round(f32xN v) {
  const i32xN word = bf16_bits(v) << 16;
  __builtin_memcpy(&v, &word, sizeof v);
  return v;
}

// As pack_block, rounded. `unrounded` holds kSlab<float> * kWidth floats.
template <int kWidth>
void pack_block_bf16(const Rows& source, std::int64_t row, std::int64_t rows, const Affine<float>& affine,
                     float* unrounded, Bf16Pair* packed) {
  constexpr std::int64_t kChunk = kSlab<float>;  // features; two chunks of pairs make a slab
  for (std::int64_t slab = 0; slab < source.cols; slab += 2 * kChunk)
    for (std::int64_t r = 0; r < rows; r += kWidth) {
      const int in_panel = rows - r < kWidth ? static_cast<int>(rows - r) : kWidth;
      for (std::int64_t first = slab; first < source.cols && first < slab + 2 * kChunk; first += kChunk) {
        const std::int64_t depth = source.cols - first < kChunk ? source.cols - first : kChunk;
        pack_panel<float, kWidth>(source, row + r, in_panel, first, depth, affine, unrounded);
        if (depth % 2 == 1)
          for (int w = 0; w < kWidth; ++w) unrounded[depth * kWidth + w] = 0;
        for (std::int64_t k = 0; k < depth; k += 2, packed += kWidth)
          for (int l = 0; l < kWidth; ++l) {
            std::uint32_t even, odd;
            __builtin_memcpy(&even, unrounded + k * kWidth + l, 4);
            __builtin_memcpy(&odd, unrounded + (k + 1) * kWidth + l, 4);
            even = (even + 0x7FFF + (even >> 16 & 1)) >> 16;
            odd = (odd + 0x7FFF + (odd >> 16 & 1)) & 0xFFFF0000;
            packed[l].word = even | odd;
          }
      }
    }
}

#if defined(__AVX512F__)
// The instruction is written out: the processors of this level need not all have it, so the compiler must not use it
// anywhere else.
GRAMIAN_INLINE void multiply_tile(const Bf16Pair* rows, const Bf16Pair* cols, std::int64_t depth, bool accumulate,
                                  float* tile) {
  constexpr int kRows = kTileRows<float>, kCols = kTileCols<float>, kN = kLanes<float>;
  f32xN left[kRows] = {}, right[kRows] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    const __m512i col_left = _mm512_loadu_si512(cols), col_right = _mm512_loadu_si512(cols + kN);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(rows[r].word));
      asm("vdpbf16ps %2, %1, %0" : "+v"(left[r]) : "v"(row), "v"(col_left));
      asm("vdpbf16ps %2, %1, %0" : "+v"(right[r]) : "v"(row), "v"(col_right));
    }
    rows += kRows;
    cols += kCols;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(tile + r * kCols, accumulate ? left[r] + load(tile + r * kCols) : left[r]);
    store(tile + r * kCols + kN, accumulate ? right[r] + load(tile + r * kCols + kN) : right[r]);
  }
}
#endif

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
