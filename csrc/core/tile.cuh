// The tile on the device: kTile x kTile dot products by one block of threads, from packed panels that arrive through a ring
// of slabs in shared memory while the one before is multiplied. Three ways to multiply, and one to compare; each thread holds the values
// v[i][j] at row(i), col(j) of the tile:
//   FmaTile   float32, exact products and rounded sums, on the plain cores;
//   Tf32Tile  float32 values of at most 11 significant bits (float16 and bfloat16 have no more, so lose nothing), on the tensor cores;
//   DmmaTile  float64 on the tensor cores, rounded as IEEE fused multiply-adds;
// and LargestTile, whose values are max |x - y| instead of sums.
#pragma once
#include <cmath>

#include "core/pack.cuh"

namespace gramian::cuda {

// A row of a slab in shared memory. The padding sends the lanes of a tensor-core load, 4 features by 8 rows, to
// different banks.
template <class T>
constexpr int kRowStride = kTile<T> + 32 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(16) Four {
  T value[4];
};

// c[16, 8] += a[16, 8] b[8, 8] by a warp. With g = lane / 4 and t = lane % 4 a lane holds a(g, t), a(g + 8, t), a(g, t + 4),
// a(g + 8, t + 4); b(t, g), b(t + 4, g); c(g, 2t), c(g, 2t + 1), c(g + 8, 2t), c(g + 8, 2t + 1).
GRAMIAN_DEVICE void multiply_tf32(float& c0, float& c1, float& c2, float& c3, const float (&a)[4],
                                  const float (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
  struct Operands {
    float a[4], b[2];
  };
  emulated::Machine::get().exchange(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, [&](auto of) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (unsigned k = 0; k < 8; ++k)
      for (unsigned col = 0; col < 2; ++col) {
        const Operands row = of(g * 4 + k % 4);
        const float factor = of((2 * t + col) * 4 + k % 4).b[k / 4];
        (col == 0 ? c0 : c1) += row.a[k / 4 * 2] * factor;
        (col == 0 ? c2 : c3) += row.a[k / 4 * 2 + 1] * factor;
      }
  });
#endif
}

// c[8, 8] += a[8, 4] b[4, 8] by a warp: a(g, t), b(t, g); c(g, 2t), c(g, 2t + 1).
GRAMIAN_DEVICE void multiply_f64(double& c0, double& c1, double a, double b) {
#if defined(__CUDACC__)
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(c0), "+d"(c1)
               : "d"(a), "d"(b));
#else
  struct Operands {
    double a, b;
  };
  emulated::Machine::get().exchange(Operands{a, b}, [&](auto of) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (unsigned k = 0; k < 4; ++k) {
      const double row = of(g * 4 + k).a;
      c0 = std::fma(row, of(2 * t * 4 + k).b, c0);
      c1 = std::fma(row, of((2 * t + 1) * 4 + k).b, c1);
    }
  });
#endif
}

// On the plain cores, 16 x 16 threads. Sums of products, or with kLargest the largest differences.
template <class T, bool kLargest>
struct PlainTile {
  using Value = T;
  static constexpr int kRows = kTile<T> / 16, kCols = kTile<T> / 16;  // values of one thread
  T v[kRows][kCols];

  GRAMIAN_DEVICE int row(int i) const { return static_cast<int>(threadIdx.x) / 16 * 4 + i % 4 + i / 4 * 64; }
  GRAMIAN_DEVICE int col(int j) const { return static_cast<int>(threadIdx.x) % 16 * 4 + j % 4 + j / 4 * 64; }

  GRAMIAN_DEVICE void add_slab(const T* x, const T* y) {
    GRAMIAN_UNROLL_BY(8)  // half a slab hides the loads as well as a whole one, and compiles in two thirds of the time
    for (int k = 0; k < kSlab; ++k, x += kRowStride<T>, y += kRowStride<T>) {
      Four<T> a[kRows / 4], b[kCols / 4];
      GRAMIAN_UNROLL
      for (int four = 0; four < kRows / 4; ++four) {
        a[four] = *reinterpret_cast<const Four<T>*>(x + row(4 * four));
        b[four] = *reinterpret_cast<const Four<T>*>(y + col(4 * four));
      }
      GRAMIAN_UNROLL
      for (int i = 0; i < kRows; ++i) GRAMIAN_UNROLL
      for (int j = 0; j < kCols; ++j) {
        const T left = a[i / 4].value[i % 4], right = b[j / 4].value[j % 4];
        if (kLargest)
          v[i][j] = fmax(v[i][j], fabs(left - right));
        else
          v[i][j] += left * right;
      }
    }
  }
};

