// What K-means does between two searches. Points are taken in the order of their labels, a chunk of them to a block of threads; a
// thread owns features and adds a cluster's points one after the other, so that sums have one order. A cluster that lies within
// a chunk is summed there; the pieces of the others are joined in their order.
#include "neighbors/kmeans_cuda.h"

#include <algorithm>

#include "neighbors/moments.cuh"

namespace gramian::cuda {
namespace {

constexpr std::int64_t kChunk = 128;  // points

std::int64_t chunks_of(std::int64_t n) { return (n + kChunk - 1) / kChunk; }

template <class T>
GRAMIAN_DEVICE double value_at(const Rows& x, std::int64_t i, std::int64_t feature) {
  return static_cast<double>(convert<T>(x, row_offset(x, i) + feature_offset(x, feature)));
}

// What point i adds to column `column` of its cluster's totals.
template <class T>
GRAMIAN_DEVICE double share_of(const ClusterProblem& p, std::int64_t i, std::int64_t column) {
  const double weight = p.weights == nullptr ? 1 : p.weights[i];
  if (column < p.x.cols) return weight * value_at<T>(p.x, i, column);
  return column == p.x.cols ? weight : weight > 0 ? 1 : 0;
}

__global__ void __launch_bounds__(kThreads)
    compare_kernel(const std::int64_t* labels, const std::int64_t* before, std::int64_t n, double* moved) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned found = __ballot_sync(kAllLanes, i < n && labels[i] != before[i]);
  // Whole numbers, so the order in which they are added does not matter.
  if (lane_index() == 0 && found != 0) atomicAdd(moved, static_cast<double>(__popc(found)));
}

// A thread a cluster.
__global__ void __launch_bounds__(kThreads)
    changes_kernel(const double* totals, std::int64_t k, std::int64_t width, Changes* changes) {
  const std::int64_t j = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned empty = __ballot_sync(kAllLanes, j < k && totals[j * width + width - 1] == 0);
  if (lane_index() == 0 && empty != 0) atomicAdd(&changes->empty, static_cast<unsigned long long>(__popc(empty)));
  if (j == 0) changes->moved = totals[k * width];
}

// The first place whose label is at least j.
__global__ void __launch_bounds__(kThreads) offsets_kernel(const std::int64_t* labels, const std::int64_t* order,
                                                           std::int64_t n, std::int64_t k, std::int64_t* offsets) {
  const std::int64_t j = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j > k) return;
  std::int64_t low = 0, high = n;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (labels[order[middle]] < j)
      low = middle + 1;
    else
      high = middle;
  }
  offsets[j] = low;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    chunk_kernel(ClusterProblem p, ClusterMemory memory, const std::int64_t* labels, const std::int64_t* order,
                 double* totals) {
  const std::int64_t width = p.x.cols + 2, begin = static_cast<std::int64_t>(blockIdx.x) * kChunk;
  const std::int64_t end = begin + kChunk < p.x.rows ? begin + kChunk : p.x.rows;
  for (std::int64_t column = threadIdx.x; column < width; column += kThreads)
    for (std::int64_t place = begin; place < end;) {
      const std::int64_t j = labels[order[place]], first = memory.offsets[j], last = memory.offsets[j + 1];
      double sum = 0;
      for (; place < end && place < last; ++place) sum += share_of<T>(p, order[place], column);
      double* const to = first < begin ? memory.head + blockIdx.x * width
                         : last > end  ? memory.tail + blockIdx.x * width
                                       : totals + j * width;
      to[column] = sum;
    }
}

// Clusters that no chunk has summed alone: a block of threads each.
__global__ void __launch_bounds__(kThreads) join_chunks_kernel(std::int64_t d, ClusterMemory memory, double* totals) {
  const std::int64_t width = d + 2, j = blockIdx.x, first = memory.offsets[j], last = memory.offsets[j + 1];
  const std::int64_t first_chunk = first / kChunk, last_chunk = (last - 1) / kChunk;
  if (first < last && first_chunk == last_chunk) return;
  for (std::int64_t column = threadIdx.x; column < width; column += kThreads) {
    double sum = 0;
    if (first < last) {
      sum = memory.tail[first_chunk * width + column];
      for (std::int64_t chunk = first_chunk + 1; chunk <= last_chunk; ++chunk)
        sum += memory.head[chunk * width + column];
    }
    totals[j * width + column] = sum;
  }
}

