// Compiled once per instruction set; no standard library here (see lanes.h).
//
// A block of query rows is worked on against all keys at once. Its scores, probabilities and their tangents lie in strips:
// kTileCols keys wide, all rows of the block long, as the register tile leaves them. Read along a row a strip is the left
// factor of P V, read along a column that of P^T g: nothing is ever transposed.
#include "attention/attention_kernel.h"

#include "core/pack.h"
#include "core/tile.h"
#include "core/vmath.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Rows of a tile whose left factor is a strip read by columns: must divide kTileCols.
constexpr int kKeyRows = kRegisters == 32 ? 8 : 4;

template <class T, int kRows>
struct Sums {
  Vec<T> left[kRows] = {}, right[kRows] = {};
};

// sums[r] += sum_k rows[r * kRowStep + k * kDepthStep] * cols[k]
template <int kRowStep, int kDepthStep, class T, int kRows>
GRAMIAN_INLINE void multiply(const T* rows, const T* cols, std::int64_t depth, Sums<T, kRows>& sums) {
  for (std::int64_t k = 0; k < depth; ++k) {
    const Vec<T> col_left = load(cols), col_right = load(cols + kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> row = broadcast(rows[r * kRowStep]);
      sums.left[r] += row * col_left;
      sums.right[r] += row * col_right;
    }
    rows += kDepthStep;
    cols += kTileCols<T>;
  }
}

// Keys and values of one head. By features: panels of kTileCols keys, d deep, for products with queries. By keys: panels of
// kTileCols features, all keys deep, for products with probabilities.
template <class T>
struct Keys {
  std::int64_t padded;  // keys, in whole strips
  T *k, *dk, *v, *k_by_key, *v_by_key, *dv_by_key, *bias, *dbias, *end;

  Keys(const AttentionShape& s, void* memory) : padded(round_up(s.m, kTileCols<T>)) {
    const std::int64_t wide_d = round_up(s.d, kTileCols<T>), wide_dv = round_up(s.dv, kTileCols<T>);
    T* at = static_cast<T*>(memory);
    const auto take = [&](bool wanted, std::int64_t width) {
      T* part = at;
      if (wanted) at += padded * width;
      return part;
    };
    k = take(true, s.d);
    dk = take(s.forward, s.d);
    v = take(s.backward, s.dv);
    k_by_key = take(s.backward, wide_d);
    v_by_key = take(s.forward, wide_dv);
    dv_by_key = take(s.forward, wide_dv);
    bias = take(true, 1);
    dbias = take(s.forward, 1);
    end = at;
  }
};

template <class T, int kWidth>
void pack_by_features(const Rows& source, std::int64_t first, std::int64_t rows, std::int64_t padded, T* to) {
  for (std::int64_t r = 0; r < padded; r += kWidth, to += kWidth * source.cols) {
    const std::int64_t left = rows - r;
    pack_panel<T, kWidth>(source, first + r,
                          left <= 0       ? 0
                          : left < kWidth ? static_cast<int>(left)
                                          : kWidth,
                          0, source.cols, {}, to);
  }
}

// Rows [first, first + rows) in panels of kTileCols features; rows up to `padded` are zero.
template <class T>
void pack_by_rows(const Rows& source, std::int64_t first, std::int64_t rows, std::int64_t padded, T* to) {
  constexpr int kWidth = kTileCols<T>;
  const T* data = static_cast<const T*>(source.data);
  for (std::int64_t f = 0; f < source.cols; f += kWidth) {
    const int width = source.cols - f < kWidth ? static_cast<int>(source.cols - f) : kWidth;
    for (std::int64_t r = 0; r < padded; ++r, to += kWidth) {
      if (r >= rows || width < kWidth) __builtin_memset(to, 0, kWidth * sizeof(T));
      if (r >= rows) continue;
      const T* from = data + (first + r) * source.row_stride + f * source.col_stride;
      if (source.col_stride == 1 && width == kWidth)
        __builtin_memcpy(to, from, kWidth * sizeof(T));
      else
        for (int c = 0; c < width; ++c) to[c] = from[c * source.col_stride];
    }
  }
}

