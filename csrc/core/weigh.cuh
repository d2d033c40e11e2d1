// A tile of weights times rows of features: how a tile that was turned into something else, and put into shared memory, is
// summed over its columns. A thread owns one row of the tile and some of the features.
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
