// The CUDA kernel of accumulate_.
#pragma once
#include "core/device.h"
#include "ensemble/accumulate_kernel.h"

namespace gramian::cuda {

// All of `points` points.
void accumulate(const AccumulateProblem<float>& problem, std::int64_t points, Stream stream);
void accumulate(const AccumulateProblem<double>& problem, std::int64_t points, Stream stream);

}  // namespace gramian::cuda
