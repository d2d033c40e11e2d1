// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/weight4_kernel.h"

#include "core/vmath.h"
#include "simplex/weight4_formulas.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

// The angle of the point (x, y), y > 0, in (0, pi), to about 2 units in the last place: pi/2 less the arc tangent of x / y. The
// argument of that is turned by pi/4 or pi/2 to at most tan(pi/8) in size, where a minimax polynomial errs by 7e-18.
GRAMIAN_INLINE f64xN angle_of(f64xN y, f64xN x) {
  constexpr double kQuarter = 0.78539816339744830962, kTurn = 0.41421356237309504880;
  const f64xN across = -nonpositive(x), low = lower(across, y), high = across > y ? across : y;
  const auto beyond = across > y, between = low > high * kTurn;
  const f64xN over = between ? across - y : beyond ? -y : across, under = between ? across + y : high;
  const f64xN offset = between ? broadcast(kQuarter) : beyond ? broadcast(2 * kQuarter) : f64xN{};
  constexpr double c[] = {-0.3333333333333333,  0.1999999999999552,  -0.14285714284666542, 0.11111111015256361,
                          -0.09090904578123903, 0.07692183190826087, -0.06664511447381948, 0.05858148912802203,
                          -0.05085449737940227, 0.03923165829558635, -0.01917688711906133};
  // Pairs first (Estrin): ten arc tangents one after the other wait for each other's results less than by Horner's rule.
  const f64xN t = over / under, z = t * t, z2 = z * z, z4 = z2 * z2;
  const f64xN head = (c[0] + c[1] * z) + z2 * (c[2] + c[3] * z), body = (c[4] + c[5] * z) + z2 * (c[6] + c[7] * z),
              tail = (c[8] + c[9] * z) + z2 * c[10];
  const f64xN inner = t + t * (z * (head + z4 * (body + z4 * tail)));
  const f64xN half = broadcast(2 * kQuarter);
  return x < 0 ? half + offset + inner : half - offset - inner;
}

#if defined(__AVX__) && !defined(__AVX512F__)

// Four rows of four, transposed in place.
GRAMIAN_INLINE void transpose(f64xN* r) {
  const f64xN a = __builtin_shuffle(r[0], r[1], i64xN{0, 4, 2, 6}),
              b = __builtin_shuffle(r[0], r[1], i64xN{1, 5, 3, 7});
  const f64xN c = __builtin_shuffle(r[2], r[3], i64xN{0, 4, 2, 6}),
              d = __builtin_shuffle(r[2], r[3], i64xN{1, 5, 3, 7});
  r[0] = __builtin_shuffle(a, c, i64xN{0, 1, 4, 5}), r[1] = __builtin_shuffle(b, d, i64xN{0, 1, 4, 5});
  r[2] = __builtin_shuffle(a, c, i64xN{2, 3, 6, 7}), r[3] = __builtin_shuffle(b, d, i64xN{2, 3, 6, 7});
}

constexpr int kWhole = 8;  // edges that go by whole vectors

GRAMIAN_INLINE void read_whole(const double* from, f64xN* to) {
  for (int e = 0; e < kWhole; e += 4) {
    for (int l = 0; l < 4; ++l) to[e + l] = load(from + l * kEdges4 + e);
    transpose(to + e);
  }
}

GRAMIAN_INLINE void write_whole(f64xN* from, double* to) {
  for (int e = 0; e < kWhole; e += 4) {
    transpose(from + e);
    for (int l = 0; l < 4; ++l) store(to + l * kEdges4 + e, from[e + l]);
  }
}

#else

constexpr int kWhole = 0;
GRAMIAN_INLINE void read_whole(const double*, f64xN*) {}
GRAMIAN_INLINE void write_whole(f64xN*, double*) {}

#endif

// The ten elements of each of kN simplices, one simplex a lane.
GRAMIAN_INLINE void read_edges(const double* from, f64xN* to) {
  read_whole(from, to);
#pragma GCC unroll 10
  for (int e = kWhole; e < kEdges4; ++e)
#if defined(__AVX512F__)
    to[e] = f64xN{from[e],      from[e + 10], from[e + 20], from[e + 30],
                  from[e + 40], from[e + 50], from[e + 60], from[e + 70]};
#else
    for (int l = 0; l < kN; ++l) to[e][l] = from[l * kEdges4 + e];
#endif
}

GRAMIAN_INLINE void write_edges(f64xN* from, double* to) {
  write_whole(from, to);
#pragma GCC unroll 10
  for (int e = kWhole; e < kEdges4; ++e)
#pragma GCC unroll 8
    for (int l = 0; l < kN; ++l) to[l * kEdges4 + e] = from[e][l];
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
  read_edges(lengths, s.length);
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) {
    proper &= s.length[e] > 0;
    d[e] = squared ? s.length[e] : s.length[e] * s.length[e];
  }
  s.geometry = geometry<Lanes>(d, proper);
  return s;
}

GRAMIAN_INLINE void forward_lanes(const double* lengths, const double* labels, bool squared, double* action,
                                  double* log_volume) {
  const Simplices s = read(lengths, squared);
  f64xN sum = {}, label[10];
  read_edges(labels, label);
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) sum += label[e] * dihedral(s.geometry, e);
  store(action, sum);
  store(log_volume, log<double>(s.geometry.volume));
}

GRAMIAN_INLINE void backward_lanes(const double* lengths, const double* labels, bool squared, f64xN by_action,
                                   f64xN by_log, double* grad_lengths, double* grad_labels) {
  const Simplices s = read(lengths, squared);
  f64xN label[10], by_length[10], by_label[10];
  read_edges(labels, label);
  pull_back(
      s.geometry, by_action, by_log, [&](int e) { return label[e]; }, [&](int e, f64xN v) { by_label[e] = v; },
      [&](int e, f64xN v) { by_length[e] = (squared ? broadcast(0.5) : s.length[e]) * v; });
  write_edges(by_label, grad_labels);
  write_edges(by_length, grad_lengths);
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
