// Packing on the device: rows of any stride and element type into panels of the compute type, so that the tiles' copies are
// aligned, contiguous and never out of bounds. Element (k, r) of panel p is packed[(p * depth + k) * kTile + r]; rows past the
// end and features past the last are zero.
#pragma once
#include "core/device.cuh"
#include "core/rows.h"
#include "core/walk.cuh"

namespace gramian::cuda {

template <class T>
constexpr int kTile = 512 / static_cast<int>(sizeof(T));  // rows of a panel, and of a tile: 128 f32, 64 f64
constexpr int kSlab = 16;                                 // features that are copied at once

GRAMIAN_BOTH std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

template <class T>
struct Packed {
  const T* values;
  std::int64_t rows, depth;  // as given, and rounded up to whole slabs

  GRAMIAN_BOTH std::int64_t panels() const { return (rows + kTile<T> - 1) / kTile<T>; }
  GRAMIAN_BOTH const T* panel(std::int64_t p) const { return values + p * depth * kTile<T>; }
};

inline std::int64_t packed_depth(std::int64_t cols) { return round_up(cols, kSlab); }

template <class T>
std::int64_t packed_bytes(std::int64_t rows, std::int64_t cols) {
  return round_up(rows, kTile<T>) * packed_depth(cols) * static_cast<std::int64_t>(sizeof(T));
}

// What is done to a value while it is packed: (x - shift[k]) * scale[row], null meaning none, and rounded to TF32.
template <class T>
struct Affine {
  const T* shift = nullptr;
  const T* scale = nullptr;
  bool tf32 = false;
};

// Which rows stand in the panels: of each group of `of` rows those from `first` on, `size` of them, `per_panel` groups
// in a panel. Larger groups than a panel take whole panels of their own. By default every row is a group.
template <class T>
struct Groups {
  std::int64_t size = 1, of = 1, first = 0, per_panel = kTile<T>;

  // As many of a panel as fit.
  static Groups together(std::int64_t size) { return {size, size, 0, size < kTile<T> ? kTile<T> / size : 1}; }

  GRAMIAN_BOTH std::int64_t panels_each() const { return (size + kTile<T> - 1) / kTile<T>; }
  GRAMIAN_BOTH std::int64_t panels(std::int64_t groups) const {
    return (groups + per_panel - 1) / per_panel * panels_each();
  }
  // The source's row at row r of a panel, or -1.
  GRAMIAN_BOTH std::int64_t source(std::int64_t panel, int r) const {
    const std::int64_t each = panels_each(), within = panel % each * kTile<T> + r, member = within / size;
    if (member >= per_panel) return -1;
    return (panel / each * per_panel + member) * of + first + within % size;
  }
};

template <class To, class From>
GRAMIAN_BOTH To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof result);
  return result;
}

GRAMIAN_BOTH float float_from_half(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7FFFU, sign = (half & 0x8000U) << 16;
  if (magnitude >= 0x7C00U) return bits_of<float>(sign | 0x7F800000U | magnitude << 13);
  return bits_of<float>(sign | bits_of<std::uint32_t>(bits_of<float>(magnitude << 13) * 0x1p112F));
}

// To 11 significant bits, of two equally near the even one.
GRAMIAN_BOTH float rounded_to_tf32(float value) {
  const std::uint32_t bits = bits_of<std::uint32_t>(value);
  if ((bits & 0x7F800000U) == 0x7F800000U) return value;
  return bits_of<float>((bits + 0xFFFU + (bits >> 13 & 1U)) & ~0x1FFFU);
}
GRAMIAN_BOTH double rounded_to_tf32(double value) { return value; }

template <class T>
GRAMIAN_BOTH T convert(const Rows& source, std::int64_t at) {
  switch (source.element) {
    case Element::f32: return static_cast<T>(static_cast<const float*>(source.data)[at]);
    case Element::f64: return static_cast<T>(static_cast<const double*>(source.data)[at]);
    case Element::f16: return static_cast<T>(float_from_half(static_cast<const std::uint16_t*>(source.data)[at]));
    default:
      return static_cast<T>(
          bits_of<float>(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(source.data)[at]) << 16));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(Rows source, Groups<T> groups, Affine<T> affine, std::int64_t depth, T* packed) {
  constexpr int kRows = kTile<T>, kStride = kRows + 1;
  __shared__ T staged[kSlab * kStride];
  const std::int64_t slabs = depth / kSlab;
  const std::int64_t panel = blockIdx.x / slabs, first = blockIdx.x % slabs * kSlab;
  // Neighbouring threads read neighbouring values, whichever axis those lie along.
  const bool by_row = source.col_stride != 1 && source.row_stride == 1;
  for (int e = static_cast<int>(threadIdx.x); e < kSlab * kRows; e += kThreads) {
    const int k = by_row ? e / kRows : e % kSlab, r = by_row ? e % kRows : e / kSlab;
    const std::int64_t row = groups.source(panel, r), feature = first + k;
    T value = 0;
    if (row >= 0 && row < source.rows && feature < source.cols) {
      value = convert<T>(source, row_offset(source, row) + feature_offset(source, feature));
      if (affine.shift != nullptr) value -= affine.shift[feature];
      if (affine.scale != nullptr) value *= affine.scale[row];
      if (affine.tf32) value = rounded_to_tf32(value);
    }
    staged[k * kStride + r] = value;
  }
  __syncthreads();
  T* const to = packed + (panel * depth + first) * kRows;  // panel, then feature
  for (int e = static_cast<int>(threadIdx.x); e < kSlab * kRows; e += kThreads)
    to[e] = staged[e / kRows * kStride + e % kRows];
}

// `memory` holds packed_bytes. The result's rows are those of whole panels where the groups leave gaps.
template <class T>
Packed<T> pack(const Rows& source, const Affine<T>& affine, void* memory, Stream stream, const Groups<T>& groups = {}) {
  const bool gaps = groups.per_panel * groups.size != kTile<T> || groups.of != groups.size;
  const std::int64_t rows = gaps ? groups.panels(source.rows / groups.of) * kTile<T> : source.rows;
  const Packed<T> packed{static_cast<const T*>(memory), rows, packed_depth(source.cols)};
  launch(pack_kernel<T>, grid_of_blocks(packed.panels() * (packed.depth / kSlab)), 0, stream, source, groups, affine,
         packed.depth, static_cast<T*>(memory));
  return packed;
}

// The same in memory of the walk's.
template <class T>
Packed<T> pack(Walk& walk, const Rows& source, const Affine<T>& affine = {}, const Groups<T>& groups = {}) {
  T* const memory = walk.take<T>(groups.panels(source.rows / groups.of) * kTile<T> * packed_depth(source.cols));
  if (walk.counting()) return {nullptr, source.rows, packed_depth(source.cols)};
  return pack(source, affine, memory, walk.stream(), groups);
}

}  // namespace gramian::cuda
