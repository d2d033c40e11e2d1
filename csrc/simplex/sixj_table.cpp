// gramian::simplex_sixj_table: all 6j symbols of doubled spins up to a largest, block by block.
#include "simplex/sixj_table.h"

#include <tuple>

namespace gramian {
namespace {

constexpr std::int64_t kOrbitGrain = 32;

// cursor: an int64 scalar, 0 for the first call and then what the last call gave, until it gives -1. Returns blocks [4, n],
// offsets [n + 1], values and the next cursor. A call stops behind the first orbits that bring it to `room` values.
std::tuple<Tensor, Tensor, Tensor, Tensor> simplex_sixj_table_cpu(const Tensor& cursor, std::int64_t largest,
                                                                  std::int64_t room) {
  TableCall::check(cursor, largest, room);
  TableCall call(cursor, *static_cast<const std::int64_t*>(cursor.const_data_ptr()), largest, room);
  *static_cast<std::int64_t*>(call.cursor_after.mutable_data_ptr()) = call.next;
  const std::int64_t count = call.count;
  auto* spin = static_cast<std::int64_t*>(call.blocks.mutable_data_ptr());
  auto* offset = static_cast<std::int64_t*>(call.offsets.mutable_data_ptr());
  auto* out = static_cast<double*>(call.values.mutable_data_ptr());
  offset[count] = call.total;
  const auto tables = factorials_up_to(2 * largest);
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const auto orbits = static_cast<std::int64_t>(call.work.size());
  const Workspace scratch(worker_count((orbits + kOrbitGrain - 1) / kOrbitGrain), 8 * kernel.scratch(call.longest));
  run_pieces(orbits, kOrbitGrain, [&](std::int64_t from, std::int64_t to, std::int64_t worker) {
    for (std::int64_t w = from; w < to; ++w) {
      const TableCall::Work& own = call.work[static_cast<std::size_t>(w)];
      const auto at_corner = [&](int k) { return corner(own.square, k); };
      const Block block(at_corner(0), at_corner(1), at_corner(2), at_corner(3), largest);
      const Orbit orbit(own.square);
      double* const first = out + own.offset;
      double* turned = nullptr;
      for (int k = 0; k < orbit.size; ++k) {
        const auto image = static_cast<std::size_t>(k);
        for (int i = 0; i < 4; ++i) spin[i * count + own.block + k] = corner(orbit.images[image], i);
        double* const here = first + k * block.size();
        offset[own.block + k] = here - out;
        if (k == 0) {
          kernel.block(block.family, block.rows, block.cols, tables->view(), static_cast<double*>(scratch.of(worker)),
                       here);
        } else if (!orbit.transposed[image]) {
          std::copy_n(first, block.size(), here);
        } else if (turned != nullptr) {
          std::copy_n(turned, block.size(), here);
        } else {
          kernel.transpose(first, block.rows, block.cols, here);
          turned = here;
        }
      }
    }
  });
  return {call.blocks, call.offsets, call.values, call.cursor_after};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kSixjTableSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj_table", GRAMIAN_BOX(&simplex_sixj_table_cpu)); }

}  // namespace gramian
