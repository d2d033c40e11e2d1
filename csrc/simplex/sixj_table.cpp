// gramian::simplex_sixj_table: all 6j symbols of doubled spins up to a largest, block by block.
//
// With j2, j3, l2, l3 around a square, turning and reflecting it leaves the matrix of a block as it is or transposes it. So
// the eight images of a block stand side by side, and one of them is computed.
#include <algorithm>
#include <array>
#include <bit>
#include <tuple>
#include <vector>

#include "simplex/sixj.h"

namespace gramian {
namespace {

constexpr std::int64_t kOrbitGrain = 32;

// Four spins around a square, 16 bits each, j2 in the highest: to turn the square is to rotate the bits.
using Square = std::uint64_t;

Square square_of(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return static_cast<Square>(a << 48 | b << 32 | c << 16 | d);
}

std::int64_t corner(Square s, int k) { return static_cast<std::int64_t>(s >> (48 - 16 * k) & 0xffff); }

// The different images of a square, itself first; none if it is not the largest of them, which stands for all.
struct Orbit {
  std::array<Square, 8> images;
  std::array<bool, 8> transposed;
  int size = 0;

  explicit Orbit(Square s) {
    const std::int64_t a = corner(s, 0), b = corner(s, 1), c = corner(s, 2), d = corner(s, 3);
    const bool repeats = b == d || a == c || (a == b && c == d) || (a == d && b == c);
    const Square mirrored = square_of(a, d, c, b);
    for (int k = 0; k < 8; ++k) {
      const Square image = std::rotl(k % 2 == 0 ? s : mirrored, 16 * (k / 2));
      if (image > s) {
        size = 0;
        return;
      }
      const auto end = images.begin() + size;
      if (repeats && std::find(images.begin(), end, image) != end) continue;
      transposed[static_cast<std::size_t>(size)] = (k / 2 + k) % 2 == 1;
      images[static_cast<std::size_t>(size++)] = image;
    }
  }
};

// cursor: an int64 scalar, 0 for the first call and then what the last call gave, until it gives -1. Returns blocks [4, n],
// offsets [n + 1], values and the next cursor. A call stops behind the first orbits that bring it to `room` values.
std::tuple<Tensor, Tensor, Tensor, Tensor> simplex_sixj_table_cpu(const Tensor& cursor, std::int64_t largest,
                                                                  std::int64_t room) {
  constexpr const char* kOp = "sixj_table";
  constexpr std::int64_t kLargestTable = 200;
  if (cursor.scalar_type() != ScalarType::Long || cursor.numel() != 1)
    refuse(kOp, ": cursor must be one int64, got ", dtype_text(cursor.scalar_type()), " of shape ", shape_text(cursor));
  if (largest < 0 || largest > kLargestTable)
    refuse(kOp, ": two_j_max must be in [0, ", kLargestTable, "], got ", largest);
  if (room < 1) refuse(kOp, ": room must be at least 1, got ", room);
  const std::int64_t base = largest + 1, end = base * base * base,
                     begin = *static_cast<const std::int64_t*>(cursor.const_data_ptr());
  if (begin < 0 || begin >= end) refuse(kOp, ": cursor must be in [0, ", end, "), got ", begin);

  // One square stands for its images: its first corner is the largest, its second not less than its last.
  struct Work {
    Square square;
    std::int64_t block, offset;
  };
  std::vector<Work> work;
  std::int64_t total = 0, count = 0, longest = 1, at = begin;
  for (; at < end && total < room; ++at) {
    const std::int64_t a = at / (base * base), b = at / base % base, c = at % base;
    if (b > a || c > a) continue;
    for (std::int64_t d = (a + b + c) % 2; d <= b; d += 2) {
      const Block block(a, b, c, d, largest);
      if (block.size() == 0) continue;
      const Square square = square_of(a, b, c, d);
      const Orbit orbit(square);
      if (orbit.size == 0) continue;
      work.push_back({square, count, total});
      count += orbit.size;
      total += orbit.size * block.size();
      longest = std::max<std::int64_t>(longest, block.family.count);
    }
  }
  Tensor blocks = torch::stable::new_empty(cursor, {4, count}, ScalarType::Long);
  Tensor offsets = torch::stable::new_empty(cursor, {count + 1}, ScalarType::Long);
  Tensor values = torch::stable::new_empty(cursor, {total}, ScalarType::Double);
  Tensor next = torch::stable::new_empty(cursor, {}, ScalarType::Long);
  *static_cast<std::int64_t*>(next.mutable_data_ptr()) = at < end ? at : -1;
  auto* spin = static_cast<std::int64_t*>(blocks.mutable_data_ptr());
  auto* offset = static_cast<std::int64_t*>(offsets.mutable_data_ptr());
  auto* out = static_cast<double*>(values.mutable_data_ptr());
  offset[count] = total;
  const auto tables = factorials_up_to(2 * largest);
  const auto& kernel = GRAMIAN_KERNELS(sixj);
  const auto orbits = static_cast<std::int64_t>(work.size());
  const Workspace scratch(worker_count((orbits + kOrbitGrain - 1) / kOrbitGrain), 8 * kernel.scratch(longest));
  run_pieces(orbits, kOrbitGrain, [&](std::int64_t from, std::int64_t to, std::int64_t worker) {
    for (std::int64_t w = from; w < to; ++w) {
      const Work& own = work[static_cast<std::size_t>(w)];
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
  return {blocks, offsets, values, next};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def("simplex_sixj_table(Tensor cursor, int two_j_max, int room) -> (Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("simplex_sixj_table", GRAMIAN_BOX(&simplex_sixj_table_cpu)); }

}  // namespace gramian