template <class T>
GRAMIAN_INLINE T at(const Rows& source, std::int64_t row, std::int64_t col) {
  return static_cast<const T*>(source.data)[row * source.row_stride + col * source.col_stride];
}

template <class T>
void pack_of(const AttentionShape& s, const AttentionHead& head) {
  const Keys<T> keys(s, head.packed);
  pack_by_features<T, kTileCols<T>>(head.k, 0, s.m, keys.padded, keys.k);
  if (s.forward) {
    pack_by_features<T, kTileCols<T>>(head.dk, 0, s.m, keys.padded, keys.dk);
    pack_by_rows<T>(head.v, 0, s.m, keys.padded, keys.v_by_key);
    pack_by_rows<T>(head.dv, 0, s.m, keys.padded, keys.dv_by_key);
  }
  if (s.backward) {
    pack_by_features<T, kTileCols<T>>(head.v, 0, s.m, keys.padded, keys.v);
    pack_by_rows<T>(head.k, 0, s.m, keys.padded, keys.k_by_key);
  }
  for (std::int64_t j = 0; j < keys.padded; ++j) {
    T square = 0, tangent = 0;
    if (s.l2 && j < s.m)
      for (std::int64_t f = 0; f < s.d; ++f) {
        const T value = at<T>(head.k, j, f);
        square += value * value;
        if (s.forward) tangent += value * at<T>(head.dk, j, f);
      }
    keys.bias[j] = static_cast<T>(-0.5 * s.scale) * square;
    if (s.forward) keys.dbias[j] = static_cast<T>(-s.scale) * tangent;
  }
}

// Sums over the queries, of one head: [key, feature] in panels of kTileCols features, like Keys::k_by_key.
template <class T>
struct KeySums {
  T *gk, *gv, *columns, *end;

  KeySums(const AttentionShape& s, void* memory) {
    const std::int64_t padded = round_up(s.m, kTileCols<T>);
    gk = static_cast<T*>(memory);
    gv = gk + padded * round_up(s.d, kTileCols<T>);
    columns = gv + padded * round_up(s.dv, kTileCols<T>);
    end = columns + padded;
  }
};

// One block of query rows.
template <class T>
struct Block {
  std::int64_t first, rows, padded;  // rows in the matrix; rows here, and in whole tiles
  std::int64_t strips;               // of keys that any of these rows sees
};

template <class T>
struct Scratch {
  T *probabilities, *tangents, *rows, *rows_by_row, *drows, *out, *mixed, *packed_out, *lanes, *end;

  Scratch(const AttentionShape& s, std::int64_t heads, void* memory) {
    constexpr std::int64_t kB = kAttentionRows;
    const std::int64_t strips = round_up(s.m, kTileCols<T>), widest = round_up(s.d > s.dv ? s.d : s.dv, kTileCols<T>);
    T* at = static_cast<T*>(memory);
    const auto take = [&](std::int64_t width) { return (at += kB * width) - kB * width; };
    probabilities = take(heads * strips);
    tangents = take(strips);
    rows = take(widest);
    rows_by_row = take(widest);
    drows = take(widest);
    out = take(heads * s.dv);
    mixed = take(heads * s.dv);
    packed_out = take(heads * s.dv);
    lanes = take(2 * kLanes<T>);
    end = at;
  }
};

// strips = x y^T (+ x2 y2^T), from row panels x of `depth` features and the panels of keys y.
template <class T>
void scores(const Block<T>& b, const T* x, const T* y, const T* x2, const T* y2, std::int64_t depth, T* strips) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; i += kRows) {
      Sums<T, kRows> sums;
      multiply<1, kRows>(x + i * depth, y + j * kCols * depth, depth, sums);
      if (x2 != nullptr) multiply<1, kRows>(x2 + i * depth, y2 + j * kCols * depth, depth, sums);
      T* to = strips + (j * b.padded + i) * kCols;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        store(to + r * kCols, sums.left[r]);
        store(to + r * kCols + kLanes<T>, sums.right[r]);
      }
    }
}