// partial[block] = sum over its rows of |x - mean|^2, or of weight times squared[i].
__global__ void __launch_bounds__(kThreads)
    spread_kernel(Rows x, const double* mean, const double* weights, const double* squared, double* partial) {
  __shared__ double slots[kWarps];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kStatRows;
  double sum = 0;
  for (std::int64_t i = begin + warp_index(); i < begin + kStatRows && i < x.rows; i += kWarps) {
    const double square = mean != nullptr ? squared_norm(x, i, mean, 1.0) : squared[i];
    if (lane_index() == 0) sum += (weights == nullptr ? 1 : weights[i]) * square;
  }
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_up_kernel(const double* partial, std::int64_t count, double* number) {
  __shared__ double slots[kWarps];
  double sum = 0;
  for (std::int64_t b = threadIdx.x; b < count; b += kThreads) sum += partial[b];
  sum = block_sum(sum, slots);
  if (threadIdx.x == 0) *number = sum;
}

// One warp a point.
template <class T>
__global__ void __launch_bounds__(kThreads)
    distances_kernel(Rows x, const std::int64_t* labels, const T* centers, double* squared) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (i >= x.rows) return;
  const T* const center = centers + labels[i] * x.cols;
  double sum = 0;
  for (std::int64_t f = lane_index(); f < x.cols; f += 32) {
    const double by = value_at<T>(x, i, f) - static_cast<double>(center[f]);
    sum += by * by;
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) squared[i] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) row_kernel(Rows x, std::int64_t point, double* row) {
  const std::int64_t feature = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (feature < x.cols) row[feature] = point < 0 ? 0 : value_at<T>(x, point, feature);
}

__global__ void __launch_bounds__(kThreads) relocate_kernel(std::int64_t d, const double* row, double weight,
                                                            std::int64_t from, std::int64_t to, double* totals) {
  const std::int64_t width = d + 2, column = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= width) return;
  const double value = column < d ? row[column] : 1;
  totals[from * width + column] -= (column <= d ? weight : 1) * value;
  totals[to * width + column] = value;
}

// A block of threads a centre; partial[j] = the square of how far it moved.
template <class T>
__global__ void __launch_bounds__(kThreads)
    move_kernel(std::int64_t d, const double* totals, bool spherical, T* centers, double* partial) {
  __shared__ double slots[kWarps];
  const double* const sum = totals + blockIdx.x * (d + 2);
  T* const center = centers + blockIdx.x * d;
  double divisor = sum[d], moved = 0;
  if (spherical) {
    double square = 0;
    for (std::int64_t f = threadIdx.x; f < d; f += kThreads) square += sum[f] * sum[f];
    divisor = sqrt(block_sum(square, slots));
  }
  if (sum[d + 1] > 0 && divisor > 0)
    for (std::int64_t f = threadIdx.x; f < d; f += kThreads) {
      const T next = static_cast<T>(sum[f] / divisor);
      const double by = static_cast<double>(next) - static_cast<double>(center[f]);
      moved += by * by;
      center[f] = next;
    }
  moved = block_sum(moved, slots);
  if (threadIdx.x == 0) partial[blockIdx.x] = moved;
}

double added_up(const ClusterMemory& memory, std::int64_t count, Stream stream) {
  launch(add_up_kernel, grid_of_blocks(1), 0, stream, static_cast<const double*>(memory.partial), count, memory.number);
  double number = 0;
  read_back(&number, memory.number, sizeof number, stream);
  return number;
}

// Calls with a zero of the type of the points.
template <class Run>
void in_type_of(const Rows& x, const Run& run) {
  if (x.element == Element::f64)
    run(0.0);
  else
    run(0.0F);
}

}  // namespace

ClusterMemory::ClusterMemory(const ClusterProblem& problem, void* memory) {
  Arena arena(memory);
  const std::int64_t n = problem.x.rows, d = problem.x.cols, k = problem.k, width = d + 2;
  squared = arena.take<double>(n);
  offsets = arena.take<std::int64_t>(k + 1);
  head = arena.take<double>(chunks_of(n) * width);
  tail = arena.take<double>(chunks_of(n) * width);
  partial = arena.take<double>(std::max(k, stat_blocks(n)));
  number = arena.take<double>(sizeof(Changes) / sizeof(double));
  mean = arena.take<double>(d);
  Arena counting(nullptr);
  MomentsMemory(counting, n, d);
  moments = arena.take<char>(counting.bytes());
  bytes = arena.bytes();
}

