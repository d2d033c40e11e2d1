// One step of greedy k-means++: what each candidate centre would leave of the distances.
#pragma once
#include <cstdint>

#include "neighbors/kmeans_kernel.h"

namespace gramian {

// All distances are squared, in the units of the packed rows.
template <class T>
struct Draw {
  const T* packed;   // the points, by KmeansKernels::pack_points
  const T* weights;  // [n] or null
  const T* closest;  // [n] to the nearest centre so far
  std::int64_t stride;
};

template <class T>
struct KmeansPlusPlusKernels {
  // For points [begin, end), begin a multiple of 32: distances[c * stride + i] to candidate c, at most closest[i], and
  // potentials[c] = sum over i of weight times that. Distances that cancel in the Gram form are computed from the rows.
  void (*try_candidates)(const Points<T>& points, const Draw<T>& draw, const Centroids<T>& candidates,
                         std::int64_t begin, std::int64_t end, T* distances, double* potentials);
};

GRAMIAN_DECLARE_KERNELS(KmeansPlusPlusKernels<float>, kmeans_plus_plus_f32)
GRAMIAN_DECLARE_KERNELS(KmeansPlusPlusKernels<double>, kmeans_plus_plus_f64)

}  // namespace gramian
