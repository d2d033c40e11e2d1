// A matrix as a kernel sees it: rows of features, in place, with any strides.
#pragma once
#include <cstdint>

namespace gramian {

enum class Element : int { f32, f64, bf16, f16 };

struct Axis {
  std::int64_t size = 1, stride = 0;
};

struct Rows {
  const void* data;
  std::int64_t rows, cols;
  std::int64_t row_stride, col_stride;  // in elements
  Element element;
  // Rows and features may be nested, so that a tensor of more axes is read in place: row r is (r / (middle * inner),
  // r / inner % middle, r % inner), and feature k is (k / part, k % part). A plain matrix leaves these alone.
  Axis middle = {}, inner = {};
  std::int64_t part = 0, part_stride = 0;  // 0: all features are one part
};

}  // namespace gramian
