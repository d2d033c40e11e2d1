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
void pack(const Points<T>& p, const std::int32_t* order, std::int64_t begin, std::int64_t end, T* packed) {
  for (std::int64_t i = begin; i < end; i += kWidth)
    pack_panel<T, kWidth>(rows_of(p), i, end - i < kWidth ? static_cast<int>(end - i) : kWidth, 0, p.cols,
                          {p.shift, p.scale}, packed + i * p.cols, order);
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

// ---- Assignment with bounds ----

// What the tile of one group tells of each point, against the best and second best so far.
template <class T>
struct Contest {
  Best<T> all;          // over the groups seen
  Vec<T> runner_up[2];  // the second best of the winner's own group
};

template <class T>
GRAMIAN_INLINE void join(const Best<T>& group, Contest<T>& contest) {
#pragma GCC unroll 2
  for (int side = 0; side < 2; ++side) {
    Best<T>& all = contest.all;
    const IntVec<T> wins = group.score[side] > all.score[side];
    const Vec<T> loser = wins ? all.score[side] : group.score[side];
    const Vec<T> second = group.second[side] > all.second[side] ? group.second[side] : all.second[side];
    all.second[side] = loser > second ? loser : second;
    contest.runner_up[side] = wins ? group.second[side] : contest.runner_up[side];
    all.index[side] = wins ? group.index[side] : all.index[side];
    all.score[side] = wins ? group.score[side] : all.score[side];
  }
}

// Distances from scores, rounded to the safe side: the score is too high by at most 2 rounding |c|^2 + rounding |x|^2, and too
// low by at most rounding |x|^2.
template <class T>
constexpr T kUp = 1 + 4 * (sizeof(T) == 4 ? static_cast<T>(__FLT_EPSILON__) : static_cast<T>(__DBL_EPSILON__));
template <class T>
constexpr T kDown = 2 - kUp<T>;

template <class T>
GRAMIAN_INLINE T at_least_apart(T score, T norm, T rounding) {
  const T square = norm - 2 * score - 3 * rounding * norm;
  return square > 0 ? __builtin_sqrt(square) * kDown<T> : 0;
}

template <class T>
GRAMIAN_INLINE T at_most_apart(T score, T norm, T center_norm, T rounding) {
  const T square = norm - 2 * score + 3 * rounding * norm + 5 * rounding * center_norm;
  return (square > 0 ? __builtin_sqrt(square) * kUp<T> : 0) + kSmallest<T>;
}

template <class T>
void assign_bounded(const Points<T>& p, const Bounds<T>& b, const Centroids<T>& c, std::int64_t begin,
                    std::int64_t end) {
  constexpr int kN = kLanes<T>, kRows = kTileRows<T>, kCols = kTileCols<T>;
  const std::int64_t depth = p.cols, groups = (c.rows.rows + kRows - 1) / kRows;
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t place = begin; place < end; place += kCols) {
    const int points = end - place < kCols ? static_cast<int>(end - place) : kCols;
    const std::int32_t* order = b.order + place;
    std::int32_t* label = b.label + place;
    T* lower = b.lower + place * groups;
    T upper[kCols], norm[kCols];
    std::int64_t own[kCols];  // the group of the point's centroid
    for (int l = 0; l < kCols; ++l) {
      upper[l] = -kInfinity<T>;  // a place past the end wants no group
      norm[l] = 0;
      if (l >= points) continue;
      upper[l] = (b.upper[place + l] + b.shift[label[l]]) * kUp<T>;
      norm[l] = p.norm[order[l]];
      own[l] = b.place_of[label[l]] / kRows;
    }
    const auto wants = [&](std::int64_t g) __attribute__((always_inline)) {
      const Vec<T> moved = broadcast(b.moved[g] * kUp<T>);
      const T* bound = lower + g * kCols;
      return at_least(load(upper) + moved, load(bound)) | at_least(load(upper + kN) + moved, load(bound + kN)) << kN;
    };
    std::int64_t first = 0;
    while (first < groups && wants(first) == 0) ++first;
    if (first == groups) {
      for (int l = 0; l < points; ++l) b.upper[place + l] = upper[l];
      continue;
    }

    const Vec<T> lowest = broadcast(-kInfinity<T>);
    Contest<T> contest{{{lowest, lowest}, {lowest, lowest}, {}}, {lowest, lowest}};
    const auto look = [&](std::int64_t g) __attribute__((always_inline)) {
      multiply_tile(c.packed + g * kRows * depth, b.packed + place * depth, depth, false, tile);
      Best<T> group{{lowest, lowest}, {lowest, lowest}, {}};
      compete(tile, c.half_norm + g * kRows, g * kRows, group);
      join(group, contest);
      T* bound = lower + g * kCols;
      T nearest[kCols];
      store(nearest, group.score[0]);
      store(nearest + kN, group.score[1]);
      for (int l = 0; l < kCols; ++l)
        bound[l] = (at_least_apart(nearest[l], norm[l], c.rounding) + b.moved[g]) * kDown<T>;
    };
    // First the groups of the points' own centroids, for their distances as they are now.
    for (int l = 0; l < points; ++l) {
      bool seen = false;
      for (int before = 0; before < l && !seen; ++before) seen = own[before] == own[l];
      if (seen) continue;
      look(own[l]);
      for (int m = l; m < points; ++m)
        if (own[m] == own[l]) {
          const std::int32_t at = b.place_of[label[m]];
          upper[m] = at_most_apart(tile[(at - own[m] * kRows) * kCols + m] - c.half_norm[at], norm[m],
                                   c.rows.norm[label[m]], c.rounding);
        }
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      if (wants(g) == 0) continue;
      bool seen = false;
      for (int l = 0; l < points && !seen; ++l) seen = own[l] == g;
      if (!seen) look(g);
    }

    T best[kCols], second[kCols], runner_up[kCols];
    for (int side = 0; side < 2; ++side) {
      store(best + side * kN, contest.all.score[side]);
      store(second + side * kN, contest.all.second[side]);
      store(runner_up + side * kN, contest.runner_up[side]);
    }
    for (int l = 0; l < points; ++l) {
      const auto at = static_cast<std::int64_t>(contest.all.index[l / kN][l % kN]);
      const std::int32_t winner = b.centroid[at];
      const T slack = 2 * c.rounding * (norm[l] + c.rows.norm[winner]) + kSmallest<T>;
      label[l] = best[l] - second[l] > slack ? winner : exact_nearest(p, order[l], c);
      if (label[l] == winner) {
        upper[l] = at_most_apart(best[l], norm[l], c.rows.norm[winner], c.rounding);
        const std::int64_t g = at / kRows;
        lower[g * kCols + l] = (at_least_apart(runner_up[l], norm[l], c.rounding) + b.moved[g]) * kDown<T>;
      } else {
        upper[l] = kInfinity<T>;
      }
      b.upper[place + l] = upper[l];
    }
  }
}

template <class T>
std::int64_t bounds_size(std::int64_t rows, std::int64_t centroids) {
  return round_up(rows, kTileCols<T>) * ((centroids + kTileRows<T> - 1) / kTileRows<T>);
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
                                  bounds_size<T>,
                                  kTileRows<T>,
                                  pack<T, kTileCols<T>>,
                                  pack<T, kTileRows<T>>,
                                  assign<T>,
                                  assign_bounded<T>,
                                  distances<T>,
                                  accumulate<T>};

}  // namespace

extern const KmeansKernels<float> kmeans_f32 = kTable<float>;
extern const KmeansKernels<double> kmeans_f64 = kTable<double>;

}  // namespace gramian::GRAMIAN_ISA