void find_mean(const ClusterProblem& p, const ClusterMemory& memory, Stream stream) {
  Arena arena(memory.moments);
  find_moments(p.x, MomentsMemory(arena, p.x.rows, p.x.cols), memory.mean, stream);
}

double spread(const ClusterProblem& p, const ClusterMemory& memory, Stream stream) {
  launch(spread_kernel, grid_of_blocks(stat_blocks(p.x.rows)), 0, stream, p.x, static_cast<const double*>(memory.mean),
         static_cast<const double*>(nullptr), static_cast<const double*>(nullptr), memory.partial);
  return added_up(memory, stat_blocks(p.x.rows), stream);
}

void sum_clusters(const ClusterProblem& p, const ClusterMemory& memory, const std::int64_t* labels,
                  const std::int64_t* before, const std::int64_t* order, double* totals, Stream stream) {
  const std::int64_t n = p.x.rows;
  double* const moved = totals + totals_size(p) - 1;
  set_zero(moved, sizeof *moved, stream);
  launch(compare_kernel, grid_of_threads(n), 0, stream, labels, before, n, moved);
  launch(offsets_kernel, grid_of_threads(p.k + 1), 0, stream, labels, order, n, p.k, memory.offsets);
  in_type_of(p.x, [&](auto zero) {
    launch(chunk_kernel<decltype(zero)>, grid_of_blocks(chunks_of(n)), 0, stream, p, memory, labels, order, totals);
  });
  launch(join_chunks_kernel, grid_of_blocks(p.k), 0, stream, p.x.cols, memory, totals);
}

Changes look_at(const ClusterProblem& p, const ClusterMemory& memory, const double* totals, Stream stream) {
  auto* const on_device = reinterpret_cast<Changes*>(memory.number);
  set_zero(on_device, sizeof *on_device, stream);
  launch(changes_kernel, grid_of_threads(p.k), 0, stream, totals, p.k, p.x.cols + 2, on_device);
  Changes changes;
  read_back(&changes, on_device, sizeof changes, stream);
  return changes;
}

double inertia(const ClusterProblem& p, const ClusterMemory& memory, const std::int64_t* labels, const void* centers,
               Stream stream) {
  in_type_of(p.x, [&](auto zero) {
    using T = decltype(zero);
    launch(distances_kernel<T>, grid_of_blocks((p.x.rows + kWarps - 1) / kWarps), 0, stream, p.x, labels,
           static_cast<const T*>(centers), memory.squared);
  });
  launch(spread_kernel, grid_of_blocks(stat_blocks(p.x.rows)), 0, stream, p.x, static_cast<const double*>(nullptr),
         p.weights, static_cast<const double*>(memory.squared), memory.partial);
  return added_up(memory, stat_blocks(p.x.rows), stream);
}

void copy_row(const ClusterProblem& p, std::int64_t point, double* row, Stream stream) {
  in_type_of(p.x, [&](auto zero) {
    launch(row_kernel<decltype(zero)>, grid_of_threads(p.x.cols), 0, stream, p.x, point, row);
  });
}

void relocate(const ClusterProblem& p, const double* row, double weight, std::int64_t from, std::int64_t to,
              double* totals, Stream stream) {
  launch(relocate_kernel, grid_of_threads(p.x.cols + 2), 0, stream, p.x.cols, row, weight, from, to, totals);
}

double move_centers(const ClusterProblem& p, const ClusterMemory& memory, const double* totals, bool spherical,
                    bool wanted, void* centers, Stream stream) {
  in_type_of(p.x, [&](auto zero) {
    using T = decltype(zero);
    launch(move_kernel<T>, grid_of_blocks(p.k), 0, stream, p.x.cols, totals, spherical, static_cast<T*>(centers),
           memory.partial);
  });
  return wanted ? added_up(memory, p.k, stream) : 0;
}

}  // namespace gramian::cuda
