// The CUDA kernels of linear_gram and layers_gram_.
#pragma once
#include <vector>

#include "core/device.h"
#include "ntk/linear_gram_kernel.h"

namespace gramian::cuda {

// Bytes of device memory that the sum works in.
std::int64_t layers_gram_bytes(const std::vector<Layer>& layers, const KernelMatrix& k, bool wide);
// K (+)= the sum of the layers' Grams, in float64 or float32.
void layers_gram(const std::vector<Layer>& layers, const KernelMatrix& k, bool wide, void* memory, Stream stream);

}  // namespace gramian::cuda
