// The geometry of a 4-simplex, the same formulas in vector lanes and in threads of a GPU. `Math` names the type of a value and
// its functions: root, size (|v|), turned(v, by), which is v or, for a negative `by`, -v, and number, a constant.
#pragma once
#include "simplex/weight4_kernel.h"

// Internal linkage and always inlined: see rows.h.
#if defined(__CUDACC__)
#define GRAMIAN_FORMULA __device__ __forceinline__
#define GRAMIAN_UNROLL_10 _Pragma("unroll")
#define GRAMIAN_EDGES _Pragma("unroll")
#else
#define GRAMIAN_FORMULA static inline __attribute__((always_inline))
#define GRAMIAN_UNROLL_10 _Pragma("GCC unroll 10")
#define GRAMIAN_EDGES _Pragma("GCC unroll 1")  // as many registers as an arc tangent takes, not ten of them
#endif

namespace gramian {

// Where the edge of vertices i < j stands.
GRAMIAN_FORMULA constexpr int edge_of(int i, int j) {
  return i < j ? i * (9 - i) / 2 + j - i - 1 : j * (9 - j) / 2 + i - j - 1;
}

template <class Math>
struct Geometry {
  using V = typename Math::Value;
  V volume;        // 4 v = 4 * 4! Vol, NaN where there is no simplex
  V area[10];      // 2 a = 4 Area of the triangle opposite each edge
  V cofactor[10];  // 8 C_ij = 8 v^2 grad(lambda_i) . grad(lambda_j) for each edge ij
  V facet[5];      // 8 C_ii, C_ii the square of 3! Vol of the facet opposite i
};

// From squared lengths, by the cofactors of twice the Gram matrix of the edge vectors at vertex 0, 2 x 2 minor by 2 x 2 minor.
template <class Math, class Mask>
GRAMIAN_FORMULA Geometry<Math> geometry(const typename Math::Value* d, const Mask& proper) {
  using V = typename Math::Value;
  Geometry<Math> result;
  const V g11 = d[0] + d[0], g22 = d[1] + d[1], g33 = d[2] + d[2], g44 = d[3] + d[3];
  const V g12 = d[0] + d[1] - d[4], g13 = d[0] + d[2] - d[5], g14 = d[0] + d[3] - d[6];
  const V g23 = d[1] + d[2] - d[7], g24 = d[1] + d[3] - d[8], g34 = d[2] + d[3] - d[9];
  const V s12 = g11 * g22 - g12 * g12, c34 = g33 * g44 - g34 * g34;
  // Roots first: they take the divider long, and the cofactors need nothing of them.
  const auto area = [](V pq, V pr, V qr) {
    const V u = pq + pr - qr;
    return Math::root((pq + pq) * (pr + pr) - u * u);
  };
  V* a = result.area;
  a[0] = area(d[7], d[8], d[9]), a[1] = area(d[5], d[6], d[9]), a[2] = area(d[4], d[6], d[8]);
  a[3] = area(d[4], d[5], d[7]), a[4] = Math::root(c34), a[5] = Math::root(g22 * g44 - g24 * g24);
  a[6] = Math::root(g22 * g33 - g23 * g23), a[7] = Math::root(g11 * g44 - g14 * g14);
  a[8] = Math::root(g11 * g33 - g13 * g13), a[9] = Math::root(s12);
  const V s13 = g11 * g23 - g13 * g12, s14 = g11 * g24 - g14 * g12, s23 = g12 * g23 - g13 * g22;
  const V s24 = g12 * g24 - g14 * g22, s34 = g13 * g24 - g14 * g23;
  const V c13 = g13 * g34 - g33 * g14, c14 = g13 * g44 - g34 * g14, c23 = g23 * g34 - g33 * g24,
          c24 = g23 * g44 - g34 * g24;
  const V det = s12 * c34 - s13 * c24 + s14 * c23 + s23 * c14 - s24 * c13 + s34 * s34;
  const V b11 = g22 * c34 - g23 * c24 + g24 * c23, b12 = g13 * c24 - g12 * c34 - g14 * c23;
  const V b13 = g24 * s34 - g34 * s24 + g44 * s23, b14 = g33 * s24 - g23 * s34 - g34 * s23;
  const V b22 = g11 * c34 - g13 * c14 + g14 * c13, b23 = g34 * s14 - g14 * s34 - g44 * s13;
  const V b24 = g13 * s34 - g33 * s14 + g34 * s13, b33 = g14 * s24 - g24 * s14 + g44 * s12;
  const V b34 = g23 * s14 - g13 * s24 - g34 * s12, b44 = g13 * s23 - g23 * s13 + g33 * s12;
  V* c = result.cofactor;
  c[0] = -(b11 + b12 + (b13 + b14));
  c[1] = -(b12 + b22 + (b23 + b24));
  c[2] = -(b13 + b23 + (b33 + b34));
  c[3] = -(b14 + b24 + (b34 + b44));
  c[4] = b12, c[5] = b13, c[6] = b14, c[7] = b23, c[8] = b24, c[9] = b34;
  V* facet = result.facet;
  facet[0] = -(c[0] + c[1] + (c[2] + c[3])), facet[1] = b11, facet[2] = b22, facet[3] = b33, facet[4] = b44;
  // All leading minors, not the last alone: two negative eigenvalues also give a positive determinant. Flat to rounding
  // counts as flat, and so does a facet that is.
  constexpr double kFlat = 64 * 2.220446049250313e-16;
  const V least = Math::lower(Math::lower(s12, facet[0]), Math::lower(Math::lower(b11, b22), Math::lower(b33, b44)));
  const auto there = proper & (least > 0) & (det > kFlat * (g11 * g22) * (g33 * g44));
  result.volume = there ? Math::root(det) : Math::number(__builtin_nan(""));
  return result;
}

// A dihedral angle in two steps. Its cos and sin are as -C_ij to v a, a the triangle between the two facets: C_ii C_jj - C_ij^2 =
// (v a)^2, in which nothing cancels. With |C_ij| the angle is in [0, pi/2]; turned by pi/4, its sign taken off, and turned by pi/8
// it has the tangent over / under, at most tan(pi/8) in size.
template <class Math>
struct Turned {
  typename Math::Value over, under, sign;
};

template <class Math>
GRAMIAN_FORMULA Turned<Math> turned(const Geometry<Math>& g, int edge) {
  using V = typename Math::Value;
  constexpr double kTurn = 0.41421356237309504880;
  const V sine = g.volume * g.area[edge], cosine = Math::size(g.cofactor[edge]);
  const V sum = sine + cosine, difference = sine - cosine, size = Math::size(difference);
  return {size - kTurn * sum, sum + kTurn * size, difference};
}

// The arc tangent of u = over / under by a minimax polynomial that errs by 7e-18, and the turns undone.
template <class Math>
GRAMIAN_FORMULA typename Math::Value dihedral(const Geometry<Math>& g, int edge, const typename Math::Value& u,
                                              const typename Math::Value& sign) {
  using V = typename Math::Value;
  constexpr double c[] = {0.9999999999999997,  -0.3333333333331462,   0.19999999997124365, -0.14285714081507286,
                          0.1111110303605124,  -0.09090713292783648,  0.07689240805890368, -0.06634867258766482,
                          0.05663565393111003, -0.042839801513068376, 0.02042533711189853};
  constexpr double kEighth = 0.39269908169872415481;
  const V z = u * u, z2 = z * z;
  const V odd = c[1] + z2 * (c[3] + z2 * (c[5] + z2 * (c[7] + z2 * c[9])));
  const V even = c[2] + z2 * (c[4] + z2 * (c[6] + z2 * (c[8] + z2 * c[10])));
  const V half = Math::turned(kEighth + u * (c[0] + z * (odd + z * even)), sign);
  return 4 * kEighth + Math::turned(2 * kEighth - half, g.cofactor[edge]);
}

// dS/dD_ij = (H K H)_ij / 2 and dlog v/dD_ij = -H_ij / 2 by squared lengths D, with H = C / v^2, K_ij = s_ij v / a_ij off
// the diagonal and K_ii such that T = K H has a zero diagonal. The rows of H, and so those of T, add up to zero. Reads
// label(edge), hands on put_label(edge, gradient) and put_length(edge, gradient by the squared length).
template <class Math, class Label, class PutLabel, class PutLength>
GRAMIAN_FORMULA void pull_back(const Geometry<Math>& g, const typename Math::Value& by_action,
                               const typename Math::Value& by_log, const Label& label, const PutLabel& put_label,
                               const PutLength& put_length) {
  using V = typename Math::Value;
  const V *c = g.cofactor, *diagonal = g.facet;
  V k[10], u[10], sign[10], own[5];
  GRAMIAN_EDGES
  for (int e = 0; e < kEdges4; ++e) {
    const Turned<Math> t = turned(g, e);
    const V both = 1 / (t.under * g.area[e]);
    u[e] = t.over * (both * g.area[e]), sign[e] = t.sign;
    k[e] = label(e) * (both * t.under);
  }
  GRAMIAN_EDGES
  for (int e = 0; e < kEdges4; ++e) put_label(e, by_action * dihedral(g, e, u[e], sign[e]));
  GRAMIAN_UNROLL_10
  for (int i = 0; i < 5; ++i) {
    V mixed = {};
    GRAMIAN_UNROLL_10
    for (int j = 0; j < 5; ++j)
      if (j != i) mixed -= k[edge_of(i, j)] * c[edge_of(i, j)];
    own[i] = mixed / diagonal[i];
  }
  const auto h = [&](int i, int j) { return i == j ? diagonal[i] : c[edge_of(i, j)]; };
  const auto weight = [&](int i, int j) { return i == j ? own[i] : k[edge_of(i, j)]; };
  V t[5][5];
  GRAMIAN_UNROLL_10
  for (int i = 0; i < 5; ++i) {
    V rest = {};
    GRAMIAN_UNROLL_10
    for (int j = 0; j < 4; ++j) {
      if (i == j) continue;
      V value = {};
      GRAMIAN_UNROLL_10
      for (int m = 0; m < 5; ++m) value += weight(i, m) * h(m, j);
      t[i][j] = value;
      rest -= value;
    }
    if (i < 4) t[i][4] = rest;
  }
  // By the scales of `geometry`, cofactor / volume^2 is H / 2 and weight is K / 2v: no factor is left.
  const V inverse = 1 / (g.volume * g.volume), scale_s = by_action * inverse * (inverse * g.volume),
          scale_v = by_log * inverse;
  GRAMIAN_UNROLL_10
  for (int i = 0; i < 5; ++i) GRAMIAN_UNROLL_10
  for (int j = i + 1; j < 5; ++j) {
    const int e = edge_of(i, j);
    V value = {};
    GRAMIAN_UNROLL_10
    for (int m = 0; m < 5; ++m)
      if (m != j) value += h(i, m) * t[m][j];
    put_length(e, scale_s * value - scale_v * c[e]);
  }
}

}  // namespace gramian
