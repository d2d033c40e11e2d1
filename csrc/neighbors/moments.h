// What the neighbour ops measure of their rows before any work.
#pragma once
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "core/refuse.h"
#include "neighbors/moments_kernel.h"
#include "neighbors/unit.h"

namespace gramian {

constexpr std::int64_t kPadding = 64;     // lanes that a tile may read past the last row
constexpr std::int64_t kStatBlock = 512;  // rows a worker measures at once; fixed, so that sums round the same

struct Means {
  std::vector<double> mean;
  double largest;
};

// Refuses rows that are not finite.
inline Means measure(const char* op, const char* name, const Rows& rows) {
  const std::size_t d = static_cast<std::size_t>(rows.cols);
  const std::int64_t blocks = block_count(rows.rows, kStatBlock);
  std::vector<double> means(static_cast<std::size_t>(blocks) * d);
  std::vector<Moments> moments(static_cast<std::size_t>(blocks));
  run_pieces(rows.rows, kStatBlock, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
    const auto block = static_cast<std::size_t>(begin / kStatBlock);
    GRAMIAN_KERNELS(moments).accumulate_mean(rows, begin, end, static_cast<double>(rows.rows), &means[block * d],
                                             &moments[block]);
  });
  Means result{std::vector<double>(d), 0};
  for (std::size_t b = 0; b < moments.size(); ++b) {
    if (moments[b].first_bad >= 0)
      refuse(op, ": ", name, " must be finite, got a NaN or an infinity in row ", moments[b].first_bad);
    result.largest = std::max(result.largest, moments[b].largest);
    for (std::size_t k = 0; k < d; ++k) result.mean[k] += means[b * d + k];
  }
  return result;
}

}  // namespace gramian
