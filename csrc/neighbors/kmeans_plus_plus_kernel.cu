// Greedy k-means++ on the device: a draw reads the points once, against all of its candidates, by differences in float64. The
// squared distances to each candidate are kept, and those to the best are what the next draw begins from; so nothing is copied,
// and the host waits for nothing between draws.
#include "neighbors/kmeans_plus_plus_cuda.h"

#include "neighbors/moments.cuh"
#include "neighbors/unit.h"

namespace gramian::cuda {
namespace {

constexpr int kPoints = kThreads;  // of a block of threads

struct Draws {
  DrawArguments a;
  double unit;
  double *closest, *next;      // [trials, n] what the last draw left with each of its candidates, and this one
  double *masses, *fresh;      // [trials, blocks] their sums by weight, over the points of a block
  std::int64_t* candidates;    // [trials]
  std::int64_t* best;          // of the last draw
  unsigned char* chosen;       // [n]
  std::int64_t* indices;       // [k]
  std::int64_t blocks, tried;  // candidates of this draw
};

GRAMIAN_DEVICE double mass(const Draws& d, const double* closest, std::int64_t i) {
  return (d.a.weights == nullptr ? 1 : d.a.weights[i]) * closest[i];
}

// At first any point will do, by its weight.
__global__ void __launch_bounds__(kThreads) begin_kernel(Draws d) {
  __shared__ double slots[kWarps];
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kPoints + threadIdx.x;
  const bool inside = i < d.a.x.rows;
  if (inside) d.closest[i] = 1, d.chosen[i] = 0;
  const double sum = block_sum(inside ? mass(d, d.closest, i) : 0, slots);
  if (threadIdx.x == 0) d.masses[blockIdx.x] = sum;
  if (i == 0) *d.best = 0;
}

// The point at which the running sum of masses passes `uniform` of `total`.
GRAMIAN_DEVICE std::int64_t choose(const Draws& d, double uniform, double total) {
  const double *const masses = d.masses + *d.best * d.blocks, *const closest = d.closest + *d.best * d.a.x.rows;
  double wanted = uniform * total;
  std::int64_t block = 0;
  for (; block + 1 < d.blocks && wanted >= masses[block]; ++block) wanted -= masses[block];
  // Rounding may carry past the end of the block: then its last point that has any mass.
  std::int64_t found = -1;
  for (;; --block) {
    const std::int64_t begin = block * kPoints, end = begin + kPoints < d.a.x.rows ? begin + kPoints : d.a.x.rows;
    for (std::int64_t i = begin; i < end; ++i) {
      const double own = mass(d, closest, i);
      if (own > 0) found = i;
      wanted -= own;
      if (found == i && wanted < 0) return i;
    }
    if (found >= 0 || block == 0) return found > 0 ? found : 0;
  }
}

// The candidates of draw j: a thread takes one.
__global__ void __launch_bounds__(kThreads) choose_kernel(Draws d, std::int64_t j) {
  __shared__ double slots[kWarps];
  double total = 0;
  for (std::int64_t b = threadIdx.x; b < d.blocks; b += kThreads) total += d.masses[*d.best * d.blocks + b];
  total = block_sum(total, slots);
  for (std::int64_t t = threadIdx.x; t < d.tried; t += kThreads) {
    std::int64_t candidate = 0;
    if (total > 0)
      candidate = choose(d, d.a.uniforms[j * d.a.trials + t], total);
    else  // every point lies on a centre: take those that are left in their order
      while (candidate + 1 < d.a.x.rows && d.chosen[candidate]) ++candidate;
    d.candidates[t] = candidate;
  }
}

// What each candidate would leave of the distances of a block's points. A warp takes a point; the first draw has nothing before it.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) try_kernel(Draws d, bool first) {
  __shared__ double slots[kWarps];
  const Rows& x = d.a.x;
  const double* const closest = d.closest + *d.best * x.rows;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kPoints;
  for (std::int64_t t = 0; t < d.tried; ++t) {
    const std::int64_t other = row_offset(x, d.candidates[t]);
    double sum = 0;
    for (std::int64_t i = begin + warp_index(); i < begin + kPoints && i < x.rows; i += kWarps) {
      const std::int64_t row = row_offset(x, i);
      double square = 0;
      for (std::int64_t f = lane_index(); f < x.cols; f += 32) {
        const std::int64_t at = feature_offset(x, f);
        // Rounded: a fused a - b would not be zero for equal rows.
        const double by = rounded_product(static_cast<double>(convert<T>(x, row + at)), d.unit) -
                          rounded_product(static_cast<double>(convert<T>(x, other + at)), d.unit);
        square += by * by;
      }
      square = warp_sum(square);
      if (!first && closest[i] < square) square = closest[i];
      if (lane_index() != 0) continue;
      d.next[t * x.rows + i] = square;
      sum += (d.a.weights == nullptr ? 1 : d.a.weights[i]) * square;
    }
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0) d.fresh[t * d.blocks + blockIdx.x] = sum;
  }
}

