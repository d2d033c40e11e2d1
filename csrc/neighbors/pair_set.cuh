// Pairs of rows on the device, by the CPU's rule (pairs.h): both sides measured and packed, the error of a score, and exact
// distances by a warp.
#pragma once
#include <algorithm>

#include "core/tile.cuh"
#include "neighbors/moments.cuh"
#include "neighbors/pairs.h"
#include "neighbors/unit.h"

namespace gramian::cuda {

// A norm that makes the slack swallow every score: for rows so small that 1 / |x| overflows, all is decided exactly.
constexpr double kHuge = 1e10;

template <class T>
struct DeviceSide : Side<T> {  // half_norm [n] without padding
  Packed<T> packed;
  const double* norm;  // [n] of the packed row
};

template <class T>
struct DevicePairs {
  DeviceSide<T> x, y;
  const Facts* y_norms;
  double unit, rounding;
  Metric metric;
};

// Bounds |score - exact score| for every partner of row i: d roundings of the product and a few of packing, norms and
// the result, each against |x||y| <= (|x| + |y|)^2 / 4.
template <class T>
GRAMIAN_DEVICE T slack(const DevicePairs<T>& p, std::int64_t i) {
  const double sum = p.x.norm[i] + p.y_norms->largest;
  return static_cast<T>(p.rounding * sum * sum);
}

// Lower is nearer: squared distance (in units of 1 / unit^2), cosine distance, minus the inner product, or the
// largest difference.
template <class T>
GRAMIAN_DEVICE double exact_key(const DevicePairs<T>& p, std::int64_t i, std::int64_t j) {
  const bool product = p.metric == Metric::ip, cosine = p.metric == Metric::cosine;
  const bool largest = p.metric == Metric::chebyshev;
  const double x_size = cosine ? p.x.size[i] : p.unit, y_size = cosine ? p.y.size[j] : p.unit;
  if (cosine && (x_size == 0 || y_size == 0)) return 1;  // a zero row is similar to nothing
  const std::int64_t x_row = row_offset(p.x.rows, i), y_row = row_offset(p.y.rows, j);
  double total = 0;
  for (std::int64_t f = lane_index(); f < p.x.rows.cols; f += 32) {
    // Rounded: a fused a - b would not be zero for equal rows.
    const double a = rounded_product(convert<T>(p.x.rows, x_row + feature_offset(p.x.rows, f)), x_size);
    const double b = rounded_product(convert<T>(p.y.rows, y_row + feature_offset(p.y.rows, f)), y_size);
    if (largest)
      total = fmax(total, fabs(a - b));
    else
      total += product ? a * b : (a - b) * (a - b);
  }
  if (largest) return warp_max(total);
  total = warp_sum(total);
  // Unit rows: 1 - cos = |x - y|^2 / 2, and the difference form does not cancel.
  return product ? -total : cosine ? total / 2 : total;
}

// What is returned, the inner product with its sign turned, and so what ties are about: lower is nearer.
template <class T>
GRAMIAN_DEVICE T distance_of_key(const DevicePairs<T>& p, double key) {
  switch (p.metric) {
    case Metric::euclidean: return static_cast<T>(sqrt(key) / p.unit);
    case Metric::cosine:
    case Metric::chebyshev: return static_cast<T>(key);
    default: return static_cast<T>(key / p.unit / p.unit);  // twice: the square of the unit may vanish
  }
}

// norm, half_norm, size and scale of each row, and what `measure` of moments.cuh finds of them.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    norms_kernel(Rows x, const T* shift, double unit, Metric metric, double* norm, T* half_norm, double* size, T* scale,
                 Facts* facts) {
  __shared__ Facts slots[kWarps];
  Facts mine{0, kInfinity<double>};
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kStatRows;
  for (std::int64_t i = begin + warp_index(); i < begin + kStatRows && i < x.rows; i += kWarps) {
    // Chebyshev scores are exact, so their slack is that of norms of zero.
    const double square = metric == Metric::chebyshev ? 0 : squared_norm(x, i, shift, unit);
    if (!is_finite(square))
      mine.first_bad = mine.first_bad < static_cast<double>(i) ? mine.first_bad : static_cast<double>(i);
    double length = sqrt(square), inverse = 0;
    T factor = static_cast<T>(unit);
    if (metric == Metric::cosine) {
      // Beside a huge row the squares of a small one vanish: it is measured again, in larger and larger units.
      double own = unit;
      while (length < 0x1p-450 && own < 0x1p1020) {
        own = fmin(own * 0x1p450, 0x1p1020);
        length = sqrt(squared_norm(x, i, shift, own));
      }
      inverse = length > 0 && is_finite(own / length) ? own / length : 0;
      factor = static_cast<T>(inverse);
      length = is_finite(static_cast<double>(factor)) ? 1 : kHuge;
      if (length > 1) factor = 0;
    }
    mine.largest = length > mine.largest ? length : mine.largest;
    if (lane_index() == 0) {
      norm[i] = length;
      half_norm[i] = metric == Metric::euclidean || metric == Metric::sqeuclidean ? static_cast<T>(square / 2) : T{0};
      size[i] = inverse;
      scale[i] = factor;
    }
  }
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) facts[blockIdx.x] = mine;
}

