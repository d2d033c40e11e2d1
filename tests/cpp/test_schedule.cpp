// The schedule hands out each block once, and never two blocks that write the same rows at a time.
#include "core/schedule.h"

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "check.h"

using namespace gramian;

namespace {

void run(Sweep sweep, std::int64_t rows, std::int64_t cols, int workers, bool both_sides = false) {
  Schedule schedule(sweep, rows, cols, both_sides);
  std::vector<std::int64_t> owned_cols(static_cast<std::size_t>(cols));
  std::vector<std::int64_t> owned(static_cast<std::size_t>(rows));  // plain: a race here is what TSan looks for
  std::vector<std::vector<BlockPair>> seen(static_cast<std::size_t>(workers));
  std::vector<std::thread> threads;
  for (int w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      for (BlockPair block{}; schedule.next(block); schedule.done(block)) {
        ++owned[static_cast<std::size_t>(block.i)];
        if (sweep == Sweep::symmetric) ++owned[static_cast<std::size_t>(block.j)];
        if (both_sides) ++owned_cols[static_cast<std::size_t>(block.j)];
        seen[static_cast<std::size_t>(w)].push_back(block);
      }
    });
  for (auto& thread : threads) thread.join();

  std::set<std::pair<std::int64_t, std::int64_t>> all;
  std::size_t count = 0;
  for (const auto& of : seen)
    for (const BlockPair& block : of) {
      all.emplace(block.i, block.j);
      ++count;
      CHECK(block.i >= 0 && block.i < rows && block.j >= 0 && block.j < cols, block.i, block.j);
      if (sweep == Sweep::symmetric) CHECK(block.i <= block.j, block.i, block.j);
      if (sweep == Sweep::causal) CHECK(block.i >= block.j, block.i, block.j);
    }
  CHECK(all.size() == count, all.size(), count);
  CHECK(static_cast<std::int64_t>(count) == schedule.size(), count, schedule.size());
  CHECK(schedule.size() == (sweep == Sweep::full ? rows * cols : rows * (rows + 1) / 2), rows, cols);
}

}  // namespace

int main() {
  for (const int workers : {1, 2, 5})
    for (const std::int64_t rows : {1, 2, 3, 8, 31}) {
      run(Sweep::full, rows, 7, workers);
      run(Sweep::full, rows, 7, workers, true);
      run(Sweep::symmetric, rows, rows, workers);
      run(Sweep::causal, rows, rows, workers);
    }
  run(Sweep::full, 3, 0, 2);
  for (const std::int64_t rows : {0, 1, 95, 96, 97, 5000, 1000000}) {
    CHECK(block_rows(rows) % 96 == 0 && block_rows(rows) > 0, rows);
    CHECK(block_count(rows, block_rows(rows)) * block_rows(rows) >= rows, rows);
  }
  return failures != 0;
}
