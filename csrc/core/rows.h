// A matrix as a kernel sees it: rows of features, in place, with any strides.
#pragma once
#include <cstdint>

namespace gramian {

enum class Element : int { f32, f64, bf16, f16 };

struct Rows {
  const void* data;
  std::int64_t rows, cols;
  std::int64_t row_stride, col_stride;  // in elements
  Element element;
};

}  // namespace gramian
