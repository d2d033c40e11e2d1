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
  double* squared;        // [n] to the point's own centre
  std::int64_t* offsets;  // [k + 1] where the clusters begin in the order by label
  double *head, *tail;    // [chunks, d + 2] of clusters that began in an earlier chunk, or go on in a later one
  double *partial, *number;
  double* mean;  // [d]
  void* moments;
  std::int64_t bytes;

  ClusterMemory(const ClusterProblem& problem, void* memory);
};

// What centres are made of, and a word for the host. [k, d + 2]: of each cluster the sum of its points, of their weights, and how many have
// weight; and behind them how many points moved.
inline std::int64_t totals_size(const ClusterProblem& problem) { return problem.k * (problem.x.cols + 2) + 1; }

// memory.mean of the points.
void find_mean(const ClusterProblem& problem, const ClusterMemory& memory, Stream stream);
// The sum of the squared distances from memory.mean. Waits for the device.
double spread(const ClusterProblem& problem, const ClusterMemory& memory, Stream stream);

// Totals from `labels` and `order`, which sorts them; moved are those that differ from the labels `before`.
void sum_clusters(const ClusterProblem& problem, const ClusterMemory& memory, const std::int64_t* labels,
                  const std::int64_t* before, const std::int64_t* order, double* totals, Stream stream);

struct Changes {
  double moved;
  unsigned long long empty;  // clusters
};
// What the totals say, which may be those of several processes. Waits for the device.
Changes look_at(const ClusterProblem& problem, const ClusterMemory& memory, const double* totals, Stream stream);

// memory.squared; returns the sum by weight. Waits for the device.
double inertia(const ClusterProblem& problem, const ClusterMemory& memory, const std::int64_t* labels,
               const void* centers, Stream stream);

// row [d] of a point; zeros for -1.
void copy_row(const ClusterProblem& problem, std::int64_t point, double* row, Stream stream);
// The empty cluster `to` takes the point of that row from `from`.
void relocate(const ClusterProblem& problem, const double* row, double weight, std::int64_t from, std::int64_t to,
              double* totals, Stream stream);

// Centres from totals; a cluster without points keeps its own. Returns the sum of the squared distances they moved, if it is
// wanted: then it waits for the device.
double move_centers(const ClusterProblem& problem, const ClusterMemory& memory, const double* totals, bool spherical,
                    bool wanted, void* centers, Stream stream);

}  // namespace gramian::cuda
