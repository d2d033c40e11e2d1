// The CUDA kernels of count_within.
#pragma once
#include "core/device.h"
#include "core/rows.h"
#include "neighbors/pairs.h"

namespace gramian::cuda {

struct CountArguments {
  Rows x, y;
  Metric metric;
  bool self, exclude_self;
  const void* radius;  // [n] of the compute type
};

// Bytes of device memory that the count works in.
std::int64_t count_within_bytes(const CountArguments& arguments);
// counts [n]. Rows that are not finite and radii that are no numbers are refused, for which the host waits for the device before the
// sweep; while a CUDA graph is captured they give counts of -1 instead.
void count_within(const CountArguments& arguments, void* memory, std::int64_t* counts, Stream stream);

}  // namespace gramian::cuda
