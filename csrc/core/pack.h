// Packing: rows of any stride and element type into panels (tile.h) of the compute type. Per-level code (see lanes.h).
//
// A packed block is cut into slabs of kSlab features, so that the panels of one slab stay in the first caches; within a
// slab, panel after panel. Rows past the end are zero: the tile never looks at sizes.
#pragma once
#include "core/lanes.h"
#include "core/rows.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
constexpr std::int64_t kSlab = 2048 / sizeof(T);  // 512 f32: a column panel of a slab is 64 KiB, a row panel 24

GRAMIAN_INLINE std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// What is done to a value while it is packed: (x - shift[k]) * scale[row]; null means none.
template <class T>
struct Affine {
  const T* shift = nullptr;
  const T* scale = nullptr;
};

template <class T>
constexpr Element kOwn = sizeof(T) == 4 ? Element::f32 : Element::f64;

#ifdef __aarch64__
using Half = __fp16;  // before GCC 13, C++ has no _Float16 there
#else
using Half = _Float16;
#endif

template <class T>
GRAMIAN_INLINE T convert(const Rows& source, std::int64_t at) {
  switch (source.element) {
    case Element::f32: return static_cast<T>(static_cast<const float*>(source.data)[at]);
    case Element::f64: return static_cast<T>(static_cast<const double*>(source.data)[at]);
    case Element::f16: return static_cast<T>(static_cast<const Half*>(source.data)[at]);
    default: {
      const std::uint32_t word = static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(source.data)[at]) << 16;
      float value;
      __builtin_memcpy(&value, &word, sizeof value);
      return static_cast<T>(value);
    }
  }
}

// `count` values of a row from offset `at` on; lanes past them are zero.
template <class T>
GRAMIAN_INLINE Vec<T> load_at(const Rows& source, std::int64_t at, int count) {
  if (source.element == kOwn<T> && source.col_stride == 1 && count == kLanes<T>)
    return load(static_cast<const T*>(source.data) + at);
  T lane[kLanes<T>] = {};
  for (int l = 0; l < count; ++l) lane[l] = convert<T>(source, at + l * source.col_stride);
  return load(lane);
}

// Features [first, first + count) of one row, all of one part.
template <class T>
GRAMIAN_INLINE Vec<T> load_features(const Rows& source, std::int64_t row, std::int64_t first, int count) {
  return load_at<T>(source, row_offset(source, row) + feature_offset(source, first), count);
}

// Exchanges what lies kApart off the diagonal in squares of 2 kApart vectors. kApart is no loop's variable: the compiler would
// build the masks at run time, a dozen instructions for each exchange.
template <class T, int kApart>
GRAMIAN_INLINE void exchange(Vec<T> (&v)[kLanes<T>]) {
  constexpr int kN = kLanes<T>;
  IntVec<T> take_low, take_high;
#pragma GCC unroll 16
  for (int l = 0; l < kN; ++l) {
    take_low[l] = l & kApart ? kN + l - kApart : l;
    take_high[l] = l & kApart ? kN + l : l + kApart;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r)
    if (!(r & kApart)) {
      const Vec<T> low = __builtin_shuffle(v[r], v[r + kApart], take_low);
      v[r + kApart] = __builtin_shuffle(v[r], v[r + kApart], take_high);
      v[r] = low;
    }
}

// Transposes a square of kLanes vectors in log2(kLanes) rounds of exchanging single entries, pairs, ..
template <class T>
GRAMIAN_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  exchange<T, 1>(v);
  if constexpr (kLanes<T> > 2) exchange<T, 2>(v);
  if constexpr (kLanes<T> > 4) exchange<T, 4>(v);
  if constexpr (kLanes<T> > 8) exchange<T, 8>(v);
}

// Rows [row, row + rows), or those that `order` names at these places, x features [first, first + depth), all of one part, into
// one panel of kWidth rows.
template <class T, int kWidth>
void pack_panel(const Rows& source, std::int64_t row, int rows, std::int64_t first, std::int64_t depth,
                const Affine<T>& affine, T* panel, const std::int32_t* order = nullptr) {
  constexpr int kN = kLanes<T>;
  std::int64_t offset[kWidth];
  bool adjacent = rows == kWidth && source.element == kOwn<T> && affine.shift == nullptr && affine.scale == nullptr;
  for (int r = 0; r < rows; ++r) {
    offset[r] = row_offset(source, order == nullptr ? row + r : order[row + r]) + feature_offset(source, first);
    adjacent &= offset[r] == offset[0] + r;
  }
  if (adjacent) {  // a transposed matrix lies in memory as its panel does
    const T* from = static_cast<const T*>(source.data) + offset[0];
    for (std::int64_t k = 0; k < depth; ++k)
      __builtin_memcpy(panel + k * kWidth, from + k * source.col_stride, kWidth * sizeof(T));
    return;
  }
  for (std::int64_t k = 0; k < depth; k += kN) {
    const int features = depth - k < kN ? static_cast<int>(depth - k) : kN;
    Vec<T> shift = {};
    if (affine.shift != nullptr) {
      const Rows shifts{affine.shift, 1, source.cols, 0, 1, kOwn<T>};
      shift = load_features<T>(shifts, 0, first + k, features);
    }
#pragma GCC unroll 2
    for (int w = 0; w < kWidth; w += kN) {
      Vec<T> square[kN];
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) {
        square[r] = Vec<T>{};
        if (w + r < kWidth && w + r < rows) {
          square[r] = load_at<T>(source, offset[w + r] + k * source.col_stride, features) - shift;
          if (affine.scale != nullptr) square[r] *= affine.scale[order == nullptr ? row + w + r : order[row + w + r]];
        }
      }
      transpose<T>(square);
      const int width = kWidth - w < kN ? kWidth - w : kN;
#pragma GCC unroll 16
      for (int f = 0; f < kN; ++f)
        if (f < features) __builtin_memcpy(panel + (k + f) * kWidth + w, &square[f], width * sizeof(T));
    }
  }
}

// Values that pack_block writes: whole panels, all features.
template <class T, int kWidth>
GRAMIAN_INLINE std::int64_t packed_size(std::int64_t rows, std::int64_t depth) {
  return round_up(rows, kWidth) * depth;
}

template <class T, int kWidth>
void pack_block(const Rows& source, std::int64_t row, std::int64_t rows, const Affine<T>& affine, T* packed) {
  const std::int64_t part = source.part == 0 ? source.cols : source.part;
  for (std::int64_t first = 0; first < source.cols; first += kSlab<T>) {
    const std::int64_t end = source.cols - first < kSlab<T> ? source.cols : first + kSlab<T>;
    for (std::int64_t r = 0; r < rows; r += kWidth) {
      const int in_panel = rows - r < kWidth ? static_cast<int>(rows - r) : kWidth;
      for (std::int64_t k = first; k < end;) {
        const std::int64_t left = part - k % part, depth = end - k < left ? end - k : left;
        pack_panel<T, kWidth>(source, row + r, in_panel, k, depth, affine, packed);
        packed += depth * kWidth;
        k += depth;
      }
    }
  }
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
