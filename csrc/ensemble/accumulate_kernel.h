// Sums over models of deviations from a target, and of their squares: what a bias-variance decomposition keeps of a model.
// Bound by reading the predictions once: a chunk of the sums stays in the first cache while the models stream by.
#pragma once
#include <cstdint>

#include "core/isa.h"

namespace gramian {

template <class T>
struct AccumulateProblem {
  const T* predictions;  // [models, points, outputs], the last two contiguous
  std::int64_t models, model_stride;
  const T* target;  // [points, outputs], or null: then the deviation is the prediction, and squares are not wanted
  std::int64_t outputs;
  double* sums;     // [points, outputs] += deviation
  double* squares;  // [points] += |deviation|^2
};

template <class T>
struct AccumulateKernels {
  // Points [begin, end), which nobody else writes.
  void (*accumulate)(const AccumulateProblem<T>& problem, std::int64_t begin, std::int64_t end);
};

GRAMIAN_DECLARE_KERNELS(AccumulateKernels<float>, accumulate_f32)
GRAMIAN_DECLARE_KERNELS(AccumulateKernels<double>, accumulate_f64)

}  // namespace gramian
