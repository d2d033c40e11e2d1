// The CUDA kernels of infonce.
#pragma once
#include "core/device.h"
#include "core/rows.h"

namespace gramian::cuda {

struct InfonceArguments {
  Rows f, g;                      // contiguous
  void *value, *grad_f, *grad_g;  // gradients may be null
};

std::int64_t infonce_bytes(const InfonceArguments& arguments);
void infonce(const InfonceArguments& arguments, void* memory, Stream stream);

}  // namespace gramian::cuda
