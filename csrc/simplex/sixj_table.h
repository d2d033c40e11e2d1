// gramian::simplex_sixj_table, on every device: its schema, what it asks of its arguments, and which blocks a call computes.
//
// With j2, j3, l2, l3 around a square, turning and reflecting it leaves the matrix of a block as it is or transposes it. So
// the eight images of a block stand side by side, and one of them is computed.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "simplex/sixj.h"

namespace gramian {

constexpr const char* kSixjTableSchema =
    "simplex_sixj_table(Tensor cursor, int two_j_max, int room) -> (Tensor, Tensor, Tensor, Tensor)";

// Four spins around a square, 16 bits each, j2 in the highest: to turn the square is to rotate the bits.
using Square = std::uint64_t;

inline Square square_of(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return static_cast<Square>(a << 48 | b << 32 | c << 16 | d);
}

inline std::int64_t corner(Square s, int k) { return static_cast<std::int64_t>(s >> (48 - 16 * k) & 0xffff); }

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

// The blocks of one call, from `begin` on until there are `room` values.
struct TableCall {
  // One square stands for its images: its first corner is the largest, its second not less than its last.
  struct Work {
    Square square;
    std::int64_t block, offset;
  };
  std::vector<Work> work;
  std::int64_t total = 0, count = 0, longest = 1, next;

  // `begin` is what `cursor` holds.
  TableCall(const Tensor& cursor, std::int64_t begin, std::int64_t largest, std::int64_t room) {
    const std::int64_t base = largest + 1, end = base * base * base;
    if (begin < 0 || begin >= end) refuse(kOp, ": cursor must be in [0, ", end, "), got ", begin);
    std::int64_t at = begin;
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
    next = at < end ? at : -1;
    blocks = allocate(cursor, {4, count}, ScalarType::Long);
    offsets = allocate(cursor, {count + 1}, ScalarType::Long);
    values = allocate(cursor, {total}, ScalarType::Double);
    cursor_after = allocate(cursor, {}, ScalarType::Long);
  }
  Tensor blocks, offsets, values, cursor_after;

  static void check(const Tensor& cursor, std::int64_t largest, std::int64_t room) {
    constexpr std::int64_t kLargestTable = 200;
    if (cursor.scalar_type() != ScalarType::Long || cursor.numel() != 1)
      refuse(kOp, ": cursor must be one int64, got ", dtype_text(cursor.scalar_type()), " of shape ",
             shape_text(cursor));
    if (largest < 0 || largest > kLargestTable)
      refuse(kOp, ": two_j_max must be in [0, ", kLargestTable, "], got ", largest);
    if (room < 1) refuse(kOp, ": room must be at least 1, got ", room);
  }

 private:
  static constexpr const char* kOp = "sixj_table";
};

}  // namespace gramian
