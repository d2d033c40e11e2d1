// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/weight4_kernel.h"

#include "core/vmath.h"
#include "simplex/weight4_formulas.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

// The angle of the point (x, y), y > 0, in (0, pi), to about 2 units in the last place. The smaller over the larger
// coordinate, turned by pi/4 if it is beyond tan(pi/8): a minimax polynomial does the rest (error 7e-18).
GRAMIAN_INLINE f64xN angle_of(f64xN y, f64xN x) {
  const f64xN across = -nonpositive(x);
  const f64xN low = across < y ? across : y, high = across < y ? y : across;
  const auto turned = low > high * 0.41421356237309504880;
  const f64xN t = (turned ? low - high : low) / (turned ? low + high : high);
  constexpr double c[] = {-0.3333333333333333,  0.1999999999999552,  -0.14285714284666542, 0.11111111015256361,
                          -0.09090904578123903, 0.07692183190826087, -0.06664511447381948, 0.05858148912802203,
                          -0.05085449737940227, 0.03923165829558635, -0.01917688711906133};
  const f64xN z = t * t, tail = t * z * polynomial<double>(z, c);
  constexpr double kQuarter = 0.78539816339744830962, kHalfLow = 6.123233995736766036e-17;
  const f64xN first = turned ? kQuarter + (t + (tail + kHalfLow / 2)) : t + tail;
  // pi/2 = 2 kQuarter + kHalfLow: adding the low parts keeps the last digit of the other three octants.
  const f64xN steep = across < y ? 2 * kQuarter - (first - kHalfLow) : first;
  return x < 0 ? 4 * kQuarter - (steep - 2 * kHalfLow) : steep;
}

// Element `edge` of kN simplices.
GRAMIAN_INLINE f64xN gather(const double* from) {
#if defined(__AVX512F__)
  return f64xN{from[0], from[10], from[20], from[30], from[40], from[50], from[60], from[70]};
#else
  f64xN v;
  for (int l = 0; l < kN; ++l) v[l] = from[l * kEdges4];
  return v;
#endif
}

struct Lanes {
  using Value = f64xN;
  GRAMIAN_INLINE static f64xN root(f64xN v) { return gramian::GRAMIAN_ISA::root(v); }
  GRAMIAN_INLINE static f64xN angle(f64xN y, f64xN x) { return angle_of(y, x); }
  GRAMIAN_INLINE static f64xN number(double v) { return broadcast(v); }
};

struct Simplices {
  f64xN length[10];
  Geometry<Lanes> geometry;
};

GRAMIAN_INLINE Simplices read(const double* lengths, bool squared) {
  Simplices s;
  f64xN d[10];
  auto proper = broadcast(0.0) == 0;
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) {
    s.length[e] = gather(lengths + e);
    proper &= s.length[e] > 0;
    d[e] = squared ? s.length[e] : s.length[e] * s.length[e];
  }
  s.geometry = geometry<Lanes>(d, proper);
  return s;
}

GRAMIAN_INLINE void forward_lanes(const double* lengths, const double* labels, bool squared, double* action,
                                  double* log_volume) {
  const Simplices s = read(lengths, squared);
  f64xN sum = {};
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) sum += gather(labels + e) * dihedral(s.geometry, e);
  store(action, sum);
  store(log_volume, log<double>(s.geometry.volume));
}

GRAMIAN_INLINE void backward_lanes(const double* lengths, const double* labels, bool squared, f64xN by_action,
                                   f64xN by_log, double* grad_lengths, double* grad_labels) {
  const Simplices s = read(lengths, squared);
  const auto put = [](double* to, f64xN v) {
#pragma GCC unroll 8
    for (int l = 0; l < kN; ++l) to[l * kEdges4] = v[l];
  };
  pull_back(
      s.geometry, by_action, by_log, [&](int e) { return gather(labels + e); },
      [&](int e, f64xN v) { put(grad_labels + e, v); },
      [&](int e, f64xN v) { put(grad_lengths + e, (squared ? broadcast(0.5) : s.length[e]) * v); });
}

// Whole groups of lanes in place; the last few simplices go through a buffer that repeats the last one.
struct Tail {
  double lengths[kN * kEdges4], labels[kN * kEdges4];
  std::int64_t count;
  Tail(const Weight4Problem& p, std::int64_t begin, std::int64_t end) : count(end - begin) {
    for (int l = 0; l < kN; ++l) {
      const std::int64_t from = (begin + (l < count ? l : count - 1)) * kEdges4;
      __builtin_memcpy(lengths + l * kEdges4, p.lengths + from, kEdges4 * sizeof(double));
      __builtin_memcpy(labels + l * kEdges4, p.labels + from, kEdges4 * sizeof(double));
    }
  }
};

void forward(const Weight4Problem& p, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + kN <= end; i += kN)
    forward_lanes(p.lengths + i * kEdges4, p.labels + i * kEdges4, p.squared, p.action + i, p.log_volume + i);
  if (i == end) return;
  const Tail tail(p, i, end);
  double action[kN], log_volume[kN];
  forward_lanes(tail.lengths, tail.labels, p.squared, action, log_volume);
  for (std::int64_t l = 0; l < tail.count; ++l) p.action[i + l] = action[l], p.log_volume[i + l] = log_volume[l];
}

void backward(const Weight4Problem& p, std::int64_t begin, std::int64_t end) {
  std::int64_t i = begin;
  for (; i + kN <= end; i += kN)
    backward_lanes(p.lengths + i * kEdges4, p.labels + i * kEdges4, p.squared, load(p.grad_action + i),
                   load(p.grad_log_volume + i), p.grad_lengths + i * kEdges4, p.grad_labels + i * kEdges4);
  if (i == end) return;
  const Tail tail(p, i, end);
  f64xN by_action = {}, by_log = {};
  for (std::int64_t l = 0; l < tail.count; ++l)
    by_action[l] = p.grad_action[i + l], by_log[l] = p.grad_log_volume[i + l];
  double grad_lengths[kN * kEdges4], grad_labels[kN * kEdges4];
  backward_lanes(tail.lengths, tail.labels, p.squared, by_action, by_log, grad_lengths, grad_labels);
  const auto bytes = static_cast<unsigned long>(tail.count) * kEdges4 * sizeof(double);
  __builtin_memcpy(p.grad_lengths + i * kEdges4, grad_lengths, bytes);
  __builtin_memcpy(p.grad_labels + i * kEdges4, grad_labels, bytes);
}

}  // namespace

extern const Weight4Kernels weight4{forward, backward};

}  // namespace gramian::GRAMIAN_ISA
