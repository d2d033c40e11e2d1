// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ntk/jacobian_kernel.h"

#include "ntk/write_block.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// ---- Forming: J[r, o, i] = sum_t g[r, t, o] a[r, t, i], every lane a row of its own ----

// A tile of kO x kI vectors stays in registers over the positions. With a of one or two features most of a wide one would be
// padding.
constexpr int kWideI = kRegisters == 32 ? 6 : 4, kWideO = kRegisters == 32 ? 4 : 3, kNarrowO = kWideI * kWideO;

// Positions that are packed at a time: a tile's vectors of a (8 KiB) then stay in L1 while those of g pass by from L2.
constexpr std::int64_t kPositions = 64;
constexpr std::int64_t kGroups = 16;  // of kO features of g that are packed at a time

GRAMIAN_INLINE bool narrow(std::int64_t features) { return features < kWideI - 1; }

PanelLayout layout(std::int64_t features, bool) {
  return narrow(features) ? PanelLayout{features, kNarrowO} : PanelLayout{round_up(features, kWideI), kWideO};
}

// kLanes rows, one in each lane: where they begin. Lanes past the last row repeat it: what comes of them is never read.
struct LaneRows {
  std::int64_t offset[kVectorBytes / 4];
  int split;  // from this lane on the rows are another sample's; 0: of more than two samples
};

// Rows [row, row + kLanes) of outputs are samples' rows `row / outputs` of a, and rows of g themselves.
template <class T>
LaneRows lane_rows(const Rows& source, std::int64_t row, std::int64_t rows, std::int64_t outputs,
                   std::int64_t positions) {
  constexpr int kN = kLanes<T>;
  LaneRows lanes{};
  int samples = 1;
  lanes.split = kN;
  for (int r = 0; r < kN; ++r) {
    lanes.offset[r] = row_offset(source, smaller(row + r, rows - 1) / outputs * positions);
    if (r > 0 && lanes.offset[r] != lanes.offset[r - 1]) ++samples, lanes.split = r;
  }
  if (samples > 2 || source.element != kOwn<T>) lanes.split = 0;
  return lanes;
}

// Features [first, first + count) at positions [start, start + depth): feature k at position t becomes the vector
// (k / kGroup, t, k % kGroup). `source` is a copy, so that the compiler knows that no store changes it.
template <class T, int kGroup>
void pack_lanes(const Rows source, const LaneRows& lanes, std::int64_t first, std::int64_t count, std::int64_t start,
                std::int64_t depth, T* to) {
  constexpr int kN = kLanes<T>;
  const T* const values = static_cast<const T*>(source.data);
  const auto place = [&](std::int64_t k, std::int64_t t) {
    return to + ((k / kGroup * depth + t) * kGroup + k % kGroup) * kN;
  };
  // Positions of patches have two axes; those of others do not leave the first.
  const Axis lines = source.middle, line = source.inner;
  const auto position = [&](std::int64_t t) {
    return (start + t) / line.size * lines.stride + (start + t) % line.size * line.stride;
  };

  // Features from k on that are of one part.
  const auto adjacent = [&](std::int64_t k) {
    return source.part == 0 ? count - k : smaller(count - k, source.part - (first + k) % source.part);
  };

  if (lanes.split > 0) {  // one or two samples: their values, broadcast
    IntVec<T> second;
    for (int r = 0; r < kN; ++r) second[r] = r < lanes.split ? 0 : -1;
    for (std::int64_t t = 0; t < depth; ++t)
      for (std::int64_t k = 0; k < count;) {
        const std::int64_t length = adjacent(k), at = feature_offset(source, first + k) + position(t);
        const T* const one = values + lanes.offset[0] + at;
        const T* const other = values + lanes.offset[kN - 1] + at;
        for (std::int64_t f = 0; f < length; ++f, ++k)
          store(place(k, t), second ? broadcast(other[f * source.col_stride]) : broadcast(one[f * source.col_stride]));
      }
    return;
  }

  const auto square = [&](const Rows& along, std::int64_t at, int length, Vec<T>(&rows)[kN]) {
    if (length == kN && along.col_stride == 1 && along.element == kOwn<T>) {
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) rows[r] = load(values + lanes.offset[r] + at);
    } else {
      for (int r = 0; r < kN; ++r) rows[r] = load_at<T>(along, lanes.offset[r] + at, length);
    }
    transpose<T>(rows);
  };
  if (line.stride == 1 && source.col_stride != 1 &&
      start + depth <= line.size) {  // positions are adjacent in memory, as in an image
    Rows along = source;
    along.col_stride = 1;
    for (std::int64_t k = 0; k < count; ++k)
      for (std::int64_t t = 0; t < depth; t += kN) {
        const int length = static_cast<int>(smaller(kN, depth - t));
        Vec<T> rows[kN];
        square(along, feature_offset(source, first + k) + start + t, length, rows);
        for (int f = 0; f < length; ++f) store(place(k, t + f), rows[f]);
      }
    return;
  }
  for (std::int64_t t = 0; t < depth; ++t)
    for (std::int64_t k = 0; k < count;) {
      const int length = static_cast<int>(smaller(kN, adjacent(k)));
      Vec<T> rows[kN];
      square(source, feature_offset(source, first + k) + position(t), length, rows);
#pragma GCC unroll 16
      for (int f = 0; f < kN; ++f)
        if (f < length) store(place(k + f, t), rows[f]);
      k += length;
    }
}

