// Nearest centroid of every point, and the sums that move the centroids. A Gram tile (12 centroids against a panel of points,
// one a lane) finds the best and the second best score of each point; where their gap is within the proven rounding error,
// distances from the rows themselves decide. Labels are therefore exact, ties by the lower index.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

// Rows, contiguous along features. Packed coordinates are (x - shift) * unit, unit being a power of two.
template <class T>
struct Points {
  const T* data;
  std::int64_t rows, cols, row_stride;
  const T* shift;  // [cols]
  const T* scale;  // [at least as many as there are rows] unit, for the packing
  const T* norm;   // [rows + 64, zero past the end] |packed|^2
  double unit;
};

template <class T>
struct Centroids {
  Points<T> rows;
  const T* packed;     // by pack_centroids
  const T* half_norm;  // [rows + 64, infinite past the end] (1/2 - rounding) |packed|^2, by place: see `rounding`
  // |score - exact score| <= rounding (|x|^2 + |c|^2) for the score x.c - |c|^2 / 2. With the centroid's part of the bound
  // added through half_norm, a centroid far away does not make every point look undecided.
  T rounding;
};

// What is known of points in an order in which those of a cluster lie side by side, so that a panel's points want the same
// centroids, which are packed in an order of their own, near ones side by side. Distances are in packed coordinates. A
// group is the centroids of one tile. "Others" are a group's centroids but the point's own.
template <class T>
struct Bounds {
  const T* packed;            // by pack_points with `order`
  const std::int32_t* order;  // [n] the point at each place
  T* upper;                   // [n] at least the distance to the point's own centroid
  // By panel, group, place in the panel: a lower bound of the distance to the nearest other of the group, plus how far
  // the group had moved by then. A group moves, in each round, as far as the one of its centroids that moves most.
  T* lower;
  std::int32_t* label;           // [n] by place
  const std::int32_t* centroid;  // [k] the one at each place
  const std::int32_t* place_of;  // [k] its inverse
  const T* shift;                // [k] how far each centroid has moved since the last call
  const T* moved;                // [groups] how far each group has moved in all
};

constexpr std::int64_t kSumFeatures = 128;  // of one task of `accumulate`

template <class T>
struct KmeansKernels {
  // Values that `rows` points (centroids) take when they are packed.
  std::int64_t (*points_size)(std::int64_t rows, std::int64_t cols);
  std::int64_t (*centroids_size)(std::int64_t rows, std::int64_t cols);
  // Values of Bounds::lower, and centroids of a group.
  std::int64_t (*bounds_size)(std::int64_t rows, std::int64_t centroids);
  std::int64_t group;
  // Rows [begin, end) into their place; begin is a multiple of 32 (of 12). `order` names the row at each place, if it is given.
  void (*pack_points)(const Points<T>& points, const std::int32_t* order, std::int64_t begin, std::int64_t end,
                      T* packed);
  void (*pack_centroids)(const Points<T>& rows, const std::int32_t* order, std::int64_t begin, std::int64_t end,
                         T* packed);
  // labels[0 ..] of rows [begin, end), begin a multiple of 32. `packed` holds the points, or is null: then each panel is packed
  // into `scratch`, of points_size(32, cols) values.
  void (*assign)(const Points<T>& points, const T* packed, const Centroids<T>& centroids, std::int64_t begin,
                 std::int64_t end, T* scratch, std::int32_t* labels);
  // The same labels for places [begin, end), begin a multiple of 32, by the triangle inequality: groups whose others are all
  // farther than a point's own centroid are not looked at.
  void (*assign_bounded)(const Points<T>& points, const Bounds<T>& bounds, const Centroids<T>& centroids,
                         std::int64_t begin, std::int64_t end);
  // squared[0 ..] = |x_i - c|^2 in float64 from the rows [begin, end) as given, c the centroid of the point's label.
  void (*distances)(const Points<T>& points, const Centroids<T>& centroids, const std::int32_t* labels,
                    std::int64_t begin, std::int64_t end, double* squared);
  // sum[f] += w_i x_i[f] for every member i, -= for a member ~i; features [first, first + features) of at most kSumFeatures.
  // weights may be null.
  void (*accumulate)(const Points<T>& points, const double* weights, const std::int32_t* members, std::int64_t count,
                     std::int64_t first, std::int64_t features, double* sum);
};

GRAMIAN_DECLARE_KERNELS(KmeansKernels<float>, kmeans_f32)
GRAMIAN_DECLARE_KERNELS(KmeansKernels<double>, kmeans_f64)

}  // namespace gramian
