// The CUDA kernels of weight4 and its gradient.
#pragma once
#include "core/device.h"
#include "simplex/weight4_kernel.h"

namespace gramian::cuda {

void weight4(const Weight4Problem& problem, std::int64_t n, Stream stream);
void weight4_backward(const Weight4Problem& problem, std::int64_t n, Stream stream);

}  // namespace gramian::cuda
