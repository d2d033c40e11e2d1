// Pairs of rows on the device, by the CPU's rule (pairs.h): both sides measured and packed, the error of a score, and exact
// distances by a warp. What is measured stays on the device, where kernels read it; the host only asks whether to refuse, and not
// even that while a CUDA graph is captured: then results say it (Known::sound).
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

// What is known of both sides once they are measured.
struct Known {
  double unit;            // the power of two in the scales
  double largest[2];      // norm of a packed row of x, of y
  double not_finite[2];   // the first row of x, of y that is not; infinity: none
  double overflowing[2];  // whose squares do
  double no_number[2];    // the first of the numbers given for each row of x, of y, that is none

  GRAMIAN_BOTH bool sound() const {
    bool sound = true;
    for (int side = 0; side < 2; ++side)
      sound = sound && !is_finite(not_finite[side]) && !is_finite(overflowing[side]) && !is_finite(no_number[side]);
    return sound;
  }
};

template <class T>
struct DevicePairs {
  DeviceSide<T> x, y;
  const Known* known;
  int y_side;  // of `known`
  double rounding;
  Metric metric;

  DevicePairs turned() const { return {y, x, known, 1 - y_side, rounding, metric}; }
};

// Bounds |score - exact score| for every partner of row i: d roundings of the product and a few of packing, norms and
// the result, each against |x||y| <= (|x| + |y|)^2 / 4.
template <class T>
GRAMIAN_DEVICE T slack(const DevicePairs<T>& p, std::int64_t i) {
  const double sum = p.x.norm[i] + p.known->largest[p.y_side];
  return static_cast<T>(p.rounding * sum * sum);
}

// The score that a distance from row i stands for, and how far from it the score may lie of a pair whose returned distance is that one:
// less than its slack and `margin`, since it and the distance are rounded.
template <class T>
GRAMIAN_DEVICE double score_at(const DevicePairs<T>& p, std::int64_t i, double distance, double* margin) {
  constexpr double kEps = kEpsilon<T>, kTiny = kSmallest<T>;  // below, a distance or a bound may have become 0
  const double unit = p.known->unit, norm = p.x.norm[i], square = norm * norm;
  *margin = static_cast<double>(slack(p, i));
  if (p.metric == Metric::chebyshev) return -distance;
  if (p.metric == Metric::cosine) {
    *margin += 4 * kEps;
    return 1 - distance;
  }
  if (p.metric == Metric::ip) {
    const double product = distance * unit * unit;
    *margin += 4 * kEps * fabs(product) + kTiny * unit * unit + kTiny;
    return product;
  }
  const bool root = p.metric == Metric::euclidean;
  const double scaled = distance * unit, apart = scaled * (root ? fabs(scaled) : unit);
  *margin += 2 * kEps * (square + fabs(apart)) + kTiny * unit * (root ? kTiny * unit : unit) + kTiny;
  return (square - apart) / 2;
}

// Lower is nearer: squared distance (in units of 1 / unit^2), cosine distance, minus the inner product, or the
// largest difference.
template <class T>
GRAMIAN_DEVICE double exact_key(const DevicePairs<T>& p, std::int64_t i, std::int64_t j) {
  const bool product = p.metric == Metric::ip, cosine = p.metric == Metric::cosine;
  const bool largest = p.metric == Metric::chebyshev;
  const double x_size = cosine ? p.x.size[i] : p.known->unit, y_size = cosine ? p.y.size[j] : p.known->unit;
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
    case Metric::euclidean: return static_cast<T>(sqrt(key) / p.known->unit);
    case Metric::cosine:
    case Metric::chebyshev: return static_cast<T>(key);
    default: return static_cast<T>(key / p.known->unit / p.known->unit);  // twice: the square of the unit may vanish
  }
}

