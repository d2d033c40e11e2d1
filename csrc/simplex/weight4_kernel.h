// Weights of 4-simplices: action and volume, and what they pull back to edge lengths and face labels.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

constexpr int kEdges4 = 10;  // 01, 02, 03, 04, 12, 13, 14, 23, 24, 34

// All arrays contiguous; lengths, labels and their gradients are [n, 10]. The label of the triangle opposite an edge
// stands where the edge stands.
struct Weight4Problem {
  const double* lengths;  // or their squares, if `squared`
  const double* labels;
  bool squared;
  double* action;             // forward: S = sum of label times dihedral angle
  double* log_volume;         // forward: log(4! Vol)
  const double* grad_action;  // backward
  const double* grad_log_volume;
  double* grad_lengths;
  double* grad_labels;
};

struct Weight4Kernels {
  // Simplices [begin, end). One that no Euclidean 4-simplex has gives NaN, and so do all of its gradients.
  void (*forward)(const Weight4Problem& problem, std::int64_t begin, std::int64_t end);
  void (*backward)(const Weight4Problem& problem, std::int64_t begin, std::int64_t end);
};

GRAMIAN_DECLARE_KERNELS(Weight4Kernels, weight4)

}  // namespace gramian
