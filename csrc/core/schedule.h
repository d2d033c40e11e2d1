// Hands out the blocks of a sweep to any number of workers. A worker owns the rows that its block writes to (row block i;
// in a symmetric sweep i and j; in a full one that serves both sides, column block j too) until it is done, so per-row state
// needs no locks and no copies per worker.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>

namespace gramian {

enum class Sweep { full, symmetric, causal };

struct BlockPair {
  std::int64_t i, j;
};

class Schedule {
 public:
  Schedule(Sweep sweep, std::int64_t row_blocks, std::int64_t col_blocks, bool both_sides = false)
      : sweep_(sweep),
        rows_(row_blocks),
        cols_(col_blocks),
        first_col_(sweep == Sweep::symmetric ? 0
                   : both_sides              ? row_blocks
                                             : kNobody),
        total_(sweep == Sweep::full ? row_blocks * col_blocks : row_blocks * (row_blocks + 1) / 2),
        busy_(static_cast<std::size_t>(row_blocks + (both_sides ? col_blocks : 0)), false) {}

  std::int64_t size() const { return total_; }

  // The next block whose rows are free; waits for one if need be; false when none is left, or a worker has failed.
  bool next(BlockPair& block) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (failure_) return false;
      for (auto waiting = deferred_.begin(); waiting != deferred_.end(); ++waiting)
        if (is_free(*waiting)) {
          block = *waiting;
          deferred_.erase(waiting);
          return take(block);
        }
      while (next_ < total_ && deferred_.size() < kLookAhead) {
        block = at(next_++);
        if (is_free(block)) return take(block);
        deferred_.push_back(block);
      }
      if (deferred_.empty()) return false;
      // An hour, or for ever: the same here. wait() is a symbol of GCC 12's library, which RHEL 9 lacks.
      released_.wait_for(lock, std::chrono::hours(1));
    }
  }

  void done(const BlockPair& block) {
    {
      const std::lock_guard lock(mutex_);
      mark(block, false);
    }
    released_.notify_all();
  }

  // A worker gives up, and leaves its block undone: no more blocks for anyone.
  void fail(std::exception_ptr why) {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::move(why);
    }
    released_.notify_all();
  }

  // After all workers have ended: what the first one to fail threw.
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr std::size_t kLookAhead = 1024;
  static constexpr std::int64_t kNobody = -1;

  // Neighbours in this order share no rows as far as possible: down the columns of a full sweep, along the (wrapped)
  // diagonals of the others. The diagonal comes first, so that every row has seen a whole block early.
  BlockPair at(std::int64_t t) const {
    const std::int64_t i = t % rows_, offset = t / rows_;
    if (sweep_ == Sweep::full) return {i, first_col_ == kNobody ? offset : (i + offset) % cols_};
    const std::int64_t wrapped = (i + offset) % rows_;
    BlockPair block{i, wrapped};
    if ((sweep_ == Sweep::symmetric) != (block.i <= block.j)) std::swap(block.i, block.j);
    return block;
  }

  bool is_free(const BlockPair& b) const {
    return !busy_[static_cast<std::size_t>(b.i)] &&
           (first_col_ == kNobody || !busy_[static_cast<std::size_t>(first_col_ + b.j)]);
  }

  void mark(const BlockPair& b, bool busy) {
    busy_[static_cast<std::size_t>(b.i)] = busy;
    if (first_col_ != kNobody) busy_[static_cast<std::size_t>(first_col_ + b.j)] = busy;
  }

  bool take(const BlockPair& b) {
    mark(b, true);
    return true;
  }

  Sweep sweep_;
  std::int64_t rows_, cols_;
  std::int64_t first_col_;  // where the owners of columns stand in busy_
  std::int64_t total_, next_ = 0;
  std::vector<bool> busy_;
  std::vector<BlockPair> deferred_;
  std::exception_ptr failure_;
  std::mutex mutex_;
  std::condition_variable released_;
};

// Rows of a block: big enough that packing (one element per `rows` flops) is noise, small enough that there are `blocks` of
// them to share among workers. A multiple of every level's tile, so that only the last block of a matrix has a ragged
// edge. A sum whose order is that of its blocks must not let them depend on the number of threads.
inline std::int64_t block_rows(std::int64_t rows, std::int64_t blocks = 4) {
  constexpr std::int64_t kTileMultiple = 96, kMost = 2112;
  const std::int64_t wanted = (rows / blocks + kTileMultiple - 1) / kTileMultiple * kTileMultiple;
  return wanted < kTileMultiple ? kTileMultiple : wanted > kMost ? kMost : wanted;
}

inline std::int64_t block_count(std::int64_t rows, std::int64_t per_block) {
  return (rows + per_block - 1) / per_block;
}

}  // namespace gramian
