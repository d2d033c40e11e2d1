// What the neighbour ops know of their rows before the sweep: finite or not, range, mean, norms.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "core/rows.h"

namespace gramian {

struct Moments {
  std::int64_t first_bad = -1;  // the first row with a NaN or an infinity
  double largest = 0;           // max |x|
};

struct MomentsKernels {
  // Over rows [begin, end): adds x / count to `mean` [d].
  void (*accumulate_mean)(const Rows& x, std::int64_t begin, std::int64_t end, double count, double* mean,
                          Moments* moments);
  // squared_norm[i] = |(x_i - shift) * scale|^2 with the subtraction rounded as packing rounds it. `shift` [d] holds
  // values of the compute type, or is null.
  void (*squared_norms)(const Rows& x, std::int64_t begin, std::int64_t end, const void* shift, double scale,
                        double* squared_norm);
};

GRAMIAN_DECLARE_KERNELS(MomentsKernels, moments)

}  // namespace gramian
