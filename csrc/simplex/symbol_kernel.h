// One 6j symbol in each lane, by a few steps from an end of one of its families, where the symbol has a closed form.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "simplex/factorials.h"

namespace gramian {

struct SymbolKernels {
  // values[i] of the symbols spins[0][i] ... spins[5][i] = j1, j2, j3, l1, l2, l3, doubled, for i in [begin, end). NaN: not
  // decided here, because it takes too many steps, has lost digits or may be exactly zero.
  void (*symbols)(const std::int64_t* const* spins, std::int64_t begin, std::int64_t end, const Scaled* factorial,
                  double* values);
};

GRAMIAN_DECLARE_KERNELS(SymbolKernels, symbol)

}  // namespace gramian
