// The CUDA kernels of knn.
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
};

// Bytes of device memory that the search works in.
std::int64_t knn_bytes(const KnnArguments& arguments);
// distances [n, k] of the compute type and indices [n, k]. Waits for the device, because rows that are not finite are refused.
void knn(const KnnArguments& arguments, void* memory, void* distances, std::int64_t* indices, Stream stream);

}  // namespace gramian::cuda