using FmaTile = PlainTile<float, false>;
template <class T>
using LargestTile = PlainTile<T, true>;

// Warps 4 x 2, each 32 x 64 values: 2 x 8 products of 16 x 8.
struct Tf32Tile {
  using Value = float;
  static constexpr int kRows = 4, kCols = 16;
  float v[kRows][kCols];

  GRAMIAN_DEVICE int row(int i) const { return warp_index() / 2 * 32 + i * 8 + lane_index() / 4; }
  GRAMIAN_DEVICE int col(int j) const { return warp_index() % 2 * 64 + j / 2 * 8 + lane_index() % 4 * 2 + j % 2; }

  GRAMIAN_DEVICE void add_slab(const float* x, const float* y) {
    constexpr int kStride = kRowStride<float>;
    const int group = lane_index() / 4, within = lane_index() % 4;
    x += within * kStride + warp_index() / 2 * 32 + group;
    y += within * kStride + warp_index() % 2 * 64 + group;
    GRAMIAN_UNROLL
    for (int k = 0; k < kSlab; k += 8, x += 8 * kStride, y += 8 * kStride) {
      float a[2][4];
      GRAMIAN_UNROLL
      for (int m = 0; m < 2; ++m) GRAMIAN_UNROLL
      for (int part = 0; part < 4; ++part) a[m][part] = x[part / 2 * 4 * kStride + m * 16 + part % 2 * 8];
      GRAMIAN_UNROLL
      for (int n = 0; n < 8; ++n) {
        const float b[2] = {y[n * 8], y[4 * kStride + n * 8]};
        GRAMIAN_UNROLL
        for (int m = 0; m < 2; ++m)
          multiply_tf32(v[2 * m][2 * n], v[2 * m][2 * n + 1], v[2 * m + 1][2 * n], v[2 * m + 1][2 * n + 1], a[m], b);
      }
    }
  }
};

// Warps 4 x 2, each 16 x 32 values: 2 x 4 products of 8 x 8.
struct DmmaTile {
  using Value = double;
  static constexpr int kRows = 2, kCols = 8;
  double v[kRows][kCols];

  GRAMIAN_DEVICE int row(int i) const { return warp_index() / 2 * 16 + i * 8 + lane_index() / 4; }
  GRAMIAN_DEVICE int col(int j) const { return warp_index() % 2 * 32 + j / 2 * 8 + lane_index() % 4 * 2 + j % 2; }

  GRAMIAN_DEVICE void add_slab(const double* x, const double* y) {
    constexpr int kStride = kRowStride<double>;
    const int group = lane_index() / 4, within = lane_index() % 4;
    x += within * kStride + warp_index() / 2 * 16 + group;
    y += within * kStride + warp_index() % 2 * 32 + group;
    GRAMIAN_UNROLL
    for (int k = 0; k < kSlab; k += 4, x += 4 * kStride, y += 4 * kStride) {
      const double a[2] = {x[0], x[8]};
      GRAMIAN_UNROLL
      for (int n = 0; n < 4; ++n) GRAMIAN_UNROLL
      for (int m = 0; m < 2; ++m) multiply_f64(v[m][2 * n], v[m][2 * n + 1], a[m], y[n * 8]);
    }
  }
};

constexpr int kStages = 3;  // slabs in the ring: one is multiplied while two are under way
template <class T>
constexpr int kStageValues = 2 * kSlab * kRowStride<T>;
template <class T>
constexpr int kTileBytes = kStages * kStageValues<T> * static_cast<int>(sizeof(T));  // of shared memory

