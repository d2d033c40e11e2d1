// What the kernels around K-means do with single rows. Per-level code (see lanes.h).
#pragma once
#include "core/pack.h"
#include "neighbors/kmeans_kernel.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
GRAMIAN_INLINE Rows rows_of(const Points<T>& p) {
  return {p.data, p.rows, p.cols, p.row_stride, 1, sizeof(T) == 4 ? Element::f32 : Element::f64};
}

// |x_i - c_j|^2 * unit^2, from the rows as given.
template <class T>
double exact_distance(const Points<T>& p, std::int64_t i, const Points<T>& c, std::int64_t j) {
  constexpr int kN = kLanes<T>;
  const T *x = p.data + i * p.row_stride, *y = c.data + j * c.row_stride;
  double lane_sum[kN] = {};
  std::int64_t k = 0;
  for (; k + kN <= p.cols; k += kN)
    for (int l = 0; l < kN; ++l) {
      const double difference = x[k + l] * p.unit - y[k + l] * p.unit;
      lane_sum[l] += difference * difference;
    }
  for (; k < p.cols; ++k) {
    const double difference = x[k] * p.unit - y[k] * p.unit;
    lane_sum[0] += difference * difference;
  }
  double total = 0;
  for (int l = 0; l < kN; ++l) total += lane_sum[l];
  return total;
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
