// The CUDA kernels of kernel_sum and ndft.
#pragma once
#include "core/device.h"
#include "core/rows.h"
#include "spectra/pair_sum_kernel.h"

namespace gramian::cuda {

struct PairSumArguments {
  Rows x, y, values;
  Profile profile;
  bool slope;
};

// Bytes of device memory that the sum works in.
std::int64_t pair_sum_bytes(const PairSumArguments& arguments);
// out [outputs, n, c] of the arguments' type.
void pair_sum(const PairSumArguments& arguments, void* memory, void* out, Stream stream);

}  // namespace gramian::cuda
