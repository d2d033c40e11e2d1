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

// Internal linkage and always inlined: a symbol shared between instruction sets could carry AVX-512 into the baseline.
#if defined(__CUDACC__)
#define GRAMIAN_ROWS_INLINE __host__ __device__ __forceinline__
#else
#define GRAMIAN_ROWS_INLINE static inline __attribute__((always_inline))
#endif

GRAMIAN_ROWS_INLINE std::int64_t row_offset(const Rows& source, std::int64_t row) {
  const std::int64_t nested = source.middle.size * source.inner.size;
  if (nested == 1) return row * source.row_stride;
  const std::int64_t within = row % nested;
  return row / nested * source.row_stride + within / source.inner.size * source.middle.stride +
         within % source.inner.size * source.inner.stride;
}

GRAMIAN_ROWS_INLINE std::int64_t feature_offset(const Rows& source, std::int64_t feature) {
  if (source.part == 0) return feature * source.col_stride;
  return feature / source.part * source.part_stride + feature % source.part * source.col_stride;
}

}  // namespace gramian
