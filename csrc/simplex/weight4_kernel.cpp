// Compiled once per instruction set; no standard library here (see lanes.h).
#include "simplex/weight4_kernel.h"

#include "core/vmath.h"

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

struct Geometry {
  f64xN volume;        // 4! Vol, NaN where there is no simplex
  f64xN area[10];      // 2 Area of the triangle opposite each edge
  f64xN cofactor[10];  // det(G) grad(lambda_i) . grad(lambda_j) for each edge ij
};

// From squared lengths. G is the Gram matrix of the edge vectors at vertex 0; its cofactors, 2 x 2 minor by 2 x 2 minor.
GRAMIAN_INLINE Geometry geometry(const f64xN* d, const auto& proper) {
  const f64xN g11 = d[0], g22 = d[1], g33 = d[2], g44 = d[3];
  const f64xN g12 = 0.5 * (g11 + g22 - d[4]), g13 = 0.5 * (g11 + g33 - d[5]), g14 = 0.5 * (g11 + g44 - d[6]);
  const f64xN g23 = 0.5 * (g22 + g33 - d[7]), g24 = 0.5 * (g22 + g44 - d[8]), g34 = 0.5 * (g33 + g44 - d[9]);
  const f64xN s12 = g11 * g22 - g12 * g12, s13 = g11 * g23 - g13 * g12, s14 = g11 * g24 - g14 * g12;
  const f64xN s23 = g12 * g23 - g13 * g22, s24 = g12 * g24 - g14 * g22, s34 = g13 * g24 - g14 * g23;
  const f64xN c13 = g13 * g34 - g33 * g14, c14 = g13 * g44 - g34 * g14;
  const f64xN c23 = g23 * g34 - g33 * g24, c24 = g23 * g44 - g34 * g24, c34 = g33 * g44 - g34 * g34;
  const f64xN det = s12 * c34 - s13 * c24 + s14 * c23 + s23 * c14 - s24 * c13 + s34 * s34;
  const f64xN b11 = g22 * c34 - g23 * c24 + g24 * c23, b12 = g13 * c24 - g12 * c34 - g14 * c23;
  const f64xN b13 = g24 * s34 - g34 * s24 + g44 * s23, b14 = g33 * s24 - g23 * s34 - g34 * s23;
  const f64xN b22 = g11 * c34 - g13 * c14 + g14 * c13, b23 = g34 * s14 - g14 * s34 - g44 * s13;
  const f64xN b24 = g13 * s34 - g33 * s14 + g34 * s13, b33 = g14 * s24 - g24 * s14 + g44 * s12;
  const f64xN b34 = g23 * s14 - g13 * s24 - g34 * s12, b44 = g13 * s23 - g23 * s13 + g33 * s12;
  Geometry result;
  // All leading minors, not the last alone: two negative eigenvalues also give a positive determinant. Flat to rounding
  // counts as flat.
  constexpr double kFlat = 64 * 2.220446049250313e-16;
  const auto there = proper & (s12 > 0) & (b44 > 0) & (det > kFlat * (g11 * g22) * (g33 * g44));
  result.volume = there ? root(det) : broadcast(__builtin_nan(""));
  const auto area = [](f64xN pq, f64xN pr, f64xN qr) {
    const f64xN u = 0.5 * (pq + pr - qr);
    return root(pq * pr - u * u);
  };
  result.area[0] = area(d[7], d[8], d[9]);
  result.area[1] = area(d[5], d[6], d[9]);
  result.area[2] = area(d[4], d[6], d[8]);
  result.area[3] = area(d[4], d[5], d[7]);
  result.area[4] = area(d[2], d[3], d[9]);
  result.area[5] = area(d[1], d[3], d[8]);
  result.area[6] = area(d[1], d[2], d[7]);
  result.area[7] = root(g11 * g44 - g14 * g14);
  result.area[8] = root(g11 * g33 - g13 * g13);
  result.area[9] = root(s12);
  f64xN* c = result.cofactor;
  c[0] = -(b11 + b12 + (b13 + b14));
  c[1] = -(b12 + b22 + (b23 + b24));
  c[2] = -(b13 + b23 + (b33 + b34));
  c[3] = -(b14 + b24 + (b34 + b44));
  c[4] = b12;
  c[5] = b13;
  c[6] = b14;
  c[7] = b23;
  c[8] = b24;
  c[9] = b34;
  return result;
}

