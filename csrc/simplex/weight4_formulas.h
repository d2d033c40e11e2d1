// The geometry of a 4-simplex, the same formulas in vector lanes and in threads of a GPU. `Math` names the type of a value and
// its functions: root, angle(y, x) in (0, pi) of a point with y > 0, and number, a constant in every lane.
#pragma once
#include "simplex/weight4_kernel.h"

// Internal linkage and always inlined: see rows.h.
#if defined(__CUDACC__)
#define GRAMIAN_FORMULA __device__ __forceinline__
#define GRAMIAN_UNROLL_10 _Pragma("unroll")
#else
#define GRAMIAN_FORMULA static inline __attribute__((always_inline))
#define GRAMIAN_UNROLL_10 _Pragma("GCC unroll 10")
#endif

namespace gramian {

// Where the edge of vertices i < j stands.
GRAMIAN_FORMULA constexpr int edge_of(int i, int j) {
  return i < j ? i * (9 - i) / 2 + j - i - 1 : j * (9 - j) / 2 + i - j - 1;
}

template <class Math>
struct Geometry {
  using V = typename Math::Value;
  V volume;        // 4! Vol, NaN where there is no simplex
  V area[10];      // 2 Area of the triangle opposite each edge
  V cofactor[10];  // det(G) grad(lambda_i) . grad(lambda_j) for each edge ij
};

// From squared lengths. G is the Gram matrix of the edge vectors at vertex 0; its cofactors, 2 x 2 minor by 2 x 2 minor.
template <class Math, class Mask>
GRAMIAN_FORMULA Geometry<Math> geometry(const typename Math::Value* d, const Mask& proper) {
  using V = typename Math::Value;
  const V g11 = d[0], g22 = d[1], g33 = d[2], g44 = d[3];
  const V g12 = 0.5 * (g11 + g22 - d[4]), g13 = 0.5 * (g11 + g33 - d[5]), g14 = 0.5 * (g11 + g44 - d[6]);
  const V g23 = 0.5 * (g22 + g33 - d[7]), g24 = 0.5 * (g22 + g44 - d[8]), g34 = 0.5 * (g33 + g44 - d[9]);
  const V s12 = g11 * g22 - g12 * g12, s13 = g11 * g23 - g13 * g12, s14 = g11 * g24 - g14 * g12;
  const V s23 = g12 * g23 - g13 * g22, s24 = g12 * g24 - g14 * g22, s34 = g13 * g24 - g14 * g23;
  const V c13 = g13 * g34 - g33 * g14, c14 = g13 * g44 - g34 * g14;
  const V c23 = g23 * g34 - g33 * g24, c24 = g23 * g44 - g34 * g24, c34 = g33 * g44 - g34 * g34;
  const V det = s12 * c34 - s13 * c24 + s14 * c23 + s23 * c14 - s24 * c13 + s34 * s34;
  const V b11 = g22 * c34 - g23 * c24 + g24 * c23, b12 = g13 * c24 - g12 * c34 - g14 * c23;
  const V b13 = g24 * s34 - g34 * s24 + g44 * s23, b14 = g33 * s24 - g23 * s34 - g34 * s23;
  const V b22 = g11 * c34 - g13 * c14 + g14 * c13, b23 = g34 * s14 - g14 * s34 - g44 * s13;
  const V b24 = g13 * s34 - g33 * s14 + g34 * s13, b33 = g14 * s24 - g24 * s14 + g44 * s12;
  const V b34 = g23 * s14 - g13 * s24 - g34 * s12, b44 = g13 * s23 - g23 * s13 + g33 * s12;
  Geometry<Math> result;
  // All leading minors, not the last alone: two negative eigenvalues also give a positive determinant. Flat to rounding
  // counts as flat.
  constexpr double kFlat = 64 * 2.220446049250313e-16;
  const auto there = proper & (s12 > 0) & (b44 > 0) & (det > kFlat * (g11 * g22) * (g33 * g44));
  result.volume = there ? Math::root(det) : Math::number(__builtin_nan(""));
  const auto area = [](V pq, V pr, V qr) {
    const V u = 0.5 * (pq + pr - qr);
    return Math::root(pq * pr - u * u);
  };
  result.area[0] = area(d[7], d[8], d[9]);
  result.area[1] = area(d[5], d[6], d[9]);
  result.area[2] = area(d[4], d[6], d[8]);
  result.area[3] = area(d[4], d[5], d[7]);
  result.area[4] = area(d[2], d[3], d[9]);
  result.area[5] = area(d[1], d[3], d[8]);
  result.area[6] = area(d[1], d[2], d[7]);
  result.area[7] = Math::root(g11 * g44 - g14 * g14);
  result.area[8] = Math::root(g11 * g33 - g13 * g13);
  result.area[9] = Math::root(s12);
  V* c = result.cofactor;
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

// cos and sin of a dihedral angle are as -C_ij to v a, a the triangle between the two facets: C_ii C_jj - C_ij^2 =
// (v a)^2, in which nothing cancels.
template <class Math>
GRAMIAN_FORMULA typename Math::Value dihedral(const Geometry<Math>& g, int edge) {
  return Math::angle(g.volume * g.area[edge], -g.cofactor[edge]);
}

// dS/dD_ij = (H K H)_ij / 2 and dlog v/dD_ij = -H_ij / 2 by squared lengths D, with H = C / v^2, K_ij = s_ij v / a_ij off
// the diagonal and K_ii such that T = K H has a zero diagonal. The rows of H, and so those of T, add up to zero. Reads
// label(edge), hands on put_label(edge, gradient) and put_length(edge, twice the gradient by the squared length).
template <class Math, class Label, class PutLabel, class PutLength>
GRAMIAN_FORMULA void pull_back(const Geometry<Math>& g, const typename Math::Value& by_action,
                               const typename Math::Value& by_log, const Label& label, const PutLabel& put_label,
                               const PutLength& put_length) {
  using V = typename Math::Value;
  const V* c = g.cofactor;
  V k[10], own[5], diagonal[5];
  GRAMIAN_UNROLL_10
  for (int e = 0; e < kEdges4; ++e) {
    k[e] = label(e) / g.area[e];
    put_label(e, by_action * dihedral(g, e));
  }
  GRAMIAN_UNROLL_10
  for (int i = 0; i < 5; ++i) {
    V row = {}, mixed = {};
    GRAMIAN_UNROLL_10
    for (int j = 0; j < 5; ++j)
      if (j != i) row -= c[edge_of(i, j)], mixed -= k[edge_of(i, j)] * c[edge_of(i, j)];
    diagonal[i] = row;
    own[i] = mixed / row;
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