// Minus infinity where row i may not look at the keys of strip j.
template <class T>
void hide(const AttentionShape& s, const AttentionHead& head, std::int64_t row, std::int64_t key, T* values) {
  for (int c = 0; c < kTileCols<T>; ++c)
    if (key + c >= s.m || (s.causal && key + c > row) ||
        (head.mask != nullptr && !head.mask[row * head.mask_row + (key + c) * head.mask_col]))
      values[c] = static_cast<T>(-__builtin_inf());
}

template <class T>
void softmax(const AttentionShape& s, const AttentionHead& head, const Keys<T>& keys, const Block<T>& b, T* strips,
             T* lanes) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  T *highest = lanes, *total = lanes + kAttentionRows * kN;
  const T scale = static_cast<T>(s.scale), lowest = static_cast<T>(-__builtin_inf());
  for (std::int64_t i = 0; i < b.padded; ++i) {
    store(highest + i * kN, broadcast(lowest));
    store(total + i * kN, Vec<T>{});
  }
  for (std::int64_t j = 0; j < b.strips; ++j) {
    const Vec<T> bias_left = load(keys.bias + j * kCols), bias_right = load(keys.bias + j * kCols + kN);
    const bool ragged = head.mask != nullptr || (j + 1) * kCols > s.m || (s.causal && (j + 1) * kCols > b.first + 1);
    for (std::int64_t i = 0; i < b.padded; ++i) {
      T* at = strips + (j * b.padded + i) * kCols;
      Vec<T> left = load(at) * scale + bias_left, right = load(at + kN) * scale + bias_right;
      store(at, left);
      store(at + kN, right);
      if (ragged && i < b.rows) {
        hide(s, head, b.first + i, j * kCols, at);
        left = load(at);
        right = load(at + kN);
      }
      const Vec<T> high = left > right ? left : right, before = load(highest + i * kN);
      store(highest + i * kN, high > before ? high : before);
    }
  }
  for (std::int64_t i = 0; i < b.padded; ++i) {
    T high = lowest;
    for (int l = 0; l < kN; ++l) high = highest[i * kN + l] > high ? highest[i * kN + l] : high;
    highest[i * kN] = high == lowest ? 0 : high;  // nothing to see: all of exp(-inf) is 0
  }
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; ++i) {
      T* at = strips + (j * b.padded + i) * kCols;
      const Vec<T> left = exp<T>(load(at) - highest[i * kN]), right = exp<T>(load(at + kN) - highest[i * kN]);
      store(at, left);
      store(at + kN, right);
      store(total + i * kN, load(total + i * kN) + (left + right));
    }
  for (std::int64_t i = 0; i < b.padded; ++i) {
    const T all = sum<T>(load(total + i * kN));
    total[i * kN] = all == 0 ? 0 : 1 / all;
  }
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; ++i) {
      T* at = strips + (j * b.padded + i) * kCols;
      store(at, load(at) * total[i * kN]);
      store(at + kN, load(at + kN) * total[i * kN]);
    }
}

// The softmax's Jacobian: u <- p (u' - sum_j p u'), with u' = scale u + bias. Subtracted before it is multiplied, so that
// rows that are nearly one-hot lose nothing.
template <class T>
void differentiate(const Block<T>& b, T scale, const T* bias, const T* p, T* u, T* lanes) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  for (std::int64_t i = 0; i < b.padded; ++i) store(lanes + i * kN, Vec<T>{});
  for (std::int64_t j = 0; j < b.strips; ++j) {
    const Vec<T> bias_left = bias == nullptr ? Vec<T>{} : load(bias + j * kCols);
    const Vec<T> bias_right = bias == nullptr ? Vec<T>{} : load(bias + j * kCols + kN);
    for (std::int64_t i = 0; i < b.padded; ++i) {
      const std::int64_t at = (j * b.padded + i) * kCols;
      const Vec<T> left = load(u + at) * scale + bias_left, right = load(u + at + kN) * scale + bias_right;
      store(u + at, left);
      store(u + at + kN, right);
      store(lanes + i * kN, load(lanes + i * kN) + (load(p + at) * left + load(p + at + kN) * right));
    }
  }
  for (std::int64_t i = 0; i < b.padded; ++i) lanes[i * kN] = sum<T>(load(lanes + i * kN));
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t i = 0; i < b.padded; ++i) {
      const std::int64_t at = (j * b.padded + i) * kCols;
      store(u + at, load(p + at) * (load(u + at) - lanes[i * kN]));
      store(u + at + kN, load(p + at + kN) * (load(u + at + kN) - lanes[i * kN]));
    }
}

