// Vector exp, log and sincos. Per-level code (see lanes.h). No branch depends on the data. Errors, in units in the last
// place of the result, as tests/cpp holds them on every level:
//   exp     <= 2 over all arguments; subnormal results, 0, inf and NaN as in the C library
//   log     <= 2 likewise; -inf at 0, NaN below
//   sincos  <= 3 for |x| <= kSincosLimit (an absolute error of one unit of 1.0 next to a zero); beyond, reduce first
#pragma once
#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
struct FloatFormat;
template <>
struct FloatFormat<float> {
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr std::int32_t kMagicBits = 0x4B400000;  // of kMagic
  static constexpr float kMagic = 12582912.0F;            // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kExpLow = -104.0F, kExpHigh = 89.0F;
  static constexpr float kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
};
template <>
struct FloatFormat<double> {
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr std::int64_t kMagicBits = 0x4338000000000000;
  static constexpr double kMagic = 6755399441055744.0;
  static constexpr double kExpLow = -746.0, kExpHigh = 710.0;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
};

template <class To, class From>
GRAMIAN_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// c[0] + c[1] x + ... by Horner's rule.
template <class T, int kTerms>
GRAMIAN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[kTerms]) {
  Vec<T> value = broadcast(c[kTerms - 1]);
#pragma GCC unroll 16
  for (int k = kTerms - 2; k >= 0; --k) value = value * x + c[k];
  return value;
}

