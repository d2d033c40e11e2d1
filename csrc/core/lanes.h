// Vector lanes of the level that a kernel is compiled for, in the compiler's own vector types. Only *_kernel.cpp and the
// other per-level headers may include this: everything is in an anonymous namespace, because an inline function that
// the linker shared between levels could carry AVX-512 into the baseline.
#pragma once
#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if !defined(GRAMIAN_VECTOR_BYTES)  // the option GRAMIAN_WIDE gives 64 to a level without instructions for them
#if defined(__AVX512F__)
#define GRAMIAN_VECTOR_BYTES 64
#elif defined(__AVX__)
#define GRAMIAN_VECTOR_BYTES 32
#else
#define GRAMIAN_VECTOR_BYTES 16
#endif
#endif

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kVectorBytes = GRAMIAN_VECTOR_BYTES;
constexpr int kRegisters = kVectorBytes == 64 ? 32 : 16;

#define GRAMIAN_INLINE inline __attribute__((always_inline))

using f32xN = float __attribute__((vector_size(kVectorBytes)));
using f64xN = double __attribute__((vector_size(kVectorBytes)));
using i32xN = std::int32_t __attribute__((vector_size(kVectorBytes)));
using i64xN = std::int64_t __attribute__((vector_size(kVectorBytes)));

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  using vector = f32xN;
  using integers = i32xN;  // what a comparison of two vectors gives: -1 where true
};
template <>
struct LanesOf<double> {
  using vector = f64xN;
  using integers = i64xN;
};

template <class T>
using Vec = typename LanesOf<T>::vector;
template <class T>
using IntVec = typename LanesOf<T>::integers;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
GRAMIAN_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
GRAMIAN_INLINE void store(T* to, Vec<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <class T>
GRAMIAN_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // x - 0 keeps the sign of -0.0, x + 0 would not
}

// The sum of all lanes, by halves: fixed order on every level of the same width.
template <class T>
GRAMIAN_INLINE T sum(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

// One bit per lane where a >= b. By hand for AVX-512, where the compiler would widen the mask to a vector and back.
GRAMIAN_INLINE std::uint32_t at_least(f32xN a, f32xN b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#elif GRAMIAN_VECTOR_BYTES == 32
  return static_cast<std::uint32_t>(__builtin_ia32_movmskps256(reinterpret_cast<f32xN>(a >= b)));
#elif GRAMIAN_VECTOR_BYTES == 16 && defined(__SSE2__)
  return static_cast<std::uint32_t>(__builtin_ia32_movmskps(reinterpret_cast<f32xN>(a >= b)));
#else
  std::uint32_t result = 0;
  for (int l = 0; l < kLanes<float>; ++l) result |= static_cast<std::uint32_t>(a[l] >= b[l]) << l;
  return result;
#endif
}

GRAMIAN_INLINE std::uint32_t at_least(f64xN a, f64xN b) {
#if defined(__AVX512F__)
  return _mm512_cmp_pd_mask(a, b, _CMP_GE_OQ);
#elif GRAMIAN_VECTOR_BYTES == 32
  return static_cast<std::uint32_t>(__builtin_ia32_movmskpd256(reinterpret_cast<f64xN>(a >= b)));
#elif GRAMIAN_VECTOR_BYTES == 16 && defined(__SSE2__)
  return static_cast<std::uint32_t>(__builtin_ia32_movmskpd(reinterpret_cast<f64xN>(a >= b)));
#else
  std::uint32_t result = 0;
  for (int l = 0; l < kLanes<double>; ++l) result |= static_cast<std::uint32_t>(a[l] >= b[l]) << l;
  return result;
#endif
}

// By hand for AVX-512, where the compiler takes two instructions and a mask for one.
GRAMIAN_INLINE f32xN lower(f32xN a, f32xN b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

GRAMIAN_INLINE f64xN lower(f64xN a, f64xN b) {
#if defined(__AVX512F__)
  return _mm512_min_pd(a, b);
#else
  return a < b ? a : b;
#endif
}

GRAMIAN_INLINE f32xN root(f32xN v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xFFFF, v);  // the plain intrinsic makes GCC 12 warn of its own header
#else
  for (int l = 0; l < kLanes<float>; ++l) v[l] = __builtin_sqrtf(v[l]);
  return v;
#endif
}

GRAMIAN_INLINE f64xN root(f64xN v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xFF, v);
#else
  for (int l = 0; l < kLanes<double>; ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

// -|v|: the sign bit set.
GRAMIAN_INLINE f32xN nonpositive(f32xN v) {
  i32xN bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  bits |= static_cast<std::int32_t>(0x80000000);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

GRAMIAN_INLINE f64xN nonpositive(f64xN v) {
  i64xN bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  bits |= static_cast<std::int64_t>(1ULL << 63);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

GRAMIAN_INLINE bool any_less(f32xN a, f32xN b) { return ~at_least(a, b) << (32 - kLanes<float>) != 0; }
GRAMIAN_INLINE bool any_less(f64xN a, f64xN b) { return ~at_least(a, b) << (32 - kLanes<double>) != 0; }

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
