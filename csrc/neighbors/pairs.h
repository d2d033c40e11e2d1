// All pairs of rows of x and y, or of x with itself: what a sweep over them knows. It is a filter: scores from the Gram
// tile, each with a proven error bound, leave few pairs open; distances from the rows themselves decide those.
#pragma once
#include <cstdint>

#include "core/rows.h"
#include "core/schedule.h"

namespace gramian {

enum class Metric { sqeuclidean, euclidean, cosine, ip, chebyshev };

// One side: the rows, and how they are packed: (x - shift) * scale.
template <class T>
struct Side {
  Rows rows;
  const T* scale;      // [n] a power of two (cosine: 1 / |x|)
  const T* half_norm;  // [n + 64, zero past n] |packed|^2 / 2 (Euclidean metrics, else 0)
  const double* size;  // [n] 1 / |x| for cosine (0 for a zero row), else unused
};

// The score of a pair is higher the nearer it is: x.y - |y|^2 / 2 (cosine, ip: x.y; Chebyshev: minus the distance).
template <class T>
struct Pairs {
  Side<T> x, y;
  const T* shift;  // [d], or null
  double unit;     // the power of two in the scales; exact distances are computed in the same unit
  const T* slack;  // [n] by how much the score of a row's pair may be wrong
  Metric metric;
  Sweep sweep;
};

}  // namespace gramian
