// What the ops on 6j and 3j symbols share: admissible or not, the family of a symbol, families in groups of lanes.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"
#include "simplex/factorial_tables.h"
#include "simplex/sixj_formulas.h"

namespace gramian {

constexpr const char* kSixjSchema = "simplex_sixj(Tensor spins) -> Tensor";
constexpr const char* kThreejSchema = "simplex_threej(Tensor spins) -> Tensor";
constexpr const char* kSixjFamilySchema = "simplex_sixj_family(Tensor spins, int width) -> (Tensor, Tensor)";
constexpr const char* kSixjBlocksSchema = "simplex_sixj_blocks(Tensor blocks, int limit) -> (Tensor, Tensor)";

constexpr std::int64_t kLargestSpin = 20000;  // doubled: squares of squares of sums of two stay normal numbers

// The matrix of all 6j symbols with four given spins j2, j3, l2, l3: over j1 from `first`, l1 from `column`, 2 apart and
// up to `limit`.
struct Block {
  Family family;
  std::int64_t rows, cols;

  Block() = default;
  Block(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d, std::int64_t limit)
      : family(recoupling(a, b, c, d, std::max(std::abs(a - d), std::abs(c - b)))) {
    const std::int64_t last = family.first + 2 * (family.count - 1), column_last = std::min(a + d, c + b);
    const bool any = family.count > 0;
    rows = any ? std::max<std::int64_t>(0, (std::min(last, limit) - family.first + 2) / 2) : 0;
    cols = any ? std::max<std::int64_t>(0, (std::min(column_last, limit) - family.column + 2) / 2) : 0;
  }
  std::int64_t size() const { return rows * cols; }
};

inline void check_spins(const char* op, const char* name, const Tensor& spins, std::int64_t rows) {
  if (spins.scalar_type() != ScalarType::Long)
    refuse(op, ": ", name, " must be int64, got ", dtype_text(spins.scalar_type()));
  if (spins.dim() != 2 || spins.size(0) != rows)
    refuse(op, ": ", name, " must be [", rows, ", n], got shape ", shape_text(spins));
}

// A bound on `n` doubled spins, less than twice the largest; refuses negative ones and those beyond kLargestSpin.
inline std::int64_t bound_of_spins(const char* op, const char* name, const std::int64_t* spins, std::int64_t n) {
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < n; ++i) bits |= spins[i];
  if (bits >= 0 && bits <= kLargestSpin) return bits;
  for (std::int64_t i = 0; i < n; ++i)
    if (spins[i] < 0 || spins[i] > kLargestSpin)
      refuse(op, ": ", name, " must be doubled spins in [0, ", kLargestSpin, "], got ", spins[i]);
  return kLargestSpin;
}

constexpr std::int64_t kSymbolGrain = 2048;  // symbols that a worker sorts by length and runs at once

// values[i] = the target entry of family_of(i), 0 where that has no entries. Families of like length run side by side;
// what stands in the other lanes changes no result.
template <class Run, class FamilyOf>
void run_targets(std::int64_t n, std::int64_t longest, Run&& run, FamilyOf&& family_of, double* values) {
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const std::int64_t workers = worker_count((n + kSymbolGrain - 1) / kSymbolGrain);
  const Workspace scratch(workers, 8 * kernel.scratch(longest));
  run_pieces(n, kSymbolGrain, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
    struct Work {
      Family family;
      std::int64_t index;
    };
    std::vector<Work> work;
    work.reserve(static_cast<std::size_t>(end - begin));
    for (std::int64_t i = begin; i < end; ++i) {
      values[i] = 0;
      const Family family = family_of(i);
      if (family.count > 0) work.push_back({family, i});
    }
    std::sort(work.begin(), work.end(), [](const Work& a, const Work& b) {
      return a.family.count != b.family.count ? a.family.count < b.family.count : a.index < b.index;
    });
    std::array<Family, 64> group;
    std::array<double, 64> result;
    for (std::size_t w = 0; w < work.size(); w += static_cast<std::size_t>(kernel.lanes)) {
      const std::size_t lanes = std::min(work.size() - w, static_cast<std::size_t>(kernel.lanes));
      for (std::size_t l = 0; l < lanes; ++l) group[l] = work[w + l].family;
      run(group.data(), static_cast<std::int32_t>(lanes), static_cast<double*>(scratch.of(worker)), result.data());
      for (std::size_t l = 0; l < lanes; ++l) values[work[w + l].index] = result[l];
    }
  });
}

}  // namespace gramian