// Draw j takes the candidate that leaves the least, of equals the first.
__global__ void __launch_bounds__(kThreads) take_kernel(Draws d, std::int64_t j) {
  __shared__ double slots[kWarps];
  double least = kInfinity<double>;
  std::int64_t best = 0;
  for (std::int64_t t = 0; t < d.tried; ++t) {
    double total = 0;
    for (std::int64_t b = threadIdx.x; b < d.blocks; b += kThreads) total += d.fresh[t * d.blocks + b];
    total = block_sum(total, slots);
    if (total < least) least = total, best = t;
  }
  if (threadIdx.x != 0) return;
  *d.best = best;
  d.indices[j] = d.candidates[best];
  d.chosen[d.candidates[best]] = 1;
}

struct DrawsMemory {
  double *distances[2], *masses[2];
  std::int64_t *candidates, *best, blocks;
  unsigned char* chosen;
  MomentsMemory moments;
  double* mean;

  DrawsMemory(Arena& arena, const DrawArguments& a)
      : blocks((a.x.rows + kPoints - 1) / kPoints), moments(arena, a.x.rows, a.x.cols) {
    for (int half = 0; half < 2; ++half) {
      distances[half] = arena.take<double>(a.trials * a.x.rows);
      masses[half] = arena.take<double>(a.trials * blocks);
    }
    candidates = arena.take<std::int64_t>(a.trials);
    best = arena.take<std::int64_t>(1);
    chosen = arena.take<unsigned char>(a.x.rows);
    mean = arena.take<double>(a.x.cols);
  }
};

template <class T>
void run(const DrawArguments& a, const DrawsMemory& memory, std::int64_t* indices, Stream stream) {
  const double largest = measure("kmeans_plus_plus", "x", a.x, memory.moments, memory.mean, stream);
  const dim3 points = grid_of_blocks(memory.blocks);
  for (std::int64_t j = 0; j < a.k; ++j) {
    const auto from = static_cast<int>(j % 2), to = 1 - from;
    const Draws d{a,
                  unit_of<T>(largest, a.x.cols),
                  memory.distances[from],
                  memory.distances[to],
                  memory.masses[from],
                  memory.masses[to],
                  memory.candidates,
                  memory.best,
                  memory.chosen,
                  indices,
                  memory.blocks,
                  j == 0 ? 1 : a.trials};
    if (j == 0) launch(begin_kernel, points, 0, stream, d);
    launch(choose_kernel, grid_of_blocks(1), 0, stream, d, j);
    launch(try_kernel<T>, points, 0, stream, d, j == 0);
    launch(take_kernel, grid_of_blocks(1), 0, stream, d, j);
  }
}

}  // namespace

std::int64_t kmeans_plus_plus_bytes(const DrawArguments& arguments) {
  Arena arena(nullptr);
  const DrawsMemory counted(arena, arguments);
  return arena.bytes();
}

void kmeans_plus_plus(const DrawArguments& arguments, void* memory, std::int64_t* indices, Stream stream) {
  Arena arena(memory);
  const DrawsMemory dealt(arena, arguments);
  if (arguments.x.element == Element::f64)
    run<double>(arguments, dealt, indices, stream);
  else
    run<float>(arguments, dealt, indices, stream);
}

}  // namespace gramian::cuda
