// What is known of attention at (q, k, v) before any direction, and how it comes about. Per-level code (see lanes.h).
#pragma once
#include "attention/attention_kernel.h"
#include "attention/products.h"
#include "core/vmath.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Parts of one stretch of memory, one after another, each aligned to a vector.
template <class T>
struct Layout {
  T* at;

  explicit Layout(void* memory) : at(static_cast<T*>(memory)) {}
  T* take(std::int64_t size, bool wanted = true) {
    T* part = at;
    if (wanted) at += round_up(size, kTileCols<T>);
    return part;
  }
};

// One block of query rows.
struct Block {
  std::int64_t first, rows, padded;  // rows in the matrix; rows here, and in whole tiles
  std::int64_t strips;               // of keys that any of these rows sees
};

template <class T>
GRAMIAN_INLINE Block block_of(const AttentionShape& s, std::int64_t first, std::int64_t end) {
  const std::int64_t rows = end - first < kAttentionRows ? end - first : kAttentionRows;
  const std::int64_t seen = s.causal && first + rows < s.m ? first + rows : s.m;
  return {first, rows, round_up(rows, kTileRows<T>), round_up(seen, kTileCols<T>) / kTileCols<T>};
}

// Where the probabilities of the block that starts at `first` begin, if all are kept.
template <class T>
std::int64_t probabilities_before(const AttentionShape& s, std::int64_t first) {
  std::int64_t size = 0;
  for (std::int64_t row = 0; row < first; row += kAttentionRows) {
    const Block b = block_of<T>(s, row, s.n);
    size += b.strips * b.padded * kTileCols<T>;
  }
  return size;
}

// By features: panels of a tile's rows or columns, d deep, for products of queries with keys. By keys or rows: panels of
// kTileCols features, all keys or a block's rows deep, for products with probabilities.
template <class T>
struct State {
  std::int64_t keys;  // in whole strips
  T *k, *v, *k_by_key, *v_by_key, *bias;
  T *q, *q_by_row, *out;
  T *best_k, *highest,
      *weight;  // of each row: the key of its largest score, that score, and 1 / sum of exp(score - largest)
  std::int32_t* best;
  T *p, *end;

  State(const AttentionShape& s, void* memory) : keys(round_up(s.m, kTileCols<T>)) {
    const std::int64_t wide_d = round_up(s.d, kTileCols<T>), wide_dv = round_up(s.dv, kTileCols<T>);
    const std::int64_t rows = round_up(s.n, kTileRows<T>);
    Layout<T> layout(memory);
    k = layout.take(keys * s.d);
    v = layout.take(keys * s.dv);
    k_by_key = layout.take(keys * wide_d);
    v_by_key = layout.take(keys * wide_dv);
    bias = layout.take(keys);
    q = layout.take(rows * s.d);
    q_by_row = layout.take(rows * wide_d);
    out = layout.take(rows * s.dv);
    best_k = layout.take(rows * s.d);
    highest = layout.take(rows);
    weight = layout.take(rows);
    best = reinterpret_cast<std::int32_t*>(layout.take(rows));
    p = layout.take(probabilities_before<T>(s, s.n), s.kept);
    end = layout.at;
  }
};

// Σ_f a_f b_f of one key of panels by features. Packed values have one layout, whatever that of the tensors was: one rounding.
template <class T>
GRAMIAN_INLINE T key_product(const T* a, const T* b, std::int64_t key, std::int64_t d) {
  const std::int64_t first = key / kTileCols<T> * kTileCols<T> * d + key % kTileCols<T>;
  T sum = 0;
  for (std::int64_t f = 0; f < d; ++f) sum += a[first + f * kTileCols<T>] * b[first + f * kTileCols<T>];
  return sum;
}

