// Weights of 4-simplices on the device: a thread a simplex, all of it in registers.
#include <cmath>

#include "core/device.cuh"
#include "simplex/weight4_cuda.h"
#include "simplex/weight4_formulas.h"

namespace gramian::cuda {
namespace {

struct Scalars {
  using Value = double;
  GRAMIAN_DEVICE static double root(double v) { return sqrt(v); }
  GRAMIAN_DEVICE static double lower(double v, double w) { return fmin(v, w); }
  GRAMIAN_DEVICE static double size(double v) { return fabs(v); }
  GRAMIAN_DEVICE static double turned(double v, double by) { return by < 0 ? -v : v; }
  GRAMIAN_DEVICE static double number(double v) { return v; }
};

GRAMIAN_DEVICE Geometry<Scalars> read(const double* length, bool squared) {
  double d[kEdges4];
  bool proper = true;
  GRAMIAN_UNROLL
  for (int e = 0; e < kEdges4; ++e) {
    proper = proper && length[e] > 0;
    d[e] = squared ? length[e] : length[e] * length[e];
  }
  return geometry<Scalars>(d, proper);
}

__global__ void __launch_bounds__(kThreads) forward_kernel(Weight4Problem p, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const Geometry<Scalars> g = read(p.lengths + i * kEdges4, p.squared);
  double sum = 0;
  GRAMIAN_UNROLL
  for (int e = 0; e < kEdges4; ++e) {
    const Turned<Scalars> t = turned(g, e);
    sum += p.labels[i * kEdges4 + e] * dihedral(g, e, t.over / t.under, t.sign);
  }
  p.action[i] = sum;
  p.log_volume[i] = log(0.25 * g.volume);
}

__global__ void __launch_bounds__(kThreads, 1) backward_kernel(Weight4Problem p, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const double *const length = p.lengths + i * kEdges4, *const label = p.labels + i * kEdges4;
  double *const by_length = p.grad_lengths + i * kEdges4, *const by_label = p.grad_labels + i * kEdges4;
  pull_back(
      read(length, p.squared), p.grad_action[i], p.grad_log_volume[i], [=](int e) { return label[e]; },
      [=](int e, double v) { by_label[e] = v; },
      [=](int e, double v) { by_length[e] = p.squared ? v : 2 * length[e] * v; });
}

}  // namespace

void weight4(const Weight4Problem& problem, std::int64_t n, Stream stream) {
  launch(forward_kernel, grid_of_threads(n), 0, stream, problem, n);
}

void weight4_backward(const Weight4Problem& problem, std::int64_t n, Stream stream) {
  launch(backward_kernel, grid_of_threads(n), 0, stream, problem, n);
}

}  // namespace gramian::cuda
