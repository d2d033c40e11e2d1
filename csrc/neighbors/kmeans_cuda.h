// The CUDA kernels of kmeans beside its search for the nearest centres: what centres are made of, and how they move.
#pragma once
#include <cstdint>

#include "core/device.h"
#include "core/rows.h"

namespace gramian::cuda {

// Points, in the type of the centres.
struct ClusterProblem {
  Rows x;
  const double* weights;  // [n] or null
  std::int64_t k;
};

// Device memory of a run, dealt out of one piece; a null piece gives its size.
struct ClusterMemory {
  // [k, d + 2]: of each cluster the sum of its points, of their weights, and how many have weight.
  double* totals;
  double* squared;        // [n] to the point's own centre
  std::int64_t* offsets;  // [k + 1] where the clusters begin in the order by label
  double *head, *tail;    // [chunks, d + 2] of clusters that began in an earlier chunk, or go on in a later one
  double *partial, *number;
  unsigned long long* counts;  // how many points moved, how many clusters are empty
  void* moments;               // measure_points
  std::int64_t bytes;

  ClusterMemory(const ClusterProblem& problem, void* memory);
};

// Mean over features of the variance of the points. Waits for the device.
double variance(const ClusterProblem& problem, const ClusterMemory& memory, Stream stream);

struct Changes {
  std::uint64_t moved, empty;
};
// Totals from `labels` and `order`, which sorts them; how many labels differ from those `before`. Waits for the device.
Changes sum_clusters(const ClusterProblem& problem, const ClusterMemory& memory, const std::int64_t* labels,
                     const std::int64_t* before, const std::int64_t* order, Stream stream);

// memory.squared; returns the sum by weight. Waits for the device.
double inertia(const ClusterProblem& problem, const ClusterMemory& memory, const std::int64_t* labels,
               const void* centers, Stream stream);

// The empty cluster `to` takes a point of `from`.
void relocate(const ClusterProblem& problem, const ClusterMemory& memory, std::int64_t point, double weight,
              std::int64_t from, std::int64_t to, Stream stream);

// Centres from totals; a cluster without points keeps its own. Returns the sum of the squared distances they moved, if it is
// wanted: then it waits for the device.
double move_centers(const ClusterProblem& problem, const ClusterMemory& memory, bool spherical, bool wanted,
                    void* centers, Stream stream);

}  // namespace gramian::cuda
