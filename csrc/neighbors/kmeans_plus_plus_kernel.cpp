// Compiled once per instruction set; no standard library here (see lanes.h).
#include "neighbors/kmeans_plus_plus_kernel.h"

#include "core/tile.h"
#include "neighbors/points.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
void try_candidates(const Points<T>& p, const Draw<T>& draw, const Centroids<T>& c, std::int64_t begin,
                    std::int64_t end, T* distances, double* potentials) {
  constexpr int kN = kLanes<T>, kRows = kTileRows<T>, kCols = kTileCols<T>;
  alignas(64) T tile[kRows * kCols];
  // Below this share of |x|^2 + |c|^2 a Gram distance may be off by a hundredth.
  const T doubtful = 200 * c.rounding;
  for (std::int64_t i = begin; i < end; i += kCols) {
    const int points = end - i < kCols ? static_cast<int>(end - i) : kCols;
    for (std::int64_t first = 0; first < c.rows.rows; first += kRows) {
      multiply_tile(c.packed + first * p.cols, draw.packed + i * p.cols, p.cols, false, tile);
      const std::int64_t last = first + kRows < c.rows.rows ? first + kRows : c.rows.rows;
      for (std::int64_t j = first; j < last; ++j) {
        const Vec<T> norm = broadcast(c.rows.norm[j]);
        T* to = distances + j * draw.stride + i;
        Vec<T> total = {};
        for (int side = 0; side < kCols; side += kN) {
          const Vec<T> both = load(p.norm + i + side) + norm;
          Vec<T> distance = both - 2 * load(tile + (j - first) * kCols + side);
          if (any_less(distance, doubtful * both))
            for (int l = 0; l < kN && side + l < points; ++l)
              if (distance[l] < doubtful * both[l])
                distance[l] = static_cast<T>(exact_distance(p, i + side + l, c.rows, j));
          const Vec<T> before = load(draw.closest + i + side);
          distance = distance < before ? distance : before;
          store(to + side, distance);
          if (draw.weights != nullptr) distance *= load(draw.weights + i + side);
          total += distance;  // lanes past the last point: closest is zero there
        }
        potentials[j] += static_cast<double>(sum<T>(total));
      }
    }
  }
}

}  // namespace

extern const KmeansPlusPlusKernels<float> kmeans_plus_plus_f32{try_candidates<float>};
extern const KmeansPlusPlusKernels<double> kmeans_plus_plus_f64{try_candidates<double>};

}  // namespace gramian::GRAMIAN_ISA