// Features [count, round_up(count, kGroup)): the first is 1 where `ones` is set, the others are 0.
template <class T, int kGroup>
void pad_lanes(std::int64_t count, bool ones, std::int64_t depth, T* to) {
  constexpr int kN = kLanes<T>;
  for (std::int64_t k = count; k < round_up(count + (ones ? 1 : 0), kGroup); ++k)
    for (std::int64_t t = 0; t < depth; ++t)
      store(to + ((k / kGroup * depth + t) * kGroup + k % kGroup) * kN,
            broadcast(static_cast<T>(ones && k == count ? 1 : 0)));
}

// to[o * inner + i] (+)= sum_t g[t, o] a[t, i]. The side with fewer vectors waits in registers, the other passes by.
template <class T, int kO, int kI>
GRAMIAN_INLINE void form_tile(const T* g, const T* a, std::int64_t depth, bool accumulate, T* to, std::int64_t inner) {
  constexpr int kN = kLanes<T>;
  Vec<T> sum[kO][kI] = {};
  for (std::int64_t t = 0; t < depth; ++t, g += kO * kN, a += kI * kN) {
    if constexpr (kO < kI) {
      Vec<T> held[kO];
#pragma GCC unroll 24
      for (int o = 0; o < kO; ++o) held[o] = load(g + o * kN);
#pragma GCC unroll 24
      for (int i = 0; i < kI; ++i) {
        const Vec<T> passing = load(a + i * kN);
#pragma GCC unroll 24
        for (int o = 0; o < kO; ++o) sum[o][i] += held[o] * passing;
      }
    } else {
      static_assert(kI == 1);
      const Vec<T> held = load(a);
#pragma GCC unroll 24
      for (int o = 0; o < kO; ++o) sum[o][0] += held * load(g + o * kN);
    }
  }
#pragma GCC unroll 24
  for (int o = 0; o < kO; ++o)
#pragma GCC unroll 24
    for (int i = 0; i < kI; ++i) {
      T* const at = to + (o * inner + i) * kN;
      store(at, accumulate ? load(at) + sum[o][i] : sum[o][i]);
    }
}

template <class T>
std::int64_t form_values(const JacobianPiece& piece) {
  const std::int64_t depth = smaller(piece.positions, kPositions);
  const auto [inner, group] = layout(piece.a_count, sizeof(T) == 8);
  return depth * kLanes<T> * (inner + kGroups * group);
}

