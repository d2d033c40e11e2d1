// Points and centroids as the ops around K-means hold them: measured, and packed in common coordinates.
#pragma once
#include <limits>
#include <optional>
#include <vector>

#include "core/group.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"
#include "neighbors/kmeans_kernel.h"
#include "neighbors/moments.h"

namespace gramian {

template <class T>
const KmeansKernels<T>& kmeans_kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(kmeans_f32);
  else
    return GRAMIAN_KERNELS(kmeans_f64);
}

// The tensor itself, or a copy where its dtype or its last axis is not what the kernels read.
inline Tensor readable(const Tensor& t, ScalarType dtype) {
  const Tensor typed = t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  const std::int64_t last = typed.dim() - 1;
  return typed.stride(last) == 1 || typed.size(last) == 1 ? typed : torch::stable::contiguous(typed);
}

// Coordinates in which squares neither overflow nor cancel against a common offset: (x - shift) * unit.
template <class T>
struct Frame {
  std::vector<T> shift, scale;
  double unit;

  Frame(const Means& points, double largest, std::int64_t cols, std::int64_t most_rows)
      : shift(points.mean.begin(), points.mean.end()), unit(unit_of<T>(std::max(points.largest, largest), cols)) {
    scale.assign(static_cast<std::size_t>(most_rows), static_cast<T>(unit));
  }
};

// Rows in a frame, and their norms. The frame and the rows must outlive it.
template <class T>
class PointSet {
 public:
  PointSet(const Frame<T>& frame, const T* data, std::int64_t rows, std::int64_t row_stride)
      : norm_(static_cast<std::size_t>(rows + kPadding)),
        points_{data,
                rows,
                static_cast<std::int64_t>(frame.shift.size()),
                row_stride,
                frame.shift.data(),
                frame.scale.data(),
                norm_.data(),
                frame.unit} {
    run_pieces(rows, kStatBlock, [&](std::int64_t begin, std::int64_t end, std::int64_t) { measure(begin, end); });
  }
  PointSet(const PointSet&) = delete;
  PointSet& operator=(const PointSet&) = delete;

  void measure(std::int64_t begin, std::int64_t end) {
    const Rows all{
        points_.data, points_.rows, points_.cols, points_.row_stride, 1, sizeof(T) == 4 ? Element::f32 : Element::f64};
    double norm[kStatBlock];
    for (std::int64_t block = begin; block < end; block += kStatBlock) {
      const std::int64_t block_end = std::min(end, block + kStatBlock);
      GRAMIAN_KERNELS(moments).squared_norms(all, block, block_end, points_.shift, points_.unit, norm - block);
      for (std::int64_t i = block; i < block_end; ++i)
        norm_[static_cast<std::size_t>(i)] = static_cast<T>(norm[i - block]);
    }
  }

  const Points<T>& points() const { return points_; }

 private:
  std::vector<T> norm_;
  Points<T> points_;
};

// Centroids that a kernel can score against.
template <class T>
class CentroidSet {
 public:
  static constexpr std::int64_t kPack = 12;  // rows packed together: a multiple of every level's tile rows

  CentroidSet(const Frame<T>& frame, const T* data, std::int64_t rows)
      : set_(frame, data, rows, static_cast<std::int64_t>(frame.shift.size())),
        half_norm_(static_cast<std::size_t>(rows + kPadding), std::numeric_limits<T>::infinity()),
        packed_(static_cast<std::size_t>(kmeans_kernels<T>().centroids_size(rows, set_.points().cols))) {
    // d products and sums, each rounded against |x||c| <= (|x|^2 + |c|^2) / 2; a few more in packing, norms and the
    // result. Where the exact distance has the same precision, its own d roundings come on top.
    const double d = static_cast<double>(set_.points().cols);
    rounding_ = static_cast<T>((0.3 * d + 5) * (sizeof(T) == 4 ? 1 : 3) * std::numeric_limits<T>::epsilon());
    run_pieces(rows, kPack, [&](std::int64_t begin, std::int64_t end, std::int64_t) { pack(begin, end); });
  }

