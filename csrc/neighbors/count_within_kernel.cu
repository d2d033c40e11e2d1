// How many rows lie within a radius, on the device: scores decide a pair at once unless their error leaves it open; a warp then
// takes the open pairs of its threads one after the other, by distances in float64. Counts are whole numbers, so the order in
// which they are added up does not matter.
#include "neighbors/count_within_cuda.h"

#include <algorithm>
#include <cmath>

#include "neighbors/pair_set.cuh"

namespace gramian::cuda {
namespace {

template <class T>
struct CountProblem : DevicePairs<T> {
  bool exclude_self;
  std::int64_t parts;  // of the panels of y
  const T* radius;
  T *inside, *not_beyond;  // [n] a score from there on is within the radius; a lower one is not
  unsigned long long* counts;
};

// The scores that a row's radius stands for.
template <class T>
__global__ void __launch_bounds__(kThreads) bounds_kernel(CountProblem<T> p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.x.rows.rows) return;
  const double radius = static_cast<double>(p.radius[i]);
  double margin;
  const double score = score_at(p, i, radius, &margin);
  const bool everywhere = radius == kInfinity<double>;
  p.inside[i] = everywhere ? -kInfinity<T> : static_cast<T>(score + margin);
  p.not_beyond[i] = everywhere ? -kInfinity<T> : static_cast<T>(score - margin);
  p.counts[i] = p.known->sound() ? 0 : ~0ULL;
}

template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) count_kernel(CountProblem<T> p) {
  constexpr int kRows = kTile<T>;
  __shared__ T half_norm[kRows];
  __shared__ unsigned count[kRows];  // there may be 2^32 - 1
  if (!p.known->sound()) return;
  T* const ring = shared_memory<T>();
  const std::int64_t n = p.x.rows.rows, m = p.y.rows.rows, panels = p.y.packed.panels();
  const std::int64_t panel = blockIdx.x / p.parts, part = blockIdx.x % p.parts, first_row = panel * kRows;
  for (int r = static_cast<int>(threadIdx.x); r < kRows; r += kThreads) count[r] = 0;
  const std::int64_t first_panel = part * panels / p.parts, last_panel = (part + 1) * panels / p.parts;
  const auto panels_of = [&](std::int64_t t) {
    return PanelPair<T>{p.x.packed.panel(panel), p.y.packed.panel(first_panel + t)};
  };
  Tile tile;
  clear_tile(tile);
  add_tiles(
      last_panel - first_panel, static_cast<int>(p.x.packed.depth / kSlab), panels_of, ring, tile, [&](std::int64_t t) {
        const std::int64_t first_col = (first_panel + t) * kRows;
        for (int c = static_cast<int>(threadIdx.x); c < kRows; c += kThreads)
          half_norm[c] = first_col + c < m ? p.y.half_norm[first_col + c] : T{0};
        __syncthreads();
        unsigned long long open = 0;  // a bit for each pair that its score does not decide
        GRAMIAN_UNROLL
        for (int r = 0; r < Tile::kRows; ++r) {
          const std::int64_t i = first_row + tile.row(r);
          const T inside = i < n ? p.inside[i] : kInfinity<T>, not_beyond = i < n ? p.not_beyond[i] : kInfinity<T>;
          unsigned found = 0;
          GRAMIAN_UNROLL
          for (int c = 0; c < Tile::kCols; ++c) {
            const std::int64_t at = first_col + tile.col(c);
            const T score = p.metric == Metric::chebyshev ? -tile.v[r][c] : tile.v[r][c] - half_norm[tile.col(c)];
            if (i >= n || at >= m || (p.exclude_self && at == i) || !(score >= not_beyond)) continue;
            if (score >= inside)
              ++found;
            else
              open |= 1ULL << (r * Tile::kCols + c);
          }
          if (found > 0) atomicAdd(&count[tile.row(r)], found);
        }
        for (unsigned lanes = __ballot_sync(kAllLanes, open != 0); lanes != 0;
             lanes = __ballot_sync(kAllLanes, open != 0)) {
          const int lane = __ffs(static_cast<int>(lanes)) - 1;
          const int bit = open != 0 ? __ffsll(static_cast<long long>(open)) - 1 : 0;
          const int row = __shfl_sync(kAllLanes, tile.row(bit / Tile::kCols), lane);
          const int col = __shfl_sync(kAllLanes, tile.col(bit % Tile::kCols), lane);
          const std::int64_t i = first_row + row;
          const bool within = distance_of_key(p, exact_key(p, i, first_col + col)) <= p.radius[i];
          if (lane_index() != lane) continue;
          open &= open - 1;
          if (within) atomicAdd(&count[row], 1U);
        }
        clear_tile(tile);
        __syncthreads();
      });
  for (int r = static_cast<int>(threadIdx.x); r < kRows; r += kThreads)
    if (first_row + r < n && count[r] > 0)
      atomicAdd(&p.counts[first_row + r], static_cast<unsigned long long>(count[r]));
}

template <class Tile, class T = typename Tile::Value>
std::int64_t run(const CountArguments& a, void* memory, std::int64_t* counts, Stream stream) {
  Arena arena(memory);
  const PairSetMemory<T> pairs(arena, {"count_within", "x", a.self ? "x" : "y", a.x, a.y, a.metric, a.self, a.radius,
                                       nullptr, "radius must be a number"});
  CountProblem<T> p{};
  p.inside = arena.take<T>(a.x.rows), p.not_beyond = arena.take<T>(a.x.rows);
  if (memory == nullptr) return arena.bytes();
  static_cast<DevicePairs<T>&>(p) = pairs.measure_pairs(stream);
  p.exclude_self = a.exclude_self;
  p.radius = static_cast<const T*>(a.radius);
  p.counts = reinterpret_cast<unsigned long long*>(counts);
  const std::int64_t panels = p.x.packed.panels();
  p.parts = std::clamp<std::int64_t>(2 * multiprocessors() / panels, 1, std::max<std::int64_t>(1, p.y.packed.panels()));
  launch(bounds_kernel<T>, grid_of_threads(a.x.rows), 0, stream, p);
  launch(count_kernel<Tile>, grid_of_blocks(panels * p.parts), kTileBytes<T>, stream, p);
  return arena.bytes();
}

std::int64_t dispatch(const CountArguments& a, void* memory, std::int64_t* counts, Stream stream) {
  const bool largest = a.metric == Metric::chebyshev;
  if (a.x.element == Element::f64)
    return largest ? run<LargestTile<double>>(a, memory, counts, stream) : run<DmmaTile>(a, memory, counts, stream);
  return largest ? run<LargestTile<float>>(a, memory, counts, stream) : run<FmaTile>(a, memory, counts, stream);
}

}  // namespace

std::int64_t count_within_bytes(const CountArguments& arguments) {
  return dispatch(arguments, nullptr, nullptr, nullptr);
}

void count_within(const CountArguments& arguments, void* memory, std::int64_t* counts, Stream stream) {
  dispatch(arguments, memory, counts, stream);
}

}  // namespace gramian::cuda