// 2^n; n + bias must be a normal exponent.
template <class T>
GRAMIAN_INLINE Vec<T> power_of_two(IntVec<T> n) {
  return bit_cast<Vec<T>>((n + FloatFormat<T>::kBias) << FloatFormat<T>::kMantissa);
}

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2: Taylor terms until they vanish.
template <class T>
GRAMIAN_INLINE Vec<T> exp(Vec<T> x) {
  using F = FloatFormat<T>;
  x = x > F::kExpHigh ? broadcast(F::kExpHigh) : x;
  x = x < F::kExpLow ? broadcast(F::kExpLow) : x;
  const Vec<T> shifted = x * static_cast<T>(1.44269504088896340736) + F::kMagic;
  const IntVec<T> n = bit_cast<IntVec<T>>(shifted) - F::kMagicBits;
  const Vec<T> whole = shifted - F::kMagic;
  const Vec<T> r = (x - whole * F::kLn2High) - whole * F::kLn2Low;
  Vec<T> series;
  if constexpr (sizeof(T) == 4) {
    constexpr float c[] = {1.0F / 2, 1.0F / 6, 1.0F / 24, 1.0F / 120, 1.0F / 720, 1.0F / 5040};
    series = polynomial<T>(r, c);
  } else {
    constexpr double c[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                            1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                            1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    series = polynomial<T>(r, c);
  }
  const Vec<T> value = 1 + (r + r * r * series);
  const IntVec<T> half = n >> 1;  // two factors, so that neither leaves the normal range
  return value * power_of_two<T>(half) * power_of_two<T>(n - half);
}

// log(x) = e ln 2 + log(1 + f), with 1 + f in [sqrt(1/2), sqrt(2)) and s = f / (2 + f): log(1 + f) = 2 atanh(s), arranged so
// that f enters exactly: f - f^2/2 + s (f^2/2 + z (2/3 + 2/5 z + ...)), z = s^2.
template <class T>
GRAMIAN_INLINE Vec<T> log(Vec<T> x) {
  using F = FloatFormat<T>;
  constexpr T kSmallest = sizeof(T) == 4 ? static_cast<T>(0x1p-126) : static_cast<T>(0x1p-1022);
  constexpr T kLift = static_cast<T>(std::int64_t{1} << F::kMantissa);
  const IntVec<T> subnormal = x < kSmallest;
  const Vec<T> positive = x > 0 ? x : broadcast(static_cast<T>(1)), lifted = subnormal ? positive * kLift : positive;
  constexpr T kRootHalf = static_cast<T>(0.70710678118654752440);
  const IntVec<T> offset = bit_cast<IntVec<T>>(lifted) - bit_cast<IntVec<T>>(broadcast(kRootHalf));
  const IntVec<T> exponent = (offset >> F::kMantissa) + (subnormal & -F::kMantissa);
  const Vec<T> m = bit_cast<Vec<T>>(bit_cast<IntVec<T>>(lifted) - ((offset >> F::kMantissa) << F::kMantissa));
  const Vec<T> e = bit_cast<Vec<T>>(exponent + F::kMagicBits) - F::kMagic;
  const Vec<T> f = m - 1, s = f / (2 + f), z = s * s, half_square = static_cast<T>(0.5) * f * f;
  Vec<T> series;
  if constexpr (sizeof(T) == 4) {
    constexpr float c[] = {2.0F / 3, 2.0F / 5, 2.0F / 7, 2.0F / 9, 2.0F / 11};
    series = polynomial<T>(z, c);
  } else {
    constexpr double c[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11,
                            2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21};
    series = polynomial<T>(z, c);
  }
  const Vec<T> tail = s * (half_square + z * series) + e * F::kLn2Low;
  Vec<T> value = e * F::kLn2High - ((half_square - tail) - f);
  constexpr T kInfinite = static_cast<T>(__builtin_inf());
  value = x == 0 ? broadcast(-kInfinite) : value;
  value = x < 0 ? broadcast(static_cast<T>(__builtin_nan(""))) : value;
  return x < kInfinite ? value : x;  // +inf and NaN are their own logarithms
}

template <class T>
constexpr T kSincosLimit = sizeof(T) == 4 ? 8192 : 1000000;

template <class T>
struct SinCos {
  Vec<T> sin, cos;
};

// x = n pi/2 + r, |r| <= pi/4. pi/2 is cut into pieces so short that n times a piece is exact (Cody and Waite).
template <class T>
GRAMIAN_INLINE SinCos<T> sincos(Vec<T> x) {
  using F = FloatFormat<T>;
  const Vec<T> shifted = x * static_cast<T>(0.63661977236758134308) + F::kMagic;
  const IntVec<T> n = bit_cast<IntVec<T>>(shifted) - F::kMagicBits;
  const Vec<T> whole = shifted - F::kMagic;
  Vec<T> r, sin_series, cos_series;
  if constexpr (sizeof(T) == 4) {
    r = x - whole * 0x1.92p+0F;
    r = r - whole * 0x1.fb4p-12F;
    r = r - whole * 0x1.444p-24F;
    r = r - whole * 0x1.68c234p-39F;
    constexpr float sin_c[] = {-1.0F / 6, 1.0F / 120, -1.0F / 5040, 1.0F / 362880};
    constexpr float cos_c[] = {1.0F / 24, -1.0F / 720, 1.0F / 40320, -1.0F / 3628800};
    sin_series = polynomial<T>(r * r, sin_c);
    cos_series = polynomial<T>(r * r, cos_c);
  } else {
    r = x - whole * 0x1.921fb544p+0;
    r = r - whole * 0x1.0b4611a6p-34;
    r = r - whole * 0x1.3198a2e037073p-69;
    constexpr double sin_c[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
                                -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    constexpr double cos_c[] = {1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
                                1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
    sin_series = polynomial<T>(r * r, sin_c);
    cos_series = polynomial<T>(r * r, cos_c);
  }
  const Vec<T> z = r * r;
  const Vec<T> s = r + r * z * sin_series;
  const Vec<T> half = static_cast<T>(0.5) * z, w = 1 - half;
  const Vec<T> c = w + ((1 - w) - half + z * z * cos_series);
  const IntVec<T> odd = (n & 1) != 0;
  const Vec<T> sin = odd ? c : s, cos = odd ? s : c;
  return {(n & 2) != 0 ? -sin : sin, ((n + 1) & 2) != 0 ? -cos : cos};
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
