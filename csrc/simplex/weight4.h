// What the two ops of the 4-simplex weight check and hand to the kernel.
#pragma once
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "simplex/weight4_kernel.h"

namespace gramian {

constexpr std::int64_t kSimplexGrain = 1024;  // simplices a worker takes at once: 160 KB in and out, about 30 us

inline void check_simplices(const char* op, const char* name, const Tensor& t, const Tensor& lengths) {
  if (t.scalar_type() != ScalarType::Double)
    refuse(op, ": ", name, " must be float64, got ", dtype_text(t.scalar_type()));
  if (t.device() != lengths.device()) refuse(op, ": ", name, " must be on the device of lengths");
}

// Lengths and labels are [..., 10] of the same shape, float64.
inline void check_weight4(const char* op, const Tensor& lengths, const Tensor& labels) {
  check_simplices(op, "lengths", lengths, lengths);
  if (lengths.dim() < 1 || lengths.size(lengths.dim() - 1) != kEdges4)
    refuse(op, ": lengths must be [..., 10], got shape ", shape_text(lengths));
  check_simplices(op, "labels", labels, lengths);
  if (shape_text(labels) != shape_text(lengths))
    refuse(op, ": labels must have the shape of lengths, ", shape_text(lengths), ", got ", shape_text(labels));
}

inline std::vector<std::int64_t> batch_shape(const Tensor& lengths) {
  std::vector<std::int64_t> shape;
  for (std::int64_t d = 0; d + 1 < lengths.dim(); ++d) shape.push_back(lengths.size(d));
  return shape;
}

}  // namespace gramian