template <class T>
void pack_state_of(const AttentionShape& s, const AttentionHead& head) {
  const State<T> state(s, head.state);
  // No byte of a state is left to chance: equal inputs give equal states.
  __builtin_memset(head.state, 0, static_cast<std::size_t>(state.p - state.k) * sizeof(T));
  pack_by_features<T, kTileCols<T>>(head.k, 0, s.m, state.keys, state.k);
  pack_by_features<T, kTileCols<T>>(head.v, 0, s.m, state.keys, state.v);
  pack_by_rows<T>(head.k, 0, s.m, state.keys, state.k_by_key);
  pack_by_rows<T>(head.v, 0, s.m, state.keys, state.v_by_key);
  for (std::int64_t j = 0; j < state.keys; ++j) {
    const T square = s.l2 ? key_product(state.k, state.k, j, s.d) : 0;
    state.bias[j] = static_cast<T>(-0.5 * s.scale) * square;
  }
}

// Products of a tile to scores, minus infinity where a row may not look.
template <class T>
GRAMIAN_INLINE void to_scores(const AttentionShape& s, const AttentionHead& head, const State<T>& state, const Block& b,
                              std::int64_t strip, std::int64_t i, T* tile) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const T scale = static_cast<T>(s.scale), lowest = static_cast<T>(-__builtin_inf());
  const std::int64_t key = strip * kCols;
  const Vec<T> bias_left = load(state.bias + key), bias_right = load(state.bias + key + kN);
  for (int r = 0; r < kRows; ++r) {
    store(tile + r * kCols, load(tile + r * kCols) * scale + bias_left);
    store(tile + r * kCols + kN, load(tile + r * kCols + kN) * scale + bias_right);
  }
  if (head.mask == nullptr && key + kCols <= s.m && !(s.causal && key + kCols > b.first + i + 1)) return;
  for (std::int64_t row = b.first + i, r = 0; r < kRows; ++r, ++row)
    for (int c = 0; c < kCols; ++c)
      if (key + c >= s.m || (s.causal && key + c > row) ||
          (head.mask != nullptr && row < b.first + b.rows &&
           !head.mask[row * head.mask_row + (key + c) * head.mask_col]))
        tile[r * kCols + c] = lowest;
}

// p = exp(score - highest) * weight in strips [first, first + strips): the same bits whenever it is done.
template <class T>
void probabilities(const AttentionShape& s, const AttentionHead& head, const State<T>& state, const Block& b,
                   std::int64_t first, std::int64_t strips, T* p) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const T *highest = state.highest + b.first, *weight = state.weight + b.first;
  rows_by_keys<T>(b.padded, strips, state.q + b.first * s.d, state.k + first * kCols * s.d, nullptr, nullptr, s.d, p,
                  [&](std::int64_t j, std::int64_t i, T* tile) {
                    to_scores(s, head, state, b, first + j, i, tile);
                    for (int r = 0; r < kRows; ++r, tile += kCols) {
                      store(tile, exp<T>(load(tile) - highest[i + r]) * weight[i + r]);
                      store(tile + kN, exp<T>(load(tile + kN) - highest[i + r]) * weight[i + r]);
                    }
                  });
}