// norm, half_norm, size and scale of each row, and what `measure` of moments.cuh finds of them.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    norms_kernel(Rows x, const T* shift, const Known* known, Metric metric, double* norm, T* half_norm, double* size,
                 T* scale, Facts* facts) {
  __shared__ Facts slots[kWarps];
  const double unit = known->unit;
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
__global__ void __launch_bounds__(kThreads)
    unit_kernel(const Facts* x, const Facts* y, Metric metric, std::int64_t cols, Known* known) {
  if (threadIdx.x != 0) return;
  const double largest = x->largest > y->largest ? x->largest : y->largest;
  known->unit = metric == Metric::chebyshev ? 1 : unit_of<T>(largest, cols);
}

// A side's facts, of its rows and of their norms, and the first of `count` numbers that is none.
template <class T>
__global__ void __launch_bounds__(kThreads)
    know_kernel(int side, const Facts* rows, const Facts* norms, const T* numbers, std::int64_t count, Known* known) {
  __shared__ Facts slots[kWarps];
  Facts mine{0, kInfinity<double>};
  for (std::int64_t i = threadIdx.x; numbers != nullptr && i < count; i += kThreads)
    if (!(numbers[i] == numbers[i])) mine = joined(mine, {0, static_cast<double>(i)});
  mine = block_facts(mine, slots);
  if (threadIdx.x != 0) return;
  known->largest[side] = norms->largest;
  known->not_finite[side] = rows->first_bad;
  known->overflowing[side] = sizeof(T) == 8 ? norms->first_bad : kInfinity<double>;  // float64 holds squares of float32
  known->no_number[side] = mine.first_bad;
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
DeviceSide<T> measured_before(const Rows& rows, const SideMemory<T>& memory) {
  return {{rows, memory.scale, memory.half_norm, memory.size},
          {reinterpret_cast<const T*>(memory.packed), rows.rows, packed_depth(rows.cols)},
          memory.norm};
}

template <class T>
DeviceSide<T> measured(const Rows& rows, Metric metric, const T* shift, const Known* known, const SideMemory<T>& memory,
                       Stream stream) {
  const std::int64_t blocks = stat_blocks(rows.rows);
  launch(norms_kernel<T>, grid_of_blocks(blocks), 0, stream, rows, shift, known, metric, memory.norm, memory.half_norm,
         memory.size, memory.scale, memory.blocks);
  launch(join_norms_kernel, grid_of_blocks(1), 0, stream, static_cast<const Facts*>(memory.blocks), blocks,
         memory.norms);
  pack<T>(rows, {shift, memory.scale}, memory.packed, stream);
  return measured_before(rows, memory);
}

// Both sides of a set of pairs; `y` is x itself where `self` is set.
struct PairSides {
  const char *op, *x_name, *y_name;  // for refusals
  Rows x, y;
  Metric metric;
  bool self;
  // [n] and [m] of the compute type, or null: numbers for each row that must not be NaN, and what they are called.
  const void *x_numbers = nullptr, *y_numbers = nullptr;
  const char *x_refusal = nullptr, *y_refusal = nullptr;
  bool same_x =
      false;  // as before in this memory, and y lies among its rows: its panels, the shift and the unit serve again
};

template <class T>
class PairSetMemory {
 public:
  PairSetMemory(Arena& arena, const PairSides& sides)
      : sides_(sides),
        x_(arena, sides.x),
        y_(sides.self ? x_ : SideMemory<T>(arena, sides.y)),
        mean_(arena.take<T>(sides.x.cols)),
        unused_(arena.take<T>(sides.x.cols)),
        known_(arena.take<Known>(1)) {}

  // Refuses rows that are not finite or whose squares overflow, and what is no number, for which it waits for the device once.
  DevicePairs<T> measure_pairs(Stream stream) const {
    const Rows &x = sides_.x, &y = sides_.y;
    if (!sides_.same_x) {
      find_moments(y, y_.moments, mean_, stream);
      if (!sides_.self) find_moments(x, x_.moments, unused_, stream);
      launch(unit_kernel<T>, grid_of_blocks(1), 0, stream, static_cast<const Facts*>(x_.moments.all),
             static_cast<const Facts*>(y_.moments.all), sides_.metric, x.cols, known_);
    }
    const bool squares = sides_.metric == Metric::euclidean || sides_.metric == Metric::sqeuclidean;
    const T* const shift = squares ? mean_ : nullptr;
    const DeviceSide<T> measured_x =
        sides_.same_x ? measured_before(x, x_) : measured<T>(x, sides_.metric, shift, known_, x_, stream);
    const DeviceSide<T> measured_y =
        sides_.self ? measured_x : measured<T>(y, sides_.metric, shift, known_, y_, stream);
    know(0, x_, sides_.x_numbers, x.rows, stream);
    know(1, y_, sides_.y_numbers, y.rows, stream);
    if (!sides_.same_x && !capturing(stream)) refuse_unsound(stream);
    const double rounding = (0.3 * static_cast<double>(x.cols) + 8) * std::numeric_limits<T>::epsilon() / 2;
    return {measured_x, measured_y, known_, 1, rounding, sides_.metric};
  }

 private:
  void know(int side, const SideMemory<T>& memory, const void* numbers, std::int64_t count, Stream stream) const {
    launch(know_kernel<T>, grid_of_blocks(1), 0, stream, side, static_cast<const Facts*>(memory.moments.all),
           static_cast<const Facts*>(memory.norms), static_cast<const T*>(numbers), count, known_);
  }

  void refuse_unsound(Stream stream) const {
    Known known;
    read_back(&known, known_, sizeof known, stream);
    for (int side = 0; side < 2; ++side)
      if (is_finite(known.no_number[side]))
        refuse(sides_.op, ": ", side == 0 ? sides_.x_refusal : sides_.y_refusal, ", got NaN for row ",
               static_cast<std::int64_t>(known.no_number[side]));
    refuse_row(sides_.op, sides_.y_name, known.not_finite[1]);
    refuse_row(sides_.op, sides_.x_name, known.not_finite[0]);
    for (int side = 0; side < 2; ++side)
      if (is_finite(known.overflowing[side]))
        refuse(sides_.op, ": ", side == 0 ? sides_.x_name : sides_.y_name,
               " must span a range whose squares do not overflow, got row ",
               static_cast<std::int64_t>(known.overflowing[side]));
  }

  PairSides sides_;
  SideMemory<T> x_, y_;
  T *mean_, *unused_;
  Known* known_;
};

}  // namespace gramian::cuda