// to[row, feature] = scale * (strips y (+ strips2 y2)), y by keys; `apart` from row to row.
template <class T>
void over_keys(const Block<T>& b, const T* strips, const T* y, const T* strips2, const T* y2, std::int64_t keys,
               std::int64_t features, T scale, T* to, std::int64_t apart) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t i = 0; i < b.rows; i += kRows)
    for (std::int64_t f = 0; f < features; f += kCols) {
      Sums<T, kRows> sums;
      for (std::int64_t j = 0; j < b.strips; ++j) {
        const std::int64_t left = (j * b.padded + i) * kCols, right = (f / kCols * keys + j * kCols) * kCols;
        multiply<kCols, 1>(strips + left, y + right, kCols, sums);
        if (strips2 != nullptr) multiply<kCols, 1>(strips2 + left, y2 + right, kCols, sums);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        store(tile + r * kCols, sums.left[r] * scale);
        store(tile + r * kCols + kLanes<T>, sums.right[r] * scale);
      }
      const std::int64_t width = features - f < kCols ? features - f : kCols;
      for (int r = 0; r < kRows && i + r < b.rows; ++r)
        __builtin_memcpy(to + (i + r) * apart + f, tile + r * kCols, static_cast<std::size_t>(width) * sizeof(T));
    }
}

// to[key, feature] += strips^T x, x by rows.
template <class T>
void over_queries(const Block<T>& b, const T* strips, const T* x, std::int64_t keys, std::int64_t features, T* to) {
  constexpr int kCols = kTileCols<T>, kN = kLanes<T>;
  for (std::int64_t j = 0; j < b.strips; ++j)
    for (std::int64_t f = 0; f < features; f += kCols)
      for (int key = 0; key < kCols; key += kKeyRows) {
        Sums<T, kKeyRows> sums;
        multiply<1, kCols>(strips + j * b.padded * kCols + key, x + f * b.padded, b.padded, sums);
        T* sum = to + (f / kCols * keys + j * kCols + key) * kCols;
#pragma GCC unroll 8
        for (int r = 0; r < kKeyRows; ++r) {
          store(sum + r * kCols, load(sum + r * kCols) + sums.left[r]);
          store(sum + r * kCols + kN, load(sum + r * kCols + kN) + sums.right[r]);
        }
      }
}

template <class T>
void mix_out(const Block<T>& b, const T* mix, std::int64_t features, const Scratch<T>& scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const Rows out{scratch.out, b.rows, features, features, 1, kOwn<T>};
  pack_by_features<T, kRows>(out, 0, b.rows, b.padded, scratch.packed_out);
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t f = 0; f < features; f += kCols)
    for (std::int64_t i = 0; i < b.rows; i += kRows) {
      Sums<T, kRows> sums;
      multiply<1, kRows>(scratch.packed_out + i * features, mix + f * features, features, sums);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        store(tile + r * kCols, sums.left[r]);
        store(tile + r * kCols + kLanes<T>, sums.right[r]);
      }
      const std::int64_t width = features - f < kCols ? features - f : kCols;
      for (int r = 0; r < kRows && i + r < b.rows; ++r)
        __builtin_memcpy(scratch.mixed + (i + r) * features + f, tile + r * kCols,
                         static_cast<std::size_t>(width) * sizeof(T));
    }
}

