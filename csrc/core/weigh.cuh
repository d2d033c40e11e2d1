// A tile of weights times rows of features: how a tile that was turned into something else, and put into shared memory, is
// summed over its columns. A thread owns one row of the tile and some of the features. And the weights of a softmax: the
// logarithms of the sums that they are divided by.
#pragma once
#include "core/tile.cuh"

namespace gramian::cuda {

template <class T>
constexpr int kStageStride = kTile<T> + 1;  // values from row to row: threads that read a column meet different banks
template <class T>
constexpr int kStagedValues = kTile<T> * kStageStride<T>;

constexpr int kFactorRows = 32;  // of the features that are fetched at once
template <int kFeatures>
constexpr int kFactorStride = kFeatures + 4;
template <int kFeatures>
constexpr int kFactorValues = kFactorRows * kFactorStride<kFeatures>;

// Where each value of the tile stands.
template <class Tile, class T = typename Tile::Value>
GRAMIAN_DEVICE void stage_tile(const Tile& tile, T* stage) {
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) stage[tile.row(r) * kStageStride<T> + tile.col(c)] = tile.v[r][c];
}

// change(row, col, value) of every value of a staged tile, by the thread that put it there. A few at a time: a copy of what is done for
// each of a thread's values would be most of a program.
template <class Tile, class Change, class T = typename Tile::Value>
GRAMIAN_DEVICE void change_staged(const Tile& tile, T* stage, const Change& change) {
  GRAMIAN_UNROLL_BY(4)
  for (int e = 0; e < Tile::kRows * Tile::kCols; ++e) {
    const int row = tile.row(e / Tile::kCols), col = tile.col(e % Tile::kCols);
    change(row, col, stage[row * kStageStride<T> + col]);
  }
}

template <class T>
constexpr int kSides = kThreads / kTile<T>;  // threads that scan one row of a tile
// Of shared memory, for the ring of a product and then its tile, staged.
template <class T>
constexpr int kRingValues =
    kTileBytes<T> / static_cast<int>(sizeof(T)) > kStagedValues<T> ? kTileBytes<T> / static_cast<int>(sizeof(T))
                                                                   : kStagedValues<T>;

// A row of a staged tile by the kSides threads that share it: each adds up its columns, visit(column) one after the other.
template <class T, class Visit>
GRAMIAN_DEVICE void scan_row(const Visit& visit) {
  constexpr int kEach = kTile<T> / kSides<T>;
  const int side = static_cast<int>(threadIdx.x) / kTile<T>;
  for (int l = side * kEach; l < (side + 1) * kEach; ++l) visit(l);
}

// The logarithm of the sum over columns of exp(score), for the row that is thread threadIdx.x < kTile's; infinite where all scores
// are minus infinity. multiply(j, stage, tile) makes tile j of `tiles`, in the `stage` of kRingValues, and score(j, row, col, value) turns
// its values into scores. All threads of the block.
template <class Tile, class Multiply, class Score, class T = typename Tile::Value>
GRAMIAN_DEVICE T log_sum_of_rows(std::int64_t tiles, T* stage, const Multiply& multiply, const Score& score_of) {
  __shared__ T tops[kThreads], totals[kThreads];
  constexpr T kNone = -kInfinity<T>;
  const int mine = static_cast<int>(threadIdx.x) % kTile<T>;
  T top = kNone, total = 0;
  for (std::int64_t j = 0; j < tiles; ++j) {
    Tile tile;
    multiply(j, stage, tile);
    stage_tile(tile, stage);
    change_staged(tile, stage, [&](int row, int col, T& value) { value = score_of(j, row, col, value); });
    __syncthreads();
    T highest = top;
    scan_row<T>([&](int l) {
      const T score = stage[mine * kStageStride<T> + l];
      highest = score > highest ? score : highest;
    });
    if (highest > top) {
      total *= static_cast<T>(exp(top - highest));
      top = highest;
    }
    scan_row<T>([&](int l) {
      const T score = stage[mine * kStageStride<T> + l];
      if (score != kNone) total += static_cast<T>(exp(score - top));
    });
    __syncthreads();
  }
  tops[threadIdx.x] = top, totals[threadIdx.x] = total;
  __syncthreads();
  for (int side = 0; side < kSides<T>; ++side) {
    const T other = tops[side * kTile<T> + mine];
    top = other > top ? other : top;
  }
  total = 0;
  for (int side = 0; side < kSides<T>; ++side) {
    const int at = side * kTile<T> + mine;
    // A side that saw nothing adds nothing; one that saw NaN alone has no top but a total.
    if (totals[at] != 0) total += totals[at] * static_cast<T>(tops[at] == top ? T{1} : exp(tops[at] - top));
  }
  return total == 0 ? -kNone : top + static_cast<T>(log(total));
}

template <class T, int kFeatures>
struct Weighted {
  static constexpr int kOwned = kFeatures * kTile<T> / kThreads;
  T sum[kOwned];

  GRAMIAN_DEVICE static int row() { return static_cast<int>(threadIdx.x) % kTile<T>; }
  GRAMIAN_DEVICE static int first_owned() { return static_cast<int>(threadIdx.x) / kTile<T> * kOwned; }

  GRAMIAN_DEVICE void clear() {
    GRAMIAN_UNROLL
    for (int o = 0; o < kOwned; ++o) sum[o] = 0;
  }

  // sum[o] += Σ_l stage[row][l] y[l][first + first_owned + o] over the first `cols` rows l of a panel of y. All threads of the
  // block; `factors` is kFactorValues of shared memory. Whatever was staged is seen by all, and free again on return.
  GRAMIAN_DEVICE void add(const T* stage, const T* panel, int cols, std::int64_t depth, std::int64_t first,
                          T* factors) {
    T total[kOwned] = {};
    for (int begin = 0; begin < cols; begin += kFactorRows) {
      __syncthreads();
      for (int e = static_cast<int>(threadIdx.x); e < kFactorRows * kFeatures; e += kThreads) {
        const std::int64_t feature = first + e / kFactorRows;
        const int l = e % kFactorRows;
        factors[l * kFactorStride<kFeatures> + e / kFactorRows] =
            feature < depth ? panel[feature * kTile<T> + begin + l] : T{0};
      }
      __syncthreads();
      const int count = cols - begin < kFactorRows ? cols - begin : kFactorRows;
      for (int l = 0; l < count; ++l) {
        const T weight = stage[row() * kStageStride<T> + begin + l];
        const auto* const four =
            reinterpret_cast<const Four<T>*>(factors + l * kFactorStride<kFeatures> + first_owned());
        GRAMIAN_UNROLL
        for (int o = 0; o < kOwned; ++o) total[o] += weight * four[o / 4].value[o % 4];
      }
    }
    GRAMIAN_UNROLL
    for (int o = 0; o < kOwned; ++o) sum[o] += total[o];
    __syncthreads();
  }
};

}  // namespace gramian::cuda
