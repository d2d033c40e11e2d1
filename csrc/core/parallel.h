// Work over torch's own threads. Results never depend on how many there are: a worker writes only what it owns.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "core/schedule.h"

namespace gramian {

inline std::int64_t worker_count(std::int64_t tasks) {
  return std::clamp<std::int64_t>(torch::stable::get_num_threads(), 1, std::max<std::int64_t>(tasks, 1));
}

// body(worker) once for each worker. It must not throw: allocate before.
template <class Body>
void run_workers(std::int64_t workers, Body&& body) {
  torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) body(worker);
  });
}

// body(begin, end, worker) over [0, count) in pieces of `grain`, handed out in any order.
template <class Body>
void run_pieces(std::int64_t count, std::int64_t grain, Body&& body) {
  if (count == 0) return;
  Schedule pieces(Sweep::full, (count + grain - 1) / grain, 1);
  run_workers(worker_count(pieces.size()), [&](std::int64_t worker) {
    for (BlockPair piece{}; pieces.next(piece); pieces.done(piece))
      body(piece.i * grain, std::min(count, (piece.i + 1) * grain), worker);
  });
}

// body(block, worker) for every block of a sweep.
template <class Body>
void run_sweep(Schedule& schedule, std::int64_t workers, Body&& body) {
  run_workers(workers, [&](std::int64_t worker) {
    for (BlockPair block{}; schedule.next(block); schedule.done(block)) body(block, worker);
  });
}

}  // namespace gramian
