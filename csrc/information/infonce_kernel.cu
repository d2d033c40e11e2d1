// InfoNCE on the device: the tiles of f gᵀ make the logarithms of the row sums, then once by rows and once by columns the means
// that the gradients are made of. Scores are computed again in every pass and never stored.
#include "information/infonce_cuda.h"

#include <cmath>
#include <type_traits>

#include "core/weigh.cuh"

namespace gramian::cuda {
namespace {

constexpr int kFeatures = 64;  // that a block of threads sums; others by blockIdx.y
template <class T>
constexpr std::size_t kMeanBytes = (kRingValues<T> + kFactorValues<kFeatures>)*sizeof(T);

template <class T>
struct InfoncePair {
  Packed<T> x, y;
  std::int64_t n, d;
};

template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) log_sum_kernel(InfoncePair<T> p, T* log_sums) {
  const T found = log_sum_of_rows<Tile>(
      p.y.panels(), shared_memory<T>(),
      [&](std::int64_t j, T* stage, Tile& tile) { multiply_tile(p.x, blockIdx.x, p.y, j, stage, tile); },
      [&](std::int64_t j, int, int col, T value) { return j * kTile<T> + col < p.n ? value : -kInfinity<T>; });
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kTile<T> + threadIdx.x;
  if (static_cast<int>(threadIdx.x) < kTile<T> && row < p.n) log_sums[row] = found;
}

// gradient_i = (y_i - sum_j P_ij y_j) / n, P_ij = exp(x_i . y_j - log_sums[kByRow ? i : j]).
template <class Tile, bool kByRow, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) mean_kernel(InfoncePair<T> p, const T* log_sums, T* gradient) {
  using Sums = Weighted<T, kFeatures>;
  T* const stage = shared_memory<T>();
  T* const factors = stage + kRingValues<T>;
  const std::int64_t i = blockIdx.x, first = static_cast<std::int64_t>(blockIdx.y) * kFeatures;
  Sums sums;
  sums.clear();
  for (std::int64_t j = 0; j < p.y.panels(); ++j) {
    const int cols = static_cast<int>(p.n - j * kTile<T> < kTile<T> ? p.n - j * kTile<T> : kTile<T>);
    Tile tile;
    multiply_tile(p.x, i, p.y, j, stage, tile);
    stage_tile(tile, stage);
    change_staged(tile, stage, [&](int row, int col, T& value) {
      const std::int64_t at = kByRow ? i * kTile<T> + row : j * kTile<T> + col;
      value = at < p.n ? static_cast<T>(exp(value - log_sums[at])) : T{0};
    });
    sums.add(stage, p.y.panel(j), cols, p.y.depth, first, factors);
  }
  const std::int64_t row = i * kTile<T> + Sums::row();
  if (row >= p.n) return;
  GRAMIAN_UNROLL
  for (int o = 0; o < Sums::kOwned; ++o) {
    const std::int64_t feature = first + Sums::first_owned() + o;
    if (feature < p.d)
      gradient[row * p.d + feature] =
          (p.y.panel(i)[feature * kTile<T> + Sums::row()] - sums.sum[o]) / static_cast<T>(p.n);
  }
}

// mean_i (f_i . g_i - log_sum_i) + log n, by one block of threads: a warp takes rows.
template <class T>
__global__ void __launch_bounds__(kThreads) value_kernel(Rows f, Rows g, const T* log_sums, T* value) {
  __shared__ double slots[kWarps];
  const auto *const left = static_cast<const T*>(f.data), *const right = static_cast<const T*>(g.data);
  double total = 0;
  for (std::int64_t i = warp_index(); i < f.rows; i += kWarps) {
    double score = 0;
    for (std::int64_t k = lane_index(); k < f.cols; k += 32)
      score += static_cast<double>(left[i * f.cols + k]) * static_cast<double>(right[i * f.cols + k]);
    score = warp_sum(score);
    if (lane_index() == 0) total += score - static_cast<double>(log_sums[i]);
  }
  total = block_sum(total, slots);
  const double n = static_cast<double>(f.rows);
  if (threadIdx.x == 0) *value = static_cast<T>(total / n + log(n));
}

template <class T>
std::int64_t run(const InfonceArguments& a, void* memory, Stream stream) {
  using Tile = std::conditional_t<sizeof(T) == 8, DmmaTile, FmaTile>;
  Walk walk(memory, stream);
  const Packed<T> f = pack<T>(walk, a.f), g = pack<T>(walk, a.g);
  T* const log_sums = walk.take<T>(a.f.rows);
  const InfoncePair<T> by_f{f, g, a.f.rows, a.f.cols}, by_g{g, f, a.f.rows, a.f.cols};
  const dim3 panels = grid_of_blocks(f.panels()),
             parts = grid_of_blocks(f.panels(), (a.f.cols + kFeatures - 1) / kFeatures);
  walk.launch(log_sum_kernel<Tile>, panels, kRingValues<T> * sizeof(T), by_f, log_sums);
  walk.launch(value_kernel<T>, grid_of_blocks(1), 0, a.f, a.g, log_sums, static_cast<T*>(a.value));
  if (a.grad_f != nullptr) {
    walk.launch(mean_kernel<Tile, true>, parts, kMeanBytes<T>, by_f, log_sums, static_cast<T*>(a.grad_f));
    walk.launch(mean_kernel<Tile, false>, parts, kMeanBytes<T>, by_g, log_sums, static_cast<T*>(a.grad_g));
  }
  return walk.bytes();
}

}  // namespace

std::int64_t infonce_bytes(const InfonceArguments& arguments) {
  return arguments.f.element == Element::f64 ? run<double>(arguments, nullptr, nullptr)
                                             : run<float>(arguments, nullptr, nullptr);
}

void infonce(const InfonceArguments& arguments, void* memory, Stream stream) {
  arguments.f.element == Element::f64 ? run<double>(arguments, memory, stream) : run<float>(arguments, memory, stream);
}

}  // namespace gramian::cuda
