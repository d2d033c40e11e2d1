// The CUDA kernels of gram_square_sum.
#pragma once
#include "core/device.h"
#include "core/rows.h"

namespace gramian::cuda {

// Bytes of device memory that the sum works in.
std::int64_t gram_square_sum_bytes(const Rows& x, const Rows& y);
// total = |X Yᵀ|_F^2, one value of the compute type on the device.
void gram_square_sum(const Rows& x, const Rows& y, void* memory, void* total, Stream stream);

}  // namespace gramian::cuda
