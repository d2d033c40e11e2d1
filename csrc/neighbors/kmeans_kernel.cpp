// Compiled once per instruction set; no standard library here (see lanes.h).
#include "neighbors/kmeans_kernel.h"

#include "core/tile.h"
#include "neighbors/points.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_inf());
// More than what products of tiny values can lose to underflow.
template <class T>
constexpr T kSmallest = sizeof(T) == 4 ? static_cast<T>(__FLT_MIN__) : static_cast<T>(__DBL_MIN__);

// Panel after panel, each with all its features: a tile is computed in one go, so no sums wait in memory between slabs. Its two
// panels then stream from L2 where they exceed L1, at 176 bytes for 24 FMAs.
template <class T, int kWidth>
void pack(const Points<T>& p, std::int64_t begin, std::int64_t end, T* packed) {
  for (std::int64_t i = begin; i < end; i += kWidth)
    pack_panel<T, kWidth>(rows_of(p), i, end - i < kWidth ? static_cast<int>(end - i) : kWidth, 0, p.cols,
                          {p.shift, p.scale}, packed + i * p.cols);
}

template <class T>
__attribute__((noinline)) std::int32_t exact_nearest(const Points<T>& p, std::int64_t i, const Centroids<T>& c) {
  std::int32_t nearest = 0;
  double least = exact_distance(p, i, c.rows, 0);
  for (std::int64_t j = 1; j < c.rows.rows; ++j) {
    const double distance = exact_distance(p, i, c.rows, j);
    if (distance < least) {
      least = distance;
      nearest = static_cast<std::int32_t>(j);
    }
  }
  return nearest;
}

// What is known of each point of a panel so far.
template <class T>
struct Best {
  Vec<T> score[2], second[2];
  IntVec<T> index[2];
};

template <class T>
GRAMIAN_INLINE void compete(const T* tile, const T* half_norm, std::int64_t first, Best<T>& best) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  using Int = decltype(IntVec<T>{}[0] + 0);
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows<T>; ++r) {
    const IntVec<T> row = static_cast<Int>(first + r) - IntVec<T>{};
    const Vec<T> half = broadcast(half_norm[r]);
#pragma GCC unroll 2
    for (int side = 0; side < 2; ++side) {
      const Vec<T> score = load(tile + r * kCols + side * kN) - half;
      const Vec<T> loser = score < best.score[side] ? score : best.score[side];
      best.second[side] = loser > best.second[side] ? loser : best.second[side];
      best.index[side] = score > best.score[side] ? row : best.index[side];
      best.score[side] = score > best.score[side] ? score : best.score[side];
    }
  }
}

template <class T>
void assign(const Points<T>& p, const T* packed, const Centroids<T>& c, std::int64_t begin, std::int64_t end,
            T* scratch, std::int32_t* labels) {
  constexpr int kN = kLanes<T>, kRows = kTileRows<T>, kCols = kTileCols<T>;
  const std::int64_t depth = p.cols;
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t i = begin; i < end; i += kCols) {
    const int points = end - i < kCols ? static_cast<int>(end - i) : kCols;
    const T* panel = packed + i * depth;
    if (packed == nullptr) {
      pack_panel<T, kCols>(rows_of(p), i, points, 0, depth, {p.shift, p.scale}, scratch);
      panel = scratch;
    }
    const Vec<T> lowest = broadcast(-kInfinity<T>);
    Best<T> best{{lowest, lowest}, {lowest, lowest}, {}};
    for (std::int64_t j = 0; j < c.rows.rows; j += kRows) {
      multiply_tile(c.packed + j * depth, panel, depth, false, tile);
      compete(tile, c.half_norm + j, j, best);
    }
    for (int l = 0; l < points; ++l) {
      const auto index = static_cast<std::int32_t>(best.index[l / kN][l % kN]);
      const T slack = 2 * c.rounding * (p.norm[i + l] + c.rows.norm[index]) + kSmallest<T>;
      const bool decided = best.score[l / kN][l % kN] - best.second[l / kN][l % kN] > slack;
      labels[i - begin + l] = decided ? index : exact_nearest(p, i + l, c);
    }
  }
}

template <class T>
void distances(const Points<T>& p, const Centroids<T>& c, const std::int32_t* labels, std::int64_t begin,
               std::int64_t end, double* squared) {
  for (std::int64_t i = begin; i < end; ++i)
    squared[i - begin] = exact_distance(p, i, c.rows, labels[i - begin]) / (p.unit * p.unit);
}

template <class T>
void accumulate(const Points<T>& p, const double* weights, const std::int32_t* members, std::int64_t count,
                std::int64_t first, std::int64_t features, double* sum) {
  alignas(64) double total[kSumFeatures];
  __builtin_memcpy(total, sum, static_cast<unsigned long>(features) * sizeof(double));
  for (std::int64_t m = 0; m < count; ++m) {
    const std::int64_t i = members[m] < 0 ? ~members[m] : members[m];
    const double weight = (members[m] < 0 ? -1.0 : 1.0) * (weights == nullptr ? 1.0 : weights[i]);
    const T* x = p.data + i * p.row_stride + first;
    if (features == kSumFeatures)
      for (std::int64_t f = 0; f < kSumFeatures; ++f) total[f] += weight * x[f];
    else
      for (std::int64_t f = 0; f < features; ++f) total[f] += weight * x[f];
  }
  __builtin_memcpy(sum, total, static_cast<unsigned long>(features) * sizeof(double));
}

template <class T>
constexpr KmeansKernels<T> kTable{packed_size<T, kTileCols<T>>,
                                  packed_size<T, kTileRows<T>>,
                                  pack<T, kTileCols<T>>,
                                  pack<T, kTileRows<T>>,
                                  assign<T>,
                                  distances<T>,
                                  accumulate<T>};

}  // namespace

extern const KmeansKernels<float> kmeans_f32 = kTable<float>;
extern const KmeansKernels<double> kmeans_f64 = kTable<double>;

}  // namespace gramian::GRAMIAN_ISA