  // After the rows at places [begin, end) have changed, begin a multiple of kPack. `order` names the row at each place, if it is
  // given.
  void pack(std::int64_t begin, std::int64_t end, const std::int32_t* order = nullptr) {
    for (std::int64_t place = begin; place < end; ++place) {
      const std::int64_t j = order == nullptr ? place : order[place];
      set_.measure(j, j + 1);
      half_norm_[static_cast<std::size_t>(place)] = (T{0.5} - rounding_) * set_.points().norm[j];
    }
    kmeans_kernels<T>().pack_centroids(set_.points(), order, begin, end, packed_.data());
  }

  Centroids<T> centroids() const { return {set_.points(), packed_.data(), half_norm_.data(), rounding_}; }

 private:
  PointSet<T> set_;
  std::vector<T> half_norm_, packed_;
  T rounding_;
};

constexpr std::int64_t kAssignPoints = 256;  // that a worker takes at a time; a multiple of every level's panel

// What kmeans and kmeans_plus_plus ask of x.
inline void check_points(const char* op, const Tensor& x) {
  if (x.dim() != 2) refuse(op, ": x must be [n, d], got shape ", shape_text(x));
  if (x.size(0) > std::numeric_limits<std::int32_t>::max())
    refuse(op, ": x must have fewer than 2^31 rows, got ", x.size(0));
}

// What all ask of the centres, whose sizes are known to fit.
inline void check_centers(const char* op, const Tensor& x, const char* name, const Tensor& centers) {
  const ScalarType dtype = compute_dtype(element_of(op, "x", x));
  const std::int64_t k = centers.size(centers.dim() - 2);
  if (k < 1 || k > std::numeric_limits<std::int32_t>::max())
    refuse(op, ": ", name, " must have from 1 to 2^31 - 1 rows, got ", k);
  if (centers.device() != x.device()) refuse(op, ": ", name, " must be on the device of x");
  if (centers.scalar_type() != dtype)
    refuse(op, ": ", name, " must be ", dtype_text(dtype), " for x of ", dtype_text(x.scalar_type()), ", got ",
           dtype_text(centers.scalar_type()));
}

inline void check_weights(const char* op, const Tensor& x, const Tensor& weights) {
  if (weights.dim() != 1 || weights.size(0) != x.size(0))
    refuse(op, ": weights must be [n] with n = ", x.size(0), " like x, got shape ", shape_text(weights));
  if (weights.scalar_type() != ScalarType::Double)
    refuse(op, ": weights must be float64, got ", dtype_text(weights.scalar_type()));
  if (weights.device() != x.device()) refuse(op, ": weights must be on the device of x");
}

// `weight` [n], on the host; `group` has the others, if there are any.
inline void check_weight_values(const char* op, const double* weight, std::int64_t n, const Group* group = nullptr) {
  double total = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (!(weight[i] >= 0) || !std::isfinite(weight[i]))
      refuse(op, ": weights must be finite and not negative, got ", weight[i], " for row ", i);
    total += weight[i];
  }
  if (group != nullptr) total = group->sum(total);
  if (!(total > 0) || !std::isfinite(total)) refuse(op, ": weights must have a positive sum, got ", total);
}

// Weights of the points, checked; none means one each.
class PointWeights {
 public:
  PointWeights(const char* op, const Tensor& x, const std::optional<Tensor>& given, const Group* group = nullptr) {
    if (!given.has_value()) return;
    check_weights(op, x, *given);
    kept_ = torch::stable::contiguous(*given);
    check_weight_values(op, data(), x.size(0), group);
  }

  const double* data() const { return kept_ ? static_cast<const double*>(kept_->const_data_ptr()) : nullptr; }

 private:
  std::optional<Tensor> kept_;
};

}  // namespace gramian
