// Compiled once per instruction set; no standard library here (see lanes.h).
#include "neighbors/count_within_kernel.h"

#include "neighbors/distance.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Row i's count of the pairs whose score, in [not_beyond, inside), did not decide.
template <class T>
__attribute__((noinline)) std::int64_t decide(const CountProblem<T>& p, std::int64_t i, std::int64_t first,
                                              std::uint32_t open) {
  std::int64_t within = 0;
  for (; open != 0; open &= open - 1)
    within += distance_of_key(p, exact_key(p, i, first + __builtin_ctz(open))) <= p.radius[i];
  return within;
}

template <class T>
GRAMIAN_INLINE void count_tile(const CountProblem<T>& p, const Tile<T>& t, std::int64_t* count) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  const bool symmetric = p.sweep == Sweep::symmetric;  // then a tile also serves the rows that its columns are
  const Vec<T> half_left = load(p.y.half_norm + t.col), half_right = load(p.y.half_norm + t.col + kN);
  for (int r = 0; r < t.rows; ++r) {
    const std::int64_t i = t.row + r;
    const std::uint32_t mask = allowed(p, t, i);
    if (mask == 0) continue;
    const Vec<T> left = load(t.values + r * kCols), right = load(t.values + r * kCols + kN);
    const auto reached = [&](Vec<T> low, Vec<T> high, Vec<T> low_bound, Vec<T> high_bound)
                             __attribute__((always_inline)) {
                               return mask & (at_least(low, low_bound) | at_least(high, high_bound) << kN);
                             };
    const Vec<T> row_left = left - half_left, row_right = right - half_right;
    const Vec<T> not_beyond = broadcast(p.not_beyond[i]), inside = broadcast(p.inside[i]);
    const std::uint32_t maybe = reached(row_left, row_right, not_beyond, not_beyond);
    if (maybe != 0) {
      const std::uint32_t sure = reached(row_left, row_right, inside, inside);
      count[i] += __builtin_popcount(sure);
      if (maybe != sure) count[i] += decide(p, i, t.col, maybe & ~sure);
    }
    if (!symmetric) continue;
    const Vec<T> half = broadcast(p.x.half_norm[i]);
    const Vec<T> col_left = left - half, col_right = right - half;
    const std::uint32_t col_maybe =
        reached(col_left, col_right, load(p.not_beyond + t.col), load(p.not_beyond + t.col + kN));
    if (col_maybe == 0) continue;
    const std::uint32_t col_sure = reached(col_left, col_right, load(p.inside + t.col), load(p.inside + t.col + kN));
    for (std::uint32_t hits = col_maybe; hits != 0; hits &= hits - 1) {
      const int l = __builtin_ctz(hits);
      if (col_sure >> l & 1)
        ++count[t.col + l];
      else
        count[t.col + l] += distance_of_key(p, exact_key(p, t.col + l, i)) <= p.radius[t.col + l];
    }
  }
}

template <class T>
void block(const CountProblem<T>& p, std::int64_t i, std::int64_t x_rows, std::int64_t j, std::int64_t y_rows,
           void* memory, std::int64_t* count) {
  sweep_pairs(p, i, x_rows, j, y_rows, memory, [&](const Tile<T>& tile) { count_tile(p, tile, count); });
}

}  // namespace

extern const CountKernels<float> count_within_f32{pairs_scratch<float>, block<float>};
extern const CountKernels<double> count_within_f64{pairs_scratch<double>, block<double>};

}  // namespace gramian::GRAMIAN_ISA
