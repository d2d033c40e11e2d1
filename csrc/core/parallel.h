// Work over torch's own threads. Results never depend on how many there are: a worker writes only what it owns.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>

#include "core/interrupt.h"
#include "core/schedule.h"

namespace gramian {

inline std::int64_t worker_count(std::int64_t tasks) {
  return std::clamp<std::int64_t>(torch::stable::get_num_threads(), 1, std::max<std::int64_t>(tasks, 1));
}

// body(worker) once for each worker. It must not throw.
template <class Body>
void run_workers(std::int64_t workers, Body&& body) {
  torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) body(worker);
  });
}

// body(block, worker) for every block of a sweep. What one throws, or a wish to stop, ends the others after their blocks and then
// reaches the caller.
template <class Body>
void run_sweep(Schedule& schedule, std::int64_t workers, Body&& body) {
  const std::thread::id caller = std::this_thread::get_id();
  run_workers(workers, [&](std::int64_t worker) {
    try {
      for (BlockPair block{}; schedule.next(block); schedule.done(block)) {
        body(block, worker);
        if (std::this_thread::get_id() == caller) check_interrupt();
      }
    } catch (...) {
      schedule.fail(std::current_exception());
    }
  });
  schedule.rethrow();
}

// body(begin, end, worker) over [0, count) in pieces of `grain`, handed out in any order.
template <class Body>
void run_pieces(std::int64_t count, std::int64_t grain, Body&& body) {
  if (count == 0) return;
  Schedule pieces(Sweep::full, (count + grain - 1) / grain, 1);
  run_sweep(pieces, worker_count(pieces.size()), [&](const BlockPair& piece, std::int64_t worker) {
    body(piece.i * grain, std::min(count, (piece.i + 1) * grain), worker);
  });
}

}  // namespace gramian