template <class T>
void rows_of_type(const AttentionShape& s, const AttentionHead* head, std::int64_t heads, const void* mix,
                  std::int64_t begin, std::int64_t end, void* memory, void* sums) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const Scratch<T> scratch(s, heads, memory);
  const T scale = static_cast<T>(s.scale);
  const std::int64_t padded_keys = round_up(s.m, kCols),
                     sums_size = KeySums<T>(s, nullptr).end - static_cast<T*>(nullptr);
  for (std::int64_t first = begin; first < end; first += kAttentionRows) {
    const std::int64_t rows = end - first < kAttentionRows ? end - first : kAttentionRows;
    const std::int64_t seen = s.causal && first + rows < s.m ? first + rows : s.m;
    const Block<T> b{first, rows, round_up(rows, kRows), round_up(seen, kCols) / kCols};
    for (std::int64_t h = 0; h < heads; ++h) {
      const Keys<T> keys(s, head[h].packed);
      T* p = scratch.probabilities + h * kAttentionRows * padded_keys;
      pack_by_features<T, kRows>(head[h].q, first, rows, b.padded, scratch.rows);
      scores<T>(b, scratch.rows, keys.k, nullptr, nullptr, s.d, p);
      softmax<T>(s, head[h], keys, b, p, scratch.lanes);
      if (!s.forward) continue;
      pack_by_features<T, kRows>(head[h].dq, first, rows, b.padded, scratch.drows);
      scores<T>(b, scratch.drows, keys.k, scratch.rows, keys.dk, s.d, scratch.tangents);
      differentiate<T>(b, scale, keys.dbias, p, scratch.tangents, scratch.lanes);
      T* to = s.backward ? scratch.out + h * s.dv : static_cast<T*>(head[h].out) + first * s.dv;
      over_keys<T>(b, scratch.tangents, keys.v_by_key, p, keys.dv_by_key, keys.padded, s.dv, 1, to,
                   s.backward ? heads * s.dv : s.dv);
    }
    if (!s.backward) continue;
    if (mix != nullptr) mix_out<T>(b, static_cast<const T*>(mix), heads * s.dv, scratch);
    for (std::int64_t h = 0; h < heads; ++h) {
      const Keys<T> keys(s, head[h].packed);
      const KeySums<T> total(s, static_cast<T*>(sums) + h * sums_size);
      const T* p = scratch.probabilities + h * kAttentionRows * padded_keys;
      const T* out = (mix == nullptr ? scratch.out : scratch.mixed) + h * s.dv;
      const Rows own{out, rows, s.dv, heads * s.dv, 1, kOwn<T>};
      const Rows& g = s.forward ? own : head[h].g;
      const std::int64_t g_first = s.forward ? 0 : first;
      pack_by_features<T, kRows>(g, g_first, rows, b.padded, scratch.rows);
      scores<T>(b, scratch.rows, keys.v, nullptr, nullptr, s.dv, scratch.tangents);
      differentiate<T>(b, 1, nullptr, p, scratch.tangents, scratch.lanes);
      over_keys<T>(b, scratch.tangents, keys.k_by_key, nullptr, nullptr, keys.padded, s.d, scale,
                   static_cast<T*>(head[h].gq) + first * s.d, s.d);
      pack_by_rows<T>(g, g_first, rows, b.padded, scratch.rows_by_row);
      over_queries<T>(b, p, scratch.rows_by_row, keys.padded, s.dv, total.gv);
      pack_by_rows<T>(head[h].q, first, rows, b.padded, scratch.rows_by_row);
      over_queries<T>(b, scratch.tangents, scratch.rows_by_row, keys.padded, s.d, total.gk);
      if (!s.l2) continue;
      for (std::int64_t j = 0; j < b.strips; ++j)
        for (int half = 0; half < kCols; half += kN) {
          Vec<T> column = load(total.columns + j * kCols + half);
          for (std::int64_t i = 0; i < b.rows; ++i)
            column += load(scratch.tangents + (j * b.padded + i) * kCols + half);
          store(total.columns + j * kCols + half, column);
        }
    }
  }
}

