// How an axis of 2^a 3^b 5^c samples is transformed: its passes, their twiddles, and where each frequency comes out.
#pragma once
#include <cmath>
#include <complex>
#include <numbers>
#include <vector>

#include "spectra/grid_shells_kernel.h"

namespace gramian {

// e^(-2 pi i eighths / 8n), from angles of at most an eighth of a turn: its symmetries are exact.
inline std::complex<double> root_of_unity(std::int64_t eighths, std::int64_t n) {
  if (eighths > 4 * n) return std::conj(root_of_unity(8 * n - eighths, n));
  if (eighths > 2 * n) return -std::conj(root_of_unity(4 * n - eighths, n));
  if (eighths > n) {
    const std::complex<double> other = root_of_unity(2 * n - eighths, n);
    return {-other.imag(), -other.real()};
  }
  return std::polar(1.0, -std::numbers::pi / 4 * static_cast<double>(eighths) / static_cast<double>(n));
}

template <class T>
class FourierPlan {
 public:
  // The radices of n, or none if it has other factors than 2, 3 and 5.
  static std::vector<int> radices(std::int64_t n) {
    std::vector<int> found;
    for (const int radix : {5, 3, 4, 2})
      for (; n % radix == 0; n /= radix) found.push_back(radix);
    if (n > 1) found.clear();
    // 8 for a 4 and the 2 that is left: a pass less.
    if (found.size() >= 2 && found.back() == 2 && found[found.size() - 2] == 4) {
      found.pop_back();
      found.back() = 8;
    }
    return found;
  }

  explicit FourierPlan(std::int64_t n) : n_(n), radices_(radices(n)) {
    std::vector<std::complex<double>> roots(static_cast<std::size_t>(n));
    for (std::int64_t t = 0; t < n; ++t)
      roots[static_cast<std::size_t>(t)] =
          2 * t > n ? std::conj(roots[static_cast<std::size_t>(n - t)]) : root_of_unity(8 * t, n);
    frequency_.assign(static_cast<std::size_t>(n), 0);
    std::int64_t size = n;
    for (const int radix : radices_) {
      const std::int64_t m = size / radix, step = n / size;
      for (std::int64_t j = 0; j < m; ++j)
        for (int q = 1; q < radix; ++q) {
          const std::complex<double> w = roots[static_cast<std::size_t>(j * q * step)];
          twiddles_.push_back(static_cast<T>(w.real()));
          twiddles_.push_back(static_cast<T>(w.imag()));
        }
      for (std::int64_t at = 0; at < n; ++at)
        frequency_[static_cast<std::size_t>(at)] += static_cast<std::int32_t>(at % size / m * step);
      size = m;
    }
    place_.resize(frequency_.size());
    for (std::size_t at = 0; at < frequency_.size(); ++at)
      place_[static_cast<std::size_t>(frequency_[at])] = static_cast<std::int32_t>(at);
  }

  FourierAxis<T> axis() const {
    FourierAxis<T> axis{n_, static_cast<int>(radices_.size()), {}, twiddles_.data(), place_.data(), frequency_.data()};
    std::copy(radices_.begin(), radices_.end(), axis.radix);
    return axis;
  }

 private:
  std::int64_t n_;
  std::vector<int> radices_;
  std::vector<T> twiddles_;
  std::vector<std::int32_t> place_, frequency_;
};

}  // namespace gramian
