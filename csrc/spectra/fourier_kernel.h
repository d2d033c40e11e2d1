// Fourier transforms of as many fields at once as a vector has lanes: no shuffles, no reversal of digits. Per-level code
// (see lanes.h).
#pragma once
#include "core/lanes.h"
#include "spectra/grid_shells_kernel.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// A complex number in every lane; in memory all real parts, then all imaginary parts.
template <class T>
struct Complex {
  Vec<T> re, im;
};

template <class T>
GRAMIAN_INLINE Complex<T> load_complex(const T* from) {
  return {load(from), load(from + kLanes<T>)};
}

template <class T>
GRAMIAN_INLINE void store_complex(T* to, Complex<T> z) {
  store(to, z.re);
  store(to + kLanes<T>, z.im);
}

template <class T>
GRAMIAN_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class T>
GRAMIAN_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}

template <class T>
GRAMIAN_INLINE Complex<T> operator*(T a, Complex<T> b) {
  return {a * b.re, a * b.im};
}

template <class T>
GRAMIAN_INLINE Complex<T> over_i(Complex<T> a) {
  return {a.im, -a.re};
}

template <class T>
GRAMIAN_INLINE Complex<T> turned(Complex<T> a, T cosine, T sine) {
  return {a.re * cosine - a.im * sine, a.re * sine + a.im * cosine};
}

// z[q] = sum over r of e^(-2 pi i q r / R) z[r].
template <class T>
GRAMIAN_INLINE void butterfly(Complex<T> (&z)[2]) {
  const Complex<T> a = z[0], b = z[1];
  z[0] = a + b;
  z[1] = a - b;
}

template <class T>
GRAMIAN_INLINE void butterfly(Complex<T> (&z)[3]) {
  constexpr T kSine = static_cast<T>(0.866025403784438646763723170752936183);  // of a third of a turn
  const Complex<T> sum = z[1] + z[2], apart = kSine * over_i(z[1] - z[2]), mean = z[0] - static_cast<T>(0.5) * sum;
  z[0] = z[0] + sum;
  z[1] = mean + apart;
  z[2] = mean - apart;
}

template <class T>
GRAMIAN_INLINE void butterfly(Complex<T> (&z)[4]) {
  const Complex<T> a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = over_i(z[1] - z[3]);
  z[0] = a + c;
  z[1] = b + d;
  z[2] = a - c;
  z[3] = b - d;
}

template <class T>
GRAMIAN_INLINE void butterfly(Complex<T> (&z)[5]) {
  // Cosines and sines of one and two fifths of a turn.
  constexpr T kCos1 = static_cast<T>(0.309016994374947424102293417182819059);
  constexpr T kCos2 = static_cast<T>(-0.809016994374947424102293417182819059);
  constexpr T kSin1 = static_cast<T>(0.951056516295153572116439333379382143);
  constexpr T kSin2 = static_cast<T>(0.587785252292473129168705954639072769);
  const Complex<T> a = z[1] + z[4], b = z[2] + z[3], c = over_i(z[1] - z[4]), d = over_i(z[2] - z[3]);
  const Complex<T> even1 = z[0] + kCos1 * a + kCos2 * b, odd1 = kSin1 * c + kSin2 * d;
  const Complex<T> even2 = z[0] + kCos2 * a + kCos1 * b, odd2 = kSin2 * c - kSin1 * d;
  z[0] = z[0] + a + b;
  z[1] = even1 + odd1;
  z[4] = even1 - odd1;
  z[2] = even2 + odd2;
  z[3] = even2 - odd2;
}

template <class T>
GRAMIAN_INLINE void butterfly(Complex<T> (&z)[8]) {
  constexpr T kHalf = static_cast<T>(0.707106781186547524400844362104849039);  // the cosine of an eighth of a turn
  Complex<T> even[4] = {z[0] + z[4], z[1] + z[5], z[2] + z[6], z[3] + z[7]};
  const Complex<T> b = z[1] - z[5], d = z[3] - z[7];
  const Complex<T> b1 = kHalf * Complex<T>{b.re + b.im, b.im - b.re},
                   d1 = kHalf * Complex<T>{d.im - d.re, -(d.re + d.im)};
  Complex<T> odd[4] = {z[0] - z[4], b1, over_i(z[2] - z[6]), d1};
  butterfly(even);
  butterfly(odd);
  for (int q = 0; q < 4; ++q) z[2 * q] = even[q], z[2 * q + 1] = odd[q];
}

// One pass of decimation in frequency over `groups` groups of R * m elements: a[j + q m] = w^(j q) sum_r e^(..q r / R) a[j + r m],
// after which frequencies q, q + R, .. are the transform of the q-th part.
template <int R, class T>
void pass(T* data, std::int64_t stride, std::int64_t groups, std::int64_t m, const T* twiddles) {
  for (std::int64_t g = 0; g < groups; ++g, data += R * m * stride) {
    const T* w = twiddles;
    for (std::int64_t j = 0; j < m; ++j, w += 2 * (R - 1)) {
      T* const at = data + j * stride;
      Complex<T> z[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) z[r] = load_complex(at + r * m * stride);
      butterfly(z);
      store_complex(at, z[0]);
      if (m == 1) {  // the last pass turns nothing
#pragma GCC unroll 8
        for (int q = 1; q < R; ++q) store_complex(at + q * stride, z[q]);
      } else {
#pragma GCC unroll 8
        for (int q = 1; q < R; ++q) store_complex(at + q * m * stride, turned(z[q], w[2 * q - 2], w[2 * q - 1]));
      }
    }
  }
}

template <class T>
GRAMIAN_INLINE void pass(int radix, T* data, std::int64_t stride, std::int64_t groups, std::int64_t m, const T* w) {
  switch (radix) {
    case 2: return pass<2>(data, stride, groups, m, w);
    case 3: return pass<3>(data, stride, groups, m, w);
    case 4: return pass<4>(data, stride, groups, m, w);
    case 5: return pass<5>(data, stride, groups, m, w);
    default: return pass<8>(data, stride, groups, m, w);
  }
}

// The passes from `level` on of `size` elements that lie `stride` apart. What does not fit into the first cache is cut into its
// parts first, and each of them is finished before the next.
template <class T>
void transform(const FourierAxis<T>& axis, int level, std::int64_t size, const T* twiddles, T* data,
               std::int64_t stride) {
  constexpr std::int64_t kFirstCache = 16384;  // half of it
  const bool fits = size * 2 * kVectorBytes <= kFirstCache;
  for (std::int64_t groups = 1; level < axis.passes; ++level) {
    const int radix = axis.radix[level];
    const std::int64_t m = size / radix;
    pass(radix, data, stride, groups, m, twiddles);
    twiddles += 2 * m * (radix - 1);
    if (!fits) {
      for (int q = 0; q < radix; ++q) transform(axis, level + 1, m, twiddles, data + q * m * stride, stride);
      return;
    }
    groups *= radix;
    size = m;
  }
}

template <class T>
GRAMIAN_INLINE void transform(const FourierAxis<T>& axis, T* data, std::int64_t stride) {
  transform(axis, 0, axis.size, axis.twiddles, data, stride);
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
