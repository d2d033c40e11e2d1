// The CUDA kernels of kmeans_plus_plus.
#pragma once
#include <cstdint>

#include "core/device.h"
#include "core/rows.h"

namespace gramian::cuda {

struct DrawArguments {
  Rows x;
  const double* weights;   // [n] or null
  const double* uniforms;  // [k, trials]
  std::int64_t k, trials;
};

std::int64_t kmeans_plus_plus_bytes(const DrawArguments& arguments);
// indices [k]. Waits for the device once, because rows that are not finite are refused.
void kmeans_plus_plus(const DrawArguments& arguments, void* memory, std::int64_t* indices, Stream stream);

}  // namespace gramian::cuda
