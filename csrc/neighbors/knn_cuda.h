// The CUDA kernels of knn, knn_pass, knn_both and knn_merge.
#pragma once
#include "core/device.h"
#include "core/rows.h"
#include "neighbors/pairs.h"

namespace gramian::cuda {

// One search of the rows of x among those of y, which are x itself where `self` is set.
struct KnnArguments {
  const char *op, *x_name, *y_name;  // for refusals
  Rows x, y;
  Metric metric;
  bool self, exclude_self, causal;
  std::int64_t k;
  const bool* train = nullptr;                        // [n] of knn_pass: the rows that others may learn from
  const void *x_reach = nullptr, *y_reach = nullptr;  // of knn_both, or null: how far neighbours of a row may lie
  bool same_x =
      false;  // the last search in this memory had these rows, and y lies among them: they are not packed again
};

// Of each row distances [n, k] of the compute type and indices [n, k]. Rows that are not finite are refused, for which the host waits for
// the device before the sweep; while a CUDA graph is captured they give NaN and -1 instead. A walk from null memory counts its bytes.

// The nearest rows of y.
std::int64_t knn(const KnnArguments& arguments, void* memory, void* distances, std::int64_t* indices, Stream stream);

// In one sweep three lists of each row of x: the nearest of all others, of those before it, and, for rows that are
// not in `train`, of those that are; the last two results may be null.
std::int64_t knn_pass(const KnnArguments& arguments, void* memory, void* const* distances, std::int64_t* const* indices,
                      Stream stream);

// The nearest rows of y for each row of x, and of x for each row of y: two sweeps over rows that are measured and packed once.
std::int64_t knn_both(const KnnArguments& arguments, void* memory, void* const* distances, std::int64_t* const* indices,
                      Stream stream);

// The first k entries of two sorted lists a row, [rows, n] and [rows, m], ties by the lower index.
template <class T>
struct NeighborLists {
  const T *distance_a, *distance_b;
  const std::int64_t *index_a, *index_b;
  std::int64_t rows, n, m, k;
  bool largest;  // first
};
template <class T>
void knn_merge(const NeighborLists<T>& lists, T* distances, std::int64_t* indices, Stream stream);

}  // namespace gramian::cuda
