// What the neighbour ops know of their rows before the sweep, on the device: finite or not, range, mean.
#pragma once
#include <cmath>

#include "core/arena.h"
#include "core/pack.cuh"
#include "core/refuse.h"

namespace gramian::cuda {

constexpr int kStatRows = 256;  // of one block of threads; fixed, so that sums round the same on every device

// The largest value and the first row that is not finite (infinity: none) of a range of rows.
struct Facts {
  double largest, first_bad;
};

GRAMIAN_BOTH bool is_finite(double v) { return v - v == 0; }

GRAMIAN_DEVICE Facts joined(Facts a, Facts b) {
  return {a.largest > b.largest ? a.largest : b.largest, a.first_bad < b.first_bad ? a.first_bad : b.first_bad};
}

// Over the block; `slots` is shared memory of kWarps. The result is thread 0's.
GRAMIAN_DEVICE Facts block_facts(Facts facts, Facts* slots) {
  facts = {warp_max(facts.largest), warp_min(facts.first_bad)};
  if (lane_index() == 0) slots[warp_index()] = facts;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kWarps; ++warp) facts = joined(facts, slots[warp]);
  __syncthreads();
  return facts;
}

// Block b: sum[b * cols + f] of its rows of x / rows, and its facts. A thread owns features, so that sums have one order.
static __global__ void __launch_bounds__(kThreads) moments_kernel(Rows x, double* sum, Facts* facts) {
  __shared__ Facts slots[kWarps];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kStatRows;
  const std::int64_t end = begin + kStatRows < x.rows ? begin + kStatRows : x.rows;
  Facts mine{0, kInfinity<double>};
  for (std::int64_t f = threadIdx.x; f < x.cols; f += kThreads) {
    double total = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const double value = convert<double>(x, row_offset(x, i) + feature_offset(x, f));
      const double size = fabs(value);
      if (!is_finite(size))
        mine.first_bad = mine.first_bad < static_cast<double>(i) ? mine.first_bad : static_cast<double>(i);
      else if (size > mine.largest)
        mine.largest = size;
      total += value / static_cast<double>(x.rows);
    }
    sum[blockIdx.x * x.cols + f] = total;
  }
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) facts[blockIdx.x] = mine;
}

// Sums and facts of `count` blocks into one.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_kernel(const double* sum, const Facts* facts, std::int64_t count, std::int64_t cols, T* mean, Facts* all) {
  __shared__ Facts slots[kWarps];
  const std::int64_t f = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (f < cols) {
    double total = 0;
    for (std::int64_t b = 0; b < count; ++b) total += sum[b * cols + f];
    mean[f] = static_cast<T>(total);
  }
  if (blockIdx.x != 0) return;
  Facts mine{0, kInfinity<double>};
  for (std::int64_t b = threadIdx.x; b < count; b += kThreads) mine = joined(mine, facts[b]);
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) *all = mine;
}

inline std::int64_t stat_blocks(std::int64_t rows) { return (rows + kStatRows - 1) / kStatRows; }

// Device memory for `measure`.
struct MomentsMemory {
  double* sum;
  Facts *blocks, *all;

  MomentsMemory(Arena& arena, std::int64_t rows, std::int64_t cols)
      : sum(arena.take<double>(stat_blocks(rows) * cols)),
        blocks(arena.take<Facts>(stat_blocks(rows))),
        all(arena.take<Facts>(1)) {}
};

// mean[f], and memory.all, on the device.
template <class T>
void find_moments(const Rows& x, const MomentsMemory& memory, T* mean, Stream stream) {
  const std::int64_t blocks = stat_blocks(x.rows);
  launch(moments_kernel, grid_of_blocks(blocks), 0, stream, x, memory.sum, memory.blocks);
  launch(join_kernel<T>, grid_of_blocks(x.cols / kThreads + 1), 0, stream, static_cast<const double*>(memory.sum),
         static_cast<const Facts*>(memory.blocks), blocks, x.cols, mean, memory.all);
}

inline void refuse_row(const char* op, const char* name, double row) {
  if (is_finite(row))
    refuse(op, ": ", name, " must be finite, got a NaN or an infinity in row ", static_cast<std::int64_t>(row));
}

// The same; returns max |x|. Waits for the device. Refuses rows that are not finite.
template <class T>
double measure(const char* op, const char* name, const Rows& x, const MomentsMemory& memory, T* mean, Stream stream) {
  find_moments(x, memory, mean, stream);
  Facts facts;
  read_back(&facts, memory.all, sizeof facts, stream);
  refuse_row(op, name, facts.first_bad);
  return facts.largest;
}

// sum over features of ((x_i[f] - shift[f]) * unit)^2 by a warp, the subtraction rounded as packing rounds it.
template <class T>
GRAMIAN_DEVICE double squared_norm(const Rows& x, std::int64_t i, const T* shift, double unit) {
  double total = 0;
  const std::int64_t row = row_offset(x, i);
  for (std::int64_t f = lane_index(); f < x.cols; f += 32) {
    T value = convert<T>(x, row + feature_offset(x, f));
    if (shift != nullptr) value -= shift[f];
    const double scaled = static_cast<double>(value) * unit;
    total += scaled * scaled;
  }
  return warp_sum(total);
}

}  // namespace gramian::cuda
