// What kernel_sum and ndft do on CUDA once their arguments are checked.
#pragma once
#include "core/cuda.h"
#include "spectra/pair_sum.h"
#include "spectra/pair_sum_cuda.h"

namespace gramian {

inline Tensor pair_sum_on_device(const char* op, const Tensor& x, const Tensor& y, const Tensor& values,
                                 Profile profile, bool slope) {
  const cuda::OnDevice device(x);
  Tensor out = empty_pair_sum(x, values, profile);
  if (out.numel() == 0 || y.size(0) == 0) return out;
  const Element element = element_of(op, "x", x, false);
  const cuda::PairSumArguments arguments{rows_of(x, element), rows_of(y, element), rows_of(values, element), profile,
                                         slope};
  const Tensor memory = cuda::device_memory(op, x, cuda::pair_sum_bytes(arguments));
  cuda::pair_sum(arguments, memory.mutable_data_ptr(), out.mutable_data_ptr(), device.stream);
  return out;
}

}  // namespace gramian