template <class T>
void finish_of(const AttentionShape& s, const AttentionHead& head, const void* sums, std::int64_t groups,
               std::int64_t apart) {
  constexpr int kCols = kTileCols<T>;
  const Keys<T> keys(s, head.packed);
  const auto value = [&](std::int64_t group, std::int64_t at) {
    return reinterpret_cast<const T*>(static_cast<const char*>(sums) + group * apart)[at];
  };
  T* base = static_cast<T*>(const_cast<void*>(sums));
  const KeySums<T> part(s, base);
  for (std::int64_t j = 0; j < s.m; ++j) {
    T column = 0;
    if (s.l2)
      for (std::int64_t group = 0; group < groups; ++group) column += value(group, part.columns - base + j);
    for (std::int64_t f = 0; f < s.d; ++f) {
      const std::int64_t at = (f / kCols * keys.padded + j) * kCols + f % kCols;
      T total = 0;
      for (std::int64_t group = 0; group < groups; ++group) total += value(group, part.gk - base + at);
      if (s.l2) total -= column * keys.k_by_key[at];
      static_cast<T*>(head.gk)[j * s.d + f] = static_cast<T>(s.scale) * total;
    }
    for (std::int64_t f = 0; f < s.dv; ++f) {
      const std::int64_t at = (f / kCols * keys.padded + j) * kCols + f % kCols;
      T total = 0;
      for (std::int64_t group = 0; group < groups; ++group) total += value(group, part.gv - base + at);
      static_cast<T*>(head.gv)[j * s.dv + f] = total;
    }
  }
}

template <class T>
void pack_mix_of(const Rows& mix, void* packed) {
  pack_by_rows<T>(mix, 0, mix.rows, mix.rows, static_cast<T*>(packed));
}

// Bytes up to the end of a layout, rounded so that parts that follow one another stay aligned.
template <class T>
GRAMIAN_INLINE std::int64_t bytes(const T* end) {
  return round_up((end - static_cast<const T*>(nullptr)) * static_cast<std::int64_t>(sizeof(T)), kVectorBytes);
}

std::int64_t packed_bytes(const AttentionShape& s, Element element) {
  return element == Element::f64 ? bytes(Keys<double>(s, nullptr).end) : bytes(Keys<float>(s, nullptr).end);
}
void pack(const AttentionShape& s, const AttentionHead& head) {
  head.q.element == Element::f64 ? pack_of<double>(s, head) : pack_of<float>(s, head);
}
std::int64_t mix_bytes(std::int64_t features, Element element) {
  return element == Element::f64 ? 8 * features * round_up(features, kTileCols<double>)
                                 : 4 * features * round_up(features, kTileCols<float>);
}
void pack_mix(const Rows& mix, void* packed) {
  mix.element == Element::f64 ? pack_mix_of<double>(mix, packed) : pack_mix_of<float>(mix, packed);
}
std::int64_t scratch_bytes(const AttentionShape& s, std::int64_t heads, Element element) {
  return element == Element::f64 ? bytes(Scratch<double>(s, heads, nullptr).end)
                                 : bytes(Scratch<float>(s, heads, nullptr).end);
}
std::int64_t sums_bytes(const AttentionShape& s, Element element) {
  return element == Element::f64 ? bytes(KeySums<double>(s, nullptr).end) : bytes(KeySums<float>(s, nullptr).end);
}
void rows(const AttentionShape& s, const AttentionHead* head, std::int64_t heads, const void* mix, std::int64_t begin,
          std::int64_t end, void* scratch, void* sums) {
  head->q.element == Element::f64 ? rows_of_type<double>(s, head, heads, mix, begin, end, scratch, sums)
                                  : rows_of_type<float>(s, head, heads, mix, begin, end, scratch, sums);
}
void finish(const AttentionShape& s, const AttentionHead& head, const void* sums, std::int64_t groups,
            std::int64_t apart) {
  head.q.element == Element::f64 ? finish_of<double>(s, head, sums, groups, apart)
                                 : finish_of<float>(s, head, sums, groups, apart);
}

}  // namespace

extern const AttentionKernels attention{packed_bytes,  pack,       mix_bytes, pack_mix,
                                        scratch_bytes, sums_bytes, rows,      finish};

}  // namespace gramian::GRAMIAN_ISA