template <class T, int kO, int kI>
void form_as(const JacobianPiece& piece, std::int64_t panel, T* to, T* scratch) {
  constexpr int kN = kLanes<T>;
  const std::int64_t row = panel * kN, rows = piece.g.rows / piece.positions;
  const LaneRows a_rows = lane_rows<T>(piece.a, row, rows, piece.outputs, piece.positions);
  const LaneRows g_rows = lane_rows<T>(piece.g, row, rows, 1, piece.positions);
  const std::int64_t inner = round_up(piece.a_count, kI);
  const bool ones = piece.a_first + piece.a_count > piece.a.cols;  // the bias is the last feature
  const std::int64_t a_count = piece.a_count - (ones ? 1 : 0);
  for (std::int64_t start = 0; start < piece.positions; start += kPositions) {
    const std::int64_t depth = smaller(kPositions, piece.positions - start);
    T* const packed_a = scratch;
    T* const packed_g = packed_a + inner * depth * kN;
    pack_lanes<T, kI>(piece.a, a_rows, piece.a_first, a_count, start, depth, packed_a);
    pad_lanes<T, kI>(a_count, ones, depth, packed_a);
    for (std::int64_t o = 0; o < piece.g_count; o += kGroups * kO) {
      const std::int64_t count = smaller(kGroups * kO, piece.g_count - o);
      pack_lanes<T, kO>(piece.g, g_rows, piece.g_first + o, count, start, depth, packed_g);
      pad_lanes<T, kO>(count, false, depth, packed_g);
      for (std::int64_t i = 0; i < inner; i += kI)
        for (std::int64_t within = 0; within < count; within += kO)
          form_tile<T, kO, kI>(packed_g + within * depth * kN, packed_a + i * depth * kN, depth, start > 0,
                               to + ((o + within) * inner + i) * kN, inner);
    }
  }
}

template <class T>
void form_of(const JacobianPiece& piece, std::int64_t panel, const JacobianPanels& panels, void* scratch) {
  T* const to = static_cast<T*>(panels.values) + (panel * panels.stride + piece.at) * kLanes<T>;
  if (narrow(piece.a_count))
    form_as<T, kNarrowO, 1>(piece, panel, to, static_cast<T*>(scratch));
  else
    form_as<T, kWideO, kWideI>(piece, panel, to, static_cast<T*>(scratch));
}

// ---- Multiplying: every pair of rows, from the panels as they were formed ----

// kRows rows of one panel by kPanels panels: 12 accumulators of 16 registers, or 24 of 32.
template <class T>
constexpr int kPanelRows = (kRegisters == 32 ? 8 : 4) < kLanes<T> ? (kRegisters == 32 ? 8 : 4) : kLanes<T>;
constexpr int kPanelsAtOnce = 3;
constexpr std::int64_t kDepth = 128;  // vectors of a panel that are multiplied before the sums are put down

