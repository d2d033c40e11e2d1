// What the CUDA kernels compute of indices alone: every tile of a sweep is visited once.
#include <set>
#include <utility>

#include "check.h"
#include "core/sweep.cuh"

using namespace gramian;

int main() {
  for (const Sweep sweep : {Sweep::full, Sweep::symmetric, Sweep::causal})
    for (std::int64_t rows = 0; rows <= 40; ++rows)
      for (const std::int64_t cols : {std::int64_t{0}, std::int64_t{1}, std::int64_t{7}, rows}) {
        if (sweep != Sweep::full && cols != rows) continue;
        std::set<std::pair<std::int64_t, std::int64_t>> seen;
        const std::int64_t count = cuda::tile_count(sweep, rows, cols);
        for (std::int64_t t = 0; t < count; ++t) {
          const cuda::TilePair at = cuda::tile_at(sweep, t, rows, cols);
          CHECK(at.i >= 0 && at.i < rows && at.j >= 0 && at.j < cols, rows, cols, t, at.i, at.j);
          if (sweep == Sweep::symmetric) CHECK(at.i <= at.j, rows, t, at.i, at.j);
          if (sweep == Sweep::causal) CHECK(at.i >= at.j, rows, t, at.i, at.j);
          seen.emplace(at.i, at.j);
        }
        CHECK(static_cast<std::int64_t>(seen.size()) == count, rows, cols, count);
        CHECK(count == (sweep == Sweep::full ? rows * cols : rows * (rows + 1) / 2), rows, cols);
      }
  return failures != 0;
}
