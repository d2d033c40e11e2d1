// Views of tables of factorials, as kernels read them; factorial_tables.h makes them.
#pragma once
#include <cstdint>

// Internal linkage and always inlined: see rows.h.
#if defined(__CUDACC__)
#define GRAMIAN_SPIN_INLINE __host__ __device__ __forceinline__
#define GRAMIAN_SPIN_MEMBER __host__ __device__ __forceinline__
#else
#define GRAMIAN_SPIN_INLINE static inline __attribute__((always_inline))
#define GRAMIAN_SPIN_MEMBER inline __attribute__((always_inline))
#endif

namespace gramian {

// mantissa * 2^exponent, the mantissa in [1, 2).
struct Scaled {
  double mantissa;
  std::int64_t exponent;
};

struct Factorials {
  const Scaled* scaled;          // n!
  const std::uint64_t* value;    // n! modulo kPrime, by which an entry next to a zero is told from zero
  const std::uint64_t* inverse;  // 1 / n! modulo that
};

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

GRAMIAN_SPIN_INLINE std::uint64_t times_modulo(std::uint64_t a, std::uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  const std::uint64_t sum = static_cast<std::uint64_t>(product & kPrime) + static_cast<std::uint64_t>(product >> 61);
  return sum >= kPrime ? sum - kPrime : sum;
}

}  // namespace gramian