// The largest score of each row of a block, where it is, and what the exponentials sum to; `p` is left with the probabilities.
// `lanes` holds 2 kLanes values a row.
template <class T>
void softmax(const AttentionShape& s, const AttentionHead& head, const State<T>& state, const Block& b, T* p,
             T* lanes) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const T lowest = static_cast<T>(-__builtin_inf());
  T* where = lanes + kAttentionRows * kN;  // in half strips
  for (std::int64_t i = 0; i < b.padded; ++i) {
    store(lanes + i * kN, broadcast(lowest));
    store(where + i * kN, Vec<T>{});
  }
  rows_by_keys<T>(b.padded, b.strips, state.q + b.first * s.d, state.k, nullptr, nullptr, s.d, p,
                  [&](std::int64_t j, std::int64_t i, T* tile) {
                    to_scores(s, head, state, b, j, i, tile);
                    for (int half = 0; half < 2 * kRows; ++half) {
                      const std::int64_t at = (i + half / 2) * kN;
                      const Vec<T> score = load(tile + half * kN), before = load(lanes + at);
                      const IntVec<T> higher = score > before;
                      store(lanes + at, higher ? score : before);
                      store(where + at, higher ? broadcast(static_cast<T>(2 * j + half % 2)) : load(where + at));
                    }
                  });
  T *highest = state.highest + b.first, *weight = state.weight + b.first;
  for (std::int64_t i = 0; i < b.padded; ++i) {
    T high = lowest;
    state.best[b.first + i] = 0;
    for (int l = 0; l < kN; ++l)
      if (lanes[i * kN + l] > high) {
        high = lanes[i * kN + l];
        state.best[b.first + i] = static_cast<std::int32_t>(where[i * kN + l]) * kN + l;
      }
    highest[i] = high == lowest ? 0 : high;  // nothing to see: all of exp(-inf) is 0
    store(lanes + i * kN, Vec<T>{});
  }
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; ++i) {
      T* to = p + (j * b.padded + i) * kCols;
      const Vec<T> left = exp<T>(load(to) - highest[i]), right = exp<T>(load(to + kN) - highest[i]);
      store(to, left);
      store(to + kN, right);
      store(lanes + i * kN, load(lanes + i * kN) + (left + right));
    }
  for (std::int64_t i = 0; i < b.padded; ++i) {
    const T all = sum<T>(load(lanes + i * kN));
    weight[i] = all == 0 ? 0 : 1 / all;
  }
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; ++i) {
      T* to = p + (j * b.padded + i) * kCols;
      store(to, load(to) * weight[i]);
      store(to + kN, load(to + kN) * weight[i]);
    }
}

// Probabilities and outputs of rows [begin, end).
template <class T>
void linearize_of(const AttentionShape& s, const AttentionHead& head, std::int64_t begin, std::int64_t end,
                  void* scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const State<T> state(s, head.state);
  const std::int64_t wide_dv = round_up(s.dv, kCols);
  Layout<T> layout(scratch);
  T* lanes = layout.take(2 * kLanes<T> * kAttentionRows);
  T* tiles = layout.take(kAttentionRows * wide_dv);
  T* strips = layout.take(kAttentionRows * state.keys, !s.kept);
  for (std::int64_t first = begin; first < end; first += kAttentionRows) {
    const Block b = block_of<T>(s, first, end);
    pack_by_features<T, kRows>(head.q, first, b.rows, b.padded, state.q + first * s.d);
    pack_by_rows<T>(head.q, first, b.rows, b.padded, state.q_by_row + first * round_up(s.d, kCols));
    T* p = s.kept ? state.p + probabilities_before<T>(s, first) : strips;
    softmax(s, head, state, b, p, lanes);
    pack_by_features<T, kRows>(head.k, 0, b.rows, b.padded, state.best_k + first * s.d, state.best + first);
    __builtin_memset(tiles, 0, static_cast<std::size_t>(b.padded * wide_dv) * sizeof(T));
    over_keys<T>(b.padded, b.strips, p, state.v_by_key, nullptr, nullptr, state.keys * kCols, s.dv, tiles);
    for (std::int64_t i = 0; i < b.padded; i += kRows)
      for (std::int64_t f = 0; f < s.dv; ++f)
        for (int r = 0; r < kRows; ++r)
          state.out[(first + i) * s.dv + f * kRows + r] =
              tiles[i * wide_dv + f / kCols * kRows * kCols + r * kCols + f % kCols];
  }
}

template <class T>
std::int64_t linearize_size(const AttentionShape& s) {
  Layout<T> layout(nullptr);
  layout.take(2 * kLanes<T> * kAttentionRows);
  layout.take(kAttentionRows * round_up(s.dv, kTileCols<T>));
  layout.take(kAttentionRows * round_up(s.m, kTileCols<T>), !s.kept);
  return layout.at - static_cast<T*>(nullptr);
}

}  // namespace
}  // namespace gramian::GRAMIAN_ISA
