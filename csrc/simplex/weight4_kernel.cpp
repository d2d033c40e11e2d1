// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/weight4_kernel.h"

#include "core/vmath.h"
#include "simplex/weight4_formulas.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr int kN = kLanes<double>;

#if GRAMIAN_VECTOR_BYTES == 32

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
#if GRAMIAN_VECTOR_BYTES == 64
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
  GRAMIAN_INLINE static f64xN lower(f64xN v, f64xN w) { return gramian::GRAMIAN_ISA::lower(v, w); }
  GRAMIAN_INLINE static f64xN size(f64xN v) { return -nonpositive(v); }
  GRAMIAN_INLINE static f64xN number(double v) { return broadcast(v); }
  GRAMIAN_INLINE static f64xN turned(f64xN v, f64xN by) {
    return bit_cast<f64xN>(bit_cast<i64xN>(v) ^ (bit_cast<i64xN>(by) & INT64_MIN));
  }
};

struct Simplices {
  f64xN length[10];
  Geometry<Lanes> geometry;
};

GRAMIAN_INLINE Simplices read(const double* lengths, bool squared) {
  Simplices s;
  f64xN d[10];
  i64xN signs = {};
  read_edges(lengths, s.length);
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) {
    signs |= bit_cast<i64xN>(s.length[e]);
    d[e] = squared ? s.length[e] : s.length[e] * s.length[e];
  }
  s.geometry = geometry<Lanes>(d, signs >= 0);  // a length of zero has a minor of zero
  return s;
}

GRAMIAN_INLINE void forward_lanes(const double* lengths, const double* labels, bool squared, double* action,
                                  double* log_volume) {
  const Simplices s = read(lengths, squared);
  f64xN sum = {}, label[10], u[10], sign[10];
  read_edges(labels, label);
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) {
    const Turned<Lanes> t = turned(s.geometry, e);
    u[e] = t.over / t.under, sign[e] = t.sign;
  }
#pragma GCC unroll 1
  for (int e = 0; e < kEdges4; ++e) sum += label[e] * dihedral(s.geometry, e, u[e], sign[e]);
  store(action, sum);
  store(log_volume, log<double>(0.25 * s.geometry.volume));
}

GRAMIAN_INLINE void backward_lanes(const double* lengths, const double* labels, bool squared, f64xN by_action,
                                   f64xN by_log, double* grad_lengths, double* grad_labels) {
  const Simplices s = read(lengths, squared);
  f64xN label[10], by_length[10], by_label[10];
  read_edges(labels, label);
  pull_back(
      s.geometry, by_action, by_log, [&](int e) { return label[e]; }, [&](int e, f64xN v) { by_label[e] = v; },
      [&](int e, f64xN v) { by_length[e] = squared ? v : (s.length[e] + s.length[e]) * v; });
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