static __global__ void __launch_bounds__(kThreads, 1)
    join_norms_kernel(const Facts* facts, std::int64_t count, Facts* all) {
  __shared__ Facts slots[kWarps];
  Facts mine{0, kInfinity<double>};
  for (std::int64_t b = threadIdx.x; b < count; b += kThreads) mine = joined(mine, facts[b]);
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) *all = mine;
}

template <class T>
struct SideMemory {
  MomentsMemory moments;
  T *scale, *half_norm;
  double *size, *norm;
  Facts *blocks, *norms;
  char* packed;

  SideMemory(Arena& arena, const Rows& rows)
      : moments(arena, rows.rows, rows.cols),
        scale(arena.take<T>(rows.rows)),
        half_norm(arena.take<T>(rows.rows)),
        size(arena.take<double>(rows.rows)),
        norm(arena.take<double>(rows.rows)),
        blocks(arena.take<Facts>(stat_blocks(rows.rows))),
        norms(arena.take<Facts>(1)),
        packed(arena.take<char>(packed_bytes<T>(rows.rows, rows.cols))) {}
};

template <class T>
DeviceSide<T> measured(const char* op, const char* name, const Rows& rows, Metric metric, const T* shift, double unit,
                       const SideMemory<T>& memory, Stream stream) {
  const std::int64_t blocks = stat_blocks(rows.rows);
  launch(norms_kernel<T>, grid_of_blocks(blocks), 0, stream, rows, shift, unit, metric, memory.norm, memory.half_norm,
         memory.size, memory.scale, memory.blocks);
  launch(join_norms_kernel, grid_of_blocks(1), 0, stream, static_cast<const Facts*>(memory.blocks), blocks,
         memory.norms);
  if (sizeof(T) == 8) {  // float32 values cannot overflow float64 squares
    Facts facts;
    read_back(&facts, memory.norms, sizeof facts, stream);
    if (is_finite(facts.first_bad))
      refuse(op, ": ", name, " must span a range whose squares do not overflow, got row ",
             static_cast<std::int64_t>(facts.first_bad));
  }
  return {{rows, memory.scale, memory.half_norm, memory.size},
          pack<T>(rows, {shift, memory.scale}, memory.packed, stream),
          memory.norm};
}

// Both sides of a set of pairs; `y` is x itself where `self` is set.
template <class T>
class PairSetMemory {
 public:
  PairSetMemory(Arena& arena, const Rows& x, const Rows& y, bool self)
      : x_(arena, x),
        y_(self ? x_ : SideMemory<T>(arena, y)),
        mean_(arena.take<T>(x.cols)),
        unused_(arena.take<T>(x.cols)) {}

  // Waits for the device: refuses rows that are not finite, or whose squares overflow.
  DevicePairs<T> measure_pairs(const char* op, const char* x_name, const Rows& x, const char* y_name, const Rows& y,
                               bool self, Metric metric, Stream stream) const {
    double largest = measure(op, y_name, y, y_.moments, mean_, stream);
    if (!self) largest = std::max(largest, measure(op, x_name, x, x_.moments, unused_, stream));
    const double unit = metric == Metric::chebyshev ? 1 : unit_of<T>(largest, x.cols);
    const bool squares = metric == Metric::euclidean || metric == Metric::sqeuclidean;
    const T* const shift = squares ? mean_ : nullptr;
    const DeviceSide<T> measured_x = measured(op, x_name, x, metric, shift, unit, x_, stream);
    const DeviceSide<T> measured_y = self ? measured_x : measured(op, y_name, y, metric, shift, unit, y_, stream);
    const double rounding = (0.3 * static_cast<double>(x.cols) + 8) * std::numeric_limits<T>::epsilon() / 2;
    return {measured_x, measured_y, y_.norms, unit, rounding, metric};
  }

 private:
  SideMemory<T> x_, y_;
  T *mean_, *unused_;
};

}  // namespace gramian::cuda