struct Simplices {
  f64xN length[10];
  Geometry geometry;
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
  s.geometry = geometry(d, proper);
  return s;
}

// cos and sin of a dihedral angle are as -C_ij to v a, a the triangle between the two facets: C_ii C_jj - C_ij^2 =
// (v a)^2, in which nothing cancels.
GRAMIAN_INLINE f64xN angle(const Geometry& g, int edge) { return angle_of(g.volume * g.area[edge], -g.cofactor[edge]); }

GRAMIAN_INLINE void forward_lanes(const double* lengths, const double* labels, bool squared, double* action,
                                  double* log_volume) {
  const Simplices s = read(lengths, squared);
  f64xN sum = {};
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) sum += gather(labels + e) * angle(s.geometry, e);
  store(action, sum);
  store(log_volume, log<double>(s.geometry.volume));
}

constexpr int kEdgeOf[5][5] = {
    {-1, 0, 1, 2, 3}, {0, -1, 4, 5, 6}, {1, 4, -1, 7, 8}, {2, 5, 7, -1, 9}, {3, 6, 8, 9, -1}};

// dS/dD_ij = (H K H)_ij / 2 and dlog v/dD_ij = -H_ij / 2 by squared lengths D, with H = C / v^2, K_ij = s_ij v / a_ij off
// the diagonal and K_ii such that T = K H has a zero diagonal. The rows of H, and so those of T, add up to zero.
GRAMIAN_INLINE void backward_lanes(const double* lengths, const double* labels, bool squared, f64xN by_action,
                                   f64xN by_log, double* grad_lengths, double* grad_labels) {
  const Simplices s = read(lengths, squared);
  const Geometry& g = s.geometry;
  const f64xN* c = g.cofactor;
  const auto put = [](double* to, f64xN v) {
#pragma GCC unroll 8
    for (int l = 0; l < kN; ++l) to[l * kEdges4] = v[l];
  };
  f64xN k[10], own[5], diagonal[5];
#pragma GCC unroll 10
  for (int e = 0; e < kEdges4; ++e) {
    k[e] = gather(labels + e) / g.area[e];
    put(grad_labels + e, by_action * angle(g, e));
  }
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    f64xN row = {}, mixed = {};
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j)
      if (j != i) row -= c[kEdgeOf[i][j]], mixed -= k[kEdgeOf[i][j]] * c[kEdgeOf[i][j]];
    diagonal[i] = row;
    own[i] = mixed / row;
  }
  const auto h = [&](int i, int j) { return i == j ? diagonal[i] : c[kEdgeOf[i][j]]; };
  const auto weight = [&](int i, int j) { return i == j ? own[i] : k[kEdgeOf[i][j]]; };
  f64xN t[5][5];
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    f64xN rest = {};
#pragma GCC unroll 5
    for (int j = 0; j < 4; ++j) {
      if (i == j) continue;
      f64xN value = {};
#pragma GCC unroll 5
      for (int m = 0; m < 5; ++m) value += weight(i, m) * h(m, j);
      t[i][j] = value;
      rest -= value;
    }
    if (i < 4) t[i][4] = rest;
  }
  const f64xN inverse = 1 / (g.volume * g.volume), scale_s = by_action * inverse * (inverse * g.volume),
              scale_v = by_log * inverse;
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i)
#pragma GCC unroll 5
    for (int j = i + 1; j < 5; ++j) {
      const int e = kEdgeOf[i][j];
      f64xN value = {};
#pragma GCC unroll 5
      for (int m = 0; m < 5; ++m)
        if (m != j) value += h(i, m) * t[m][j];
      const f64xN slope = scale_s * value - scale_v * c[e];
      put(grad_lengths + e, (squared ? broadcast(0.5) : s.length[e]) * slope);
    }
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
