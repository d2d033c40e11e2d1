// Pairs and what they point into: rows checked, measured and brought to coordinates where squares neither overflow nor
// cancel against a common offset.
#pragma once
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "neighbors/moments.h"
#include "neighbors/pairs.h"

namespace gramian {

inline Metric metric_from(const char* op, const std::string& name) {
  if (name == "euclidean") return Metric::euclidean;
  if (name == "sqeuclidean") return Metric::sqeuclidean;
  if (name == "cosine") return Metric::cosine;
  if (name == "ip") return Metric::ip;
  if (name == "chebyshev") return Metric::chebyshev;
  refuse(op, ": metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got ", name);
}

inline bool is_euclidean(Metric metric) { return metric == Metric::euclidean || metric == Metric::sqeuclidean; }

template <class T>
struct SideData {
  std::vector<T> scale, half_norm;
  std::vector<double> norm, size;
  double largest_norm = 0;

  SideData(const char* op, const char* name, const Rows& rows, Metric metric, const T* shift, double unit)
      : scale(static_cast<std::size_t>(rows.rows), static_cast<T>(unit)),
        half_norm(static_cast<std::size_t>(rows.rows + kPadding)),
        norm(static_cast<std::size_t>(rows.rows)) {
    if (metric == Metric::chebyshev) return;  // its scores are distances already
    run_pieces(rows.rows, kStatBlock, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      GRAMIAN_KERNELS(moments).squared_norms(rows, begin, end, shift, unit, norm.data());
    });
    if (metric == Metric::cosine) size.resize(norm.size());
    for (std::size_t i = 0; i < norm.size(); ++i) {
      if (!std::isfinite(norm[i]))
        refuse(op, ": ", name, " must span a range whose squares do not overflow, got row ", i);
      if (is_euclidean(metric)) half_norm[i] = static_cast<T>(norm[i] / 2);
      norm[i] = std::sqrt(norm[i]);
      if (metric == Metric::cosine) {
        // Beside a huge row the squares of a small one vanish: it is measured again, in larger and larger units.
        double own = unit;
        while (norm[i] < 0x1p-450 && own < 0x1p1020) {
          own = std::min(own * 0x1p450, 0x1p1020);
          const auto row = static_cast<std::int64_t>(i);
          GRAMIAN_KERNELS(moments).squared_norms(rows, row, row + 1, shift, own, norm.data());
          norm[i] = std::sqrt(norm[i]);
        }
        size[i] = norm[i] > 0 && std::isfinite(own / norm[i]) ? own / norm[i] : 0;
        scale[i] = static_cast<T>(size[i]);
        norm[i] = std::isfinite(scale[i]) ? 1 : kHuge;
        if (norm[i] > 1) scale[i] = 0;
      }
      largest_norm = std::max(largest_norm, norm[i]);
    }
  }

  // A norm that makes the slack swallow every score: for rows so small that 1 / |x| overflows, all is decided exactly.
  static constexpr double kHuge = 1e10;
};

template <class T>
class PairSet {
 public:
  PairSet(const char* op, const Rows& x, const std::optional<Rows>& y_given, Metric metric, Sweep sweep) {
    const Rows& y = y_given ? *y_given : x;
    const Means y_means = measure(op, y_given ? "y" : "x", y);
    const double largest = y_given ? std::max(y_means.largest, measure(op, "x", x).largest) : y_means.largest;
    if (is_euclidean(metric)) shift_.assign(y_means.mean.begin(), y_means.mean.end());
    const T* shift = shift_.empty() ? nullptr : shift_.data();
    const double unit = metric == Metric::chebyshev ? 1 : unit_of<T>(largest, x.cols);
    x_data_.emplace(op, "x", x, metric, shift, unit);
    if (y_given) y_data_.emplace(op, "y", y, metric, shift, unit);

    pairs_ = {side(x, *x_data_), side(y, y_data()), shift, unit, nullptr, metric, sweep};
    slack_ = slack_of(*x_data_, y_data());
    pairs_.slack = slack_.data();
  }
  PairSet(const PairSet&) = delete;
  PairSet& operator=(const PairSet&) = delete;

  const Pairs<T>& pairs() const { return pairs_; }
  const SideData<T>& x_data() const { return *x_data_; }
  const SideData<T>& y_data() const { return y_data_ ? *y_data_ : *x_data_; }
  bool self() const { return !y_data_; }
  const std::vector<T>& slack() const { return slack_; }

  // The score that a distance from row i of a side stands for; and how far from it the score may lie of a pair whose returned
  // distance is that one, beside the slack of a pair's score: it and the distance are rounded.
  std::pair<double, double> score_at(const SideData<T>& from, std::size_t i, T distance) const {
    // Below the normal range a distance may have become 0, and so may a bound that a caller rounds to T.
    constexpr double kEps = std::numeric_limits<T>::epsilon(), kTiny = std::numeric_limits<T>::min();
    const double given = static_cast<double>(distance), unit = pairs_.unit;
    switch (pairs_.metric) {
      case Metric::chebyshev: return {-given, 0};
      case Metric::cosine: return {1 - given, 4 * kEps};
      case Metric::ip: return {given * unit * unit, (4 * kEps * std::abs(given) + kTiny) * unit * unit + kTiny};
      default: break;
    }
    const double scaled = given * unit, square = from.norm[i] * from.norm[i];
    const bool root = pairs_.metric == Metric::euclidean;
    const double apart = root ? scaled * std::abs(scaled) : scaled * unit;
    const double vanishes = kTiny * unit * (root ? kTiny * unit : unit);
    return {(square - apart) / 2, 2 * kEps * (square + std::abs(apart)) + vanishes + kTiny};
  }

  // The same pairs seen from y, without a slack.
  Pairs<T> turned() const {
    return {pairs_.y, pairs_.x, pairs_.shift, pairs_.unit, nullptr, pairs_.metric, pairs_.sweep};
  }
  // |score - exact score| <= (0.3 d + 8) eps/2 (|x_i| + max |y|)^2: d roundings of the product, and a few of packing,
  // norms and the result, each against |x||y| <= (|x| + |y|)^2 / 4. Chebyshev scores are exact, and all norms zero.
  std::vector<T> slack_of(const SideData<T>& x, const SideData<T>& y) const {
    const double d = static_cast<double>(pairs_.x.rows.cols);
    const double rounding = (0.3 * d + 8) * std::numeric_limits<T>::epsilon() / 2;
    std::vector<T> slack(x.norm.size());
    for (std::size_t i = 0; i < slack.size(); ++i)
      slack[i] = static_cast<T>(rounding * std::pow(x.norm[i] + y.largest_norm, 2));
    return slack;
  }

 private:
  static Side<T> side(const Rows& rows, const SideData<T>& data) {
    return {rows, data.scale.data(), data.half_norm.data(), data.size.data()};
  }

  std::vector<T> shift_, slack_;
  std::optional<SideData<T>> x_data_, y_data_;
  Pairs<T> pairs_;
};

// The rows of y, [..., m, d], checked against x.
inline void check_base(const char* op, const Tensor& x, const Tensor& y) {
  check_same(op, "y", y, "x", x);
  bool fits = y.dim() == x.dim() && y.size(y.dim() - 1) == x.size(x.dim() - 1);
  for (std::int64_t axis = 0; fits && axis < x.dim() - 2; ++axis) fits = y.size(axis) == x.size(axis);
  if (!fits)
    refuse(op, ": y must be [..., m, d] with the leading sizes and d of x, ", shape_text(x), ", got ", shape_text(y));
}

}  // namespace gramian
