// The CUDA kernels of knn and knn_pass.
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
  const bool* train = nullptr;  // [n] of knn_pass: the rows that others may learn from
};

// Bytes of device memory that the search works in.
std::int64_t knn_bytes(const KnnArguments& arguments);
// distances [n, k] of the compute type and indices [n, k]. Waits for the device, because rows that are not finite are refused.
void knn(const KnnArguments& arguments, void* memory, void* distances, std::int64_t* indices, Stream stream);

// The same in one sweep for three lists of each row of x: the nearest of all others, of those before it, and, for rows that are
// not in `train`, of those that are; the last two results may be null.
std::int64_t knn_pass_bytes(const KnnArguments& arguments);
void knn_pass(const KnnArguments& arguments, void* memory, void* const* distances, std::int64_t* const* indices,
              Stream stream);

}  // namespace gramian::cuda
