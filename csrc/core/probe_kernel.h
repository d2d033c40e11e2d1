// Measures the engine itself: the FMA peak of one core, and a sweep whose epilogue only sums squares.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "core/rows.h"

namespace gramian {

struct ProbeKernels {
  // Runs `steps` rounds of independent FMAs in registers; returns the flops done. Nothing is loaded or stored.
  double (*fma_f32)(std::int64_t steps);
  double (*fma_f64)(std::int64_t steps);
  double (*fma_bf16)(std::int64_t steps);  // bfloat16 pairs, where has_bf16_dot(); else null
  // The same tile again and again from panels in L1; returns the flops done.
  double (*tile_f32)(std::int64_t depth, std::int64_t repeats, void* scratch);
  double (*tile_f64)(std::int64_t depth, std::int64_t repeats, void* scratch);
  // sum over i in [x_row, x_row + x_rows), j likewise, of (x_i . y_j)^2, accumulated in float64
  std::int64_t (*square_sum_scratch)(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth, Element element);
  double (*square_sum)(const Rows& x, std::int64_t x_row, std::int64_t x_rows, const Rows& y, std::int64_t y_row,
                       std::int64_t y_rows, void* scratch);
};

GRAMIAN_DECLARE_KERNELS(ProbeKernels, probe)

GRAMIAN_EXPORT const ProbeKernels& active_probe();

}  // namespace gramian