template <class T, int kPanels>
GRAMIAN_INLINE void multiply(const T* rows, const T* cols, std::int64_t panel_size, std::int64_t depth, bool accumulate,
                             T* to, std::int64_t stride) {
  constexpr int kN = kLanes<T>, kRows = kPanelRows<T>;
  Vec<T> sum[kRows][kPanels] = {};
// A loop of 128 rounds would end in a branch that the processor does not foresee.
#pragma GCC unroll 8
  for (std::int64_t k = 0; k < depth; ++k, rows += kN, cols += kN) {
    Vec<T> col[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) col[p] = load(cols + p * panel_size);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = broadcast(rows[r]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sum[r][p] += row * col[p];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      T* const at = to + r * stride + p * kN;
      store(at, accumulate ? load(at) + sum[r][p] : sum[r][p]);
    }
}

template <class T, int kPanels>
GRAMIAN_INLINE void multiply_panel(const T* row_panel, const T* cols, std::int64_t panel_size, std::int64_t depth,
                                   bool accumulate, T* to, std::int64_t stride) {
  for (int r = 0; r < kLanes<T>; r += kPanelRows<T>)
    multiply<T, kPanels>(row_panel + r, cols, panel_size, depth, accumulate, to + r * stride, stride);
}

template <class T>
void product_of(const JacobianPanels& x, const JacobianPanels& y, std::int64_t first, std::int64_t count,
                const GramBlock& block, T* sum) {
  constexpr int kN = kLanes<T>;
  const std::int64_t x_size = x.stride * kN, y_size = y.stride * kN;
  const std::int64_t row_panels = round_up(block.rows, kN) / kN, col_panels = round_up(block.cols, kN) / kN;
  const T* const row_side = static_cast<const T*>(x.values) + block.row / kN * x_size;
  const T* const col_side = static_cast<const T*>(y.values) + block.col / kN * y_size;
  const std::int64_t stride = col_panels * kN;
  std::int64_t k = 0;
  do {  // once even when there is nothing to multiply: the sums are then zero
    const std::int64_t depth = smaller(kDepth, count - k);
    for (std::int64_t j = 0; j < col_panels;) {
      // These columns stay in L1 while the rows pass by. Four left are two and two: one panel has too few sums for the latency.
      const std::int64_t left = col_panels - j;
      const std::int64_t width = left == kPanelsAtOnce || left > kPanelsAtOnce + 1 ? kPanelsAtOnce : left > 1 ? 2 : 1;
      const std::int64_t end = block.upper ? smaller(row_panels, j + width) : row_panels;
      for (std::int64_t i = 0; i < end; ++i) {
        const std::int64_t begin = block.upper ? larger(i, j) : j;
        const T* const rows = row_side + i * x_size + (first + k) * kN;
        const T* const cols = col_side + begin * y_size + (first + k) * kN;
        T* const to = sum + i * kN * stride + begin * kN;
        switch (j + width - begin) {
          case 3: multiply_panel<T, 3>(rows, cols, y_size, depth, k > 0, to, stride); break;
          case 2: multiply_panel<T, 2>(rows, cols, y_size, depth, k > 0, to, stride); break;
          default: multiply_panel<T, 1>(rows, cols, y_size, depth, k > 0, to, stride);
        }
      }
      j += width;
    }
    k += kDepth;
  } while (k < count);
  write_block(block, sum, stride);
}

// An odd number of stretches: those of successive panels then fall into different sets of the caches.
std::int64_t panel_stride(std::int64_t depth) {
  return depth <= kDepth ? depth : (round_up(depth, kDepth) / kDepth | 1) * kDepth;
}

std::int64_t panel_rows(bool wide) { return wide ? kLanes<double> : kLanes<float>; }

std::int64_t form_scratch(const JacobianPiece& piece, bool wide) {
  return wide ? form_values<double>(piece) * 8 : form_values<float>(piece) * 4;
}

void form(const JacobianPiece& piece, std::int64_t panel, const JacobianPanels& panels, bool wide, void* scratch) {
  wide ? form_of<double>(piece, panel, panels, scratch) : form_of<float>(piece, panel, panels, scratch);
}

std::int64_t product_scratch(std::int64_t rows, std::int64_t cols, bool wide) {
  const std::int64_t lanes = panel_rows(wide);
  return round_up(rows, lanes) * round_up(cols, lanes) * (wide ? 8 : 4);
}

void product(const JacobianPanels& x, const JacobianPanels& y, std::int64_t first, std::int64_t count,
             const GramBlock& block, bool wide, void* scratch) {
  wide ? product_of(x, y, first, count, block, static_cast<double*>(scratch))
       : product_of(x, y, first, count, block, static_cast<float*>(scratch));
}

}  // namespace

extern const JacobianKernels jacobian{panel_rows, panel_stride, layout, form_scratch, form, product_scratch, product};

}  // namespace gramian::GRAMIAN_ISA