// One slab of both panels into a stage: 2 x 8 KiB, 4 copies a thread.
template <class T>
GRAMIAN_DEVICE void fetch_slab(const T* x, const T* y, T* stage) {
  constexpr int kPerCopy = 16 / static_cast<int>(sizeof(T)), kCopiesPerRow = kTile<T> / kPerCopy;
  GRAMIAN_UNROLL
  for (int c = static_cast<int>(threadIdx.x); c < kSlab * kCopiesPerRow; c += kThreads) {
    const int k = c / kCopiesPerRow, r = c % kCopiesPerRow * kPerCopy;
    copy_16_bytes(stage + k * kRowStride<T> + r, x + k * kTile<T> + r);
    copy_16_bytes(stage + (kSlab + k) * kRowStride<T> + r, y + k * kTile<T> + r);
  }
}

template <class Tile>
GRAMIAN_DEVICE void clear_tile(Tile& tile) {
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) tile.v[r][c] = 0;
}

template <class T>
struct PanelPair {
  const T *x, *y;
};

// One tile after the other: to `tile` are added the products of the `slabs` slabs of panels_of(t), transposed; then visit(t). The
// next tile's first slabs are on their way by then, so a visit must leave the ring alone. All threads of the block; `ring` is
// kTileBytes of shared memory, free again when the call returns.
template <class Tile, class PanelsOf, class Visit, class T = typename Tile::Value>
GRAMIAN_DEVICE void add_tiles(std::int64_t tiles, int slabs, const PanelsOf& panels_of, T* ring, Tile& tile,
                              const Visit& visit) {
  std::int64_t next = 0;  // tile whose slab is fetched next, and where that stands
  int next_slab = 0, next_stage = 0, stage = 0;
  PanelPair<T> from{};
  const auto fetch = [&] {
    if (next < tiles && slabs > 0) {
      if (next_slab == 0) from = panels_of(next);
      fetch_slab(from.x, from.y, ring + next_stage * kStageValues<T>);
      from.x += kSlab * kTile<T>, from.y += kSlab * kTile<T>;
      if (++next_slab == slabs) next_slab = 0, ++next;
      next_stage = next_stage + 1 == kStages ? 0 : next_stage + 1;
    }
    commit_copies();
  };
  GRAMIAN_UNROLL
  for (int s = 0; s < kStages - 1; ++s) fetch();
  for (std::int64_t t = 0; t < tiles; ++t) {
    for (int s = 0; s < slabs; ++s) {
      wait_for_copies<kStages - 2>();
      __syncthreads();  // the slab is there for all, and all are done with the one before, whose place is filled next
      fetch();
      const T* const slab = ring + stage * kStageValues<T>;
      tile.add_slab(slab, slab + kSlab * kRowStride<T>);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    visit(t);
  }
  wait_for_copies<0>();
  __syncthreads();
}

// Adds the products of `slabs` slabs of two panels, transposed: one tile, without what the way to a next one takes of registers.
template <class Tile, class T = typename Tile::Value>
GRAMIAN_DEVICE void add_slabs(const T* from_x, const T* from_y, int slabs, T* ring, Tile& tile) {
  constexpr int kCopied = kSlab * kTile<T>;
  GRAMIAN_UNROLL
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < slabs) fetch_slab(from_x + s * kCopied, from_y + s * kCopied, ring + s * kStageValues<T>);
    commit_copies();
  }
  for (int s = 0; s < slabs; ++s) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    const int next = s + kStages - 1;
    if (next < slabs)
      fetch_slab(from_x + static_cast<std::int64_t>(next) * kCopied, from_y + static_cast<std::int64_t>(next) * kCopied,
                 ring + next % kStages * kStageValues<T>);
    commit_copies();
    const T* const slab = ring + s % kStages * kStageValues<T>;
    tile.add_slab(slab, slab + kSlab * kRowStride<T>);
  }
  wait_for_copies<0>();
  __syncthreads();
}

// tile = panel i of x times panel j of y, transposed.
template <class Tile, class T = typename Tile::Value>
GRAMIAN_DEVICE void multiply_tile(const Packed<T>& x, std::int64_t i, const Packed<T>& y, std::int64_t j, T* ring,
                                  Tile& tile) {
  clear_tile(tile);
  add_slabs(x.panel(i), y.panel(j), static_cast<int>(x.depth / kSlab), ring, tile);
}

}  // namespace gramian::cuda
