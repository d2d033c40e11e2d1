// Compiled once per instruction set; no standard library here (see lanes.h).
#include "neighbors/moments_kernel.h"

#include "core/pack.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
void accumulate_mean_of(const Rows& x, std::int64_t begin, std::int64_t end, double count, double* mean,
                        Moments* moments) {
  constexpr int kN = kLanes<T>;
  const double share = 1 / count;
  Vec<T> largest = {};
  for (std::int64_t i = begin; i < end; ++i) {
    Vec<T> not_finite = {};
    for (std::int64_t k = 0; k < x.cols; k += kN) {
      const int features = x.cols - k < kN ? static_cast<int>(x.cols - k) : kN;
      const Vec<T> v = load_features<T>(x, i, k, features);
      not_finite += v - v;  // 0, or NaN for a NaN and for an infinity
      const Vec<T> size = v < 0 ? -v : v;
      largest = size > largest ? size : largest;
      T lane[kN];
      store(lane, v);
      for (int l = 0; l < features; ++l) mean[k + l] += lane[l] * share;
    }
    if (moments->first_bad < 0 && sum<T>(not_finite) != 0) moments->first_bad = i;
  }
  for (int l = 0; l < kN; ++l)
    if (largest[l] > moments->largest) moments->largest = largest[l];
}

template <class T>
void squared_norms_of(const Rows& x, std::int64_t begin, std::int64_t end, const T* shift, double scale,
                      double* squared_norm) {
  constexpr int kN = kLanes<T>;
  for (std::int64_t i = begin; i < end; ++i) {
    double lane_sum[kN] = {};
    for (std::int64_t k = 0; k < x.cols; k += kN) {
      const int features = x.cols - k < kN ? static_cast<int>(x.cols - k) : kN;
      T lane[kN], centre[kN] = {};
      store(lane, load_features<T>(x, i, k, features));
      if (shift != nullptr) __builtin_memcpy(centre, shift + k, static_cast<unsigned long>(features) * sizeof(T));
      for (int l = 0; l < kN; ++l) {
        const double v = static_cast<T>(lane[l] - centre[l]) * scale;
        lane_sum[l] += v * v;
      }
    }
    double total = 0;
    for (int l = 0; l < kN; ++l) total += lane_sum[l];
    squared_norm[i] = total;
  }
}

void accumulate_mean(const Rows& x, std::int64_t begin, std::int64_t end, double count, double* mean,
                     Moments* moments) {
  if (x.element == Element::f64)
    accumulate_mean_of<double>(x, begin, end, count, mean, moments);
  else
    accumulate_mean_of<float>(x, begin, end, count, mean, moments);
}

void squared_norms(const Rows& x, std::int64_t begin, std::int64_t end, const void* shift, double scale,
                   double* squared_norm) {
  if (x.element == Element::f64)
    squared_norms_of(x, begin, end, static_cast<const double*>(shift), scale, squared_norm);
  else
    squared_norms_of(x, begin, end, static_cast<const float*>(shift), scale, squared_norm);
}

}  // namespace

extern const MomentsKernels moments{accumulate_mean, squared_norms};

}  // namespace gramian::GRAMIAN_ISA
