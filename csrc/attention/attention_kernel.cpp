// Compiled once per instruction set; no standard library here (see lanes.h).
//
// A block of query rows is worked on against a chunk of keys at a time. Probabilities P and their tangents lie in strips:
// kTileCols keys wide, all rows of the block long, as the register tile leaves them. Read along a row a strip is the left
// factor of P V, read along a column that of P^T g: nothing is ever transposed.
//
// The softmax's Jacobian needs the row's mean r = sum_j P u of the tangents u before it can be applied: P (u - r). Here u - a
// is used, with a the tangent of the row's largest score: sum_j P (u - a) v_j - (sum_j P (u - a)) O_i is the same, takes one
// pass, and loses nothing where a row is nearly one-hot, for then a is nearly r.
#include "attention/attention_kernel.h"

#include "attention/products.h"
#include "attention/state.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// A chunk's probabilities and tangents, 48 KiB each in float32, stay in the second-level cache with the panels that they meet.
template <class T>
constexpr std::int64_t kChunkStrips = 128 / kTileCols<T>;

template <class T>
struct Direction {
  T *dk, *dv_by_key, *dbias, *end;

  Direction(const AttentionShape& s, void* memory) {
    const std::int64_t keys = round_up(s.m, kTileCols<T>);
    Layout<T> layout(memory);
    dk = layout.take(keys * s.d);
    dv_by_key = layout.take(keys * round_up(s.dv, kTileCols<T>));
    dbias = layout.take(keys);
    end = layout.at;
  }
};

template <class T>
void pack_direction_of(const AttentionShape& s, const AttentionHead& head) {
  const Direction<T> direction(s, head.direction);
  const std::int64_t keys = round_up(s.m, kTileCols<T>);
  pack_by_features<T, kTileCols<T>>(head.dk, 0, s.m, keys, direction.dk);
  pack_by_rows<T>(head.dv, 0, s.m, keys, direction.dv_by_key);
  const State<T> state(s, head.state);
  for (std::int64_t j = 0; j < keys; ++j) {
    const T moved = s.l2 ? key_product(state.k, direction.dk, j, s.d) : 0;
    direction.dbias[j] = static_cast<T>(-s.scale) * moved;
  }
}

// Sums over the queries, of one head: [key, feature] in panels of kTileCols features, like State::k_by_key.
template <class T>
struct KeySums {
  T *gk, *gv, *columns, *end;

  KeySums(const AttentionShape& s, void* memory) {
    const std::int64_t keys = round_up(s.m, kTileCols<T>);
    Layout<T> layout(memory);
    gk = layout.take(keys * round_up(s.d, kTileCols<T>));
    gv = layout.take(keys * round_up(s.dv, kTileCols<T>));
    columns = layout.take(keys);
    end = layout.at;
  }
};

template <class T>
struct Scratch {
  T *p, *tangents, *tiles, *rows, *rows_by_row, *best, *shift, *totals, *out, *mixed, *packed_out, *end;

  Scratch(const AttentionShape& s, std::int64_t heads, void* memory) {
    constexpr std::int64_t kB = kAttentionRows, kChunk = kChunkStrips<T> * kTileCols<T>;
    const std::int64_t widest = round_up(s.d > s.dv ? s.d : s.dv, kTileCols<T>);
    Layout<T> layout(memory);
    p = layout.take(kB * (s.forward && s.backward ? heads * round_up(s.m, kTileCols<T>) : kChunk), !s.kept);
    tangents = layout.take(kB * kChunk);
    tiles = layout.take(kB * widest);
    rows = layout.take(kB * widest);
    rows_by_row = layout.take(kB * widest);
    best = layout.take(kB * s.d);
    shift = layout.take(kB);
    totals = layout.take(kB * kLanes<T>);
    out = layout.take(kB * heads * s.dv, s.backward);
    mixed = layout.take(kB * heads * s.dv, s.backward);
    packed_out = layout.take(kB * heads * s.dv, s.backward);
    end = layout.at;
  }
};

// One block of rows of one head, and where its probabilities are.
template <class T>
struct Part {
  const AttentionShape& s;
  const AttentionHead& head;
  const Scratch<T>& scratch;
  State<T> state;
  Block b;
  T* p;
  bool whole, known;  // p holds all keys of the block, not one chunk; p is filled

  // The probabilities of a chunk.
  T* chunk(std::int64_t first, std::int64_t strips) const {
    T* at = whole ? p + first * b.padded * kTileCols<T> : p;
    if (!known) probabilities<T>(s, head, state, b, first, strips, at);
    return at;
  }
};

// to[i] (+)= sum_f x[f, i] y[f, i] for panels of rows: in the order of the register tile, so that it cancels exactly.
template <class T>
void rows_by_rows(std::int64_t padded, const T* x, const T* y, std::int64_t depth, bool accumulate, T* to) {
  constexpr int kRows = kTileRows<T>;
  for (std::int64_t i = 0; i < padded; i += kRows) {
    T sums[kRows] = {};
    for (int r = 0; r < kRows && accumulate; ++r) sums[r] = to[i + r];
    for (std::int64_t f = i * depth; f < (i + kRows) * depth; f += kRows)
      for (int r = 0; r < kRows; ++r) sums[r] += x[f + r] * y[f + r];
    for (int r = 0; r < kRows; ++r) to[i + r] = sums[r];
  }
}

// t = p (scale (x y^T + x2 y2^T) + bias - shift) for a chunk; its row sums, by lanes, are added to `totals`.
template <class T>
void tangents(const Part<T>& part, const T* p, std::int64_t strips, const T* x, const T* y, const T* x2, const T* y2,
              std::int64_t depth, T scale, const T* bias, T* totals) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const T* shift = part.scratch.shift;
  rows_by_keys<T>(part.b.padded, strips, x, y, x2, y2, depth, part.scratch.tangents,
                  [&](std::int64_t j, std::int64_t i, T* tile) {
                    const Vec<T> bias_left = bias == nullptr ? Vec<T>{} : load(bias + j * kCols);
                    const Vec<T> bias_right = bias == nullptr ? Vec<T>{} : load(bias + j * kCols + kN);
                    for (int r = 0; r < kRows; ++r, tile += kCols, p += kCols) {
                      const Vec<T> left = load(p) * (load(tile) * scale + bias_left - shift[i + r]);
                      const Vec<T> right = load(p + kN) * (load(tile + kN) * scale + bias_right - shift[i + r]);
                      store(tile, left);
                      store(tile + kN, right);
                      if (totals != nullptr) store(totals + (i + r) * kN, load(totals + (i + r) * kN) + (left + right));
                    }
                  });
}

// to[row, feature] = tiles, `apart` from row to row.
template <class T>
void unpack(const Block& b, const T* tiles, std::int64_t features, T* to, std::int64_t apart) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  for (std::int64_t i = 0; i < b.rows; i += kRows)
    for (std::int64_t f = 0; f < features; f += kCols, tiles += kRows * kCols) {
      const std::int64_t width = features - f < kCols ? features - f : kCols;
      for (int r = 0; r < kRows && i + r < b.rows; ++r)
        __builtin_memcpy(to + (i + r) * apart + f, tiles + r * kCols, static_cast<std::size_t>(width) * sizeof(T));
    }
}

template <class T>
void forward(const Part<T>& part, T* to, std::int64_t apart) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const AttentionShape& s = part.s;
  const Block& b = part.b;
  const State<T>& state = part.state;
  const Scratch<T>& scratch = part.scratch;
  const Direction<T> direction(s, part.head.direction);
  const T scale = static_cast<T>(s.scale);
  const T* q = state.q + b.first * s.d;
  const std::int64_t wide = round_up(s.dv, kCols);

  pack_by_features<T, kRows>(part.head.dq, b.first, b.rows, b.padded, scratch.rows);
  pack_by_features<T, kRows>(part.head.dk, 0, b.rows, b.padded, scratch.best, state.best + b.first);
  rows_by_rows<T>(b.padded, scratch.rows, state.best_k + b.first * s.d, s.d, false, scratch.shift);
  rows_by_rows<T>(b.padded, q, scratch.best, s.d, true, scratch.shift);
  for (std::int64_t i = 0; i < b.padded; ++i)
    scratch.shift[i] = scratch.shift[i] * scale + direction.dbias[state.best[b.first + i]];
  __builtin_memset(scratch.totals, 0, static_cast<std::size_t>(b.padded * kN) * sizeof(T));
  __builtin_memset(scratch.tiles, 0, static_cast<std::size_t>(b.padded * wide) * sizeof(T));
  for (std::int64_t j = 0; j < b.strips; j += kChunkStrips<T>) {
    const std::int64_t strips = b.strips - j < kChunkStrips<T> ? b.strips - j : kChunkStrips<T>, key = j * kCols;
    const T* p = part.chunk(j, strips);
    tangents<T>(part, p, strips, scratch.rows, state.k + key * s.d, q, direction.dk + key * s.d, s.d, scale,
                direction.dbias + key, scratch.totals);
    over_keys<T>(b.padded, strips, scratch.tangents, state.v_by_key + key * kCols, p, direction.dv_by_key + key * kCols,
                 state.keys * kCols, s.dv, scratch.tiles);
  }
  for (std::int64_t i = 0; i < b.padded; ++i) {
    const T mean = sum<T>(load(scratch.totals + i * kN));
    const T* out = state.out + (b.first + i / kRows * kRows) * s.dv + i % kRows;
    T* tile = scratch.tiles + i / kRows * kRows * wide + i % kRows * kCols;
    for (std::int64_t f = 0; f < s.dv; ++f) tile[f / kCols * kRows * kCols + f % kCols] -= mean * out[f * kRows];
  }
  unpack<T>(b, scratch.tiles, s.dv, to, apart);
}

template <class T>
void backward(const Part<T>& part, const Rows& g, std::int64_t g_first, const KeySums<T>& total) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const AttentionShape& s = part.s;
  const Block& b = part.b;
  const State<T>& state = part.state;
  const Scratch<T>& scratch = part.scratch;
  const std::int64_t wide = round_up(s.d, kCols);

  pack_by_features<T, kRows>(g, g_first, b.rows, b.padded, scratch.rows);
  pack_by_rows<T>(g, g_first, b.rows, b.padded, scratch.rows_by_row);
  rows_by_rows<T>(b.padded, scratch.rows, state.out + b.first * s.dv, s.dv, false, scratch.shift);
  __builtin_memset(scratch.tiles, 0, static_cast<std::size_t>(b.padded * wide) * sizeof(T));
  for (std::int64_t j = 0; j < b.strips; j += kChunkStrips<T>) {
    const std::int64_t strips = b.strips - j < kChunkStrips<T> ? b.strips - j : kChunkStrips<T>, key = j * kCols;
    const T* p = part.chunk(j, strips);
    tangents<T>(part, p, strips, scratch.rows, state.v + key * s.dv, nullptr, nullptr, s.dv, 1, nullptr, nullptr);
    over_keys<T>(b.padded, strips, scratch.tangents, state.k_by_key + key * kCols, nullptr, nullptr, state.keys * kCols,
                 s.d, scratch.tiles);
    over_queries<T>(b.padded, strips, p, scratch.rows_by_row, state.keys * kCols, s.dv, total.gv + key * kCols);
    over_queries<T>(b.padded, strips, scratch.tangents, state.q_by_row + b.first * wide, state.keys * kCols, s.d,
                    total.gk + key * kCols);
    if (!s.l2) continue;
    for (std::int64_t strip = 0; strip < strips; ++strip)
      for (int half = 0; half < kCols; half += kN) {
        Vec<T> column = load(total.columns + key + strip * kCols + half);
        for (std::int64_t i = 0; i < b.rows; ++i)
          column += load(scratch.tangents + (strip * b.padded + i) * kCols + half);
        store(total.columns + key + strip * kCols + half, column);
      }
  }
  for (std::int64_t at = 0; at < b.padded * wide; ++at) scratch.tiles[at] *= static_cast<T>(s.scale);
  unpack<T>(b, scratch.tiles, s.d, static_cast<T*>(part.head.gq) + b.first * s.d, s.d);
}

template <class T>
void mix_out(const Block& b, const T* mix, std::int64_t features, const Scratch<T>& scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const Rows out{scratch.out, b.rows, features, features, 1, kOwn<T>};
  pack_by_features<T, kRows>(out, 0, b.rows, b.padded, scratch.packed_out);
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t f = 0; f < features; f += kCols)
    for (std::int64_t i = 0; i < b.rows; i += kRows) {
      product<T>(scratch.packed_out + i * features, mix + f * features, nullptr, nullptr, features, tile);
      const Block row{0, b.rows - i < kRows ? b.rows - i : kRows, kRows, 0};
      unpack<T>(row, tile, features - f < kCols ? features - f : kCols, scratch.mixed + i * features + f, features);
    }
}

template <class T>
void rows_of_type(const AttentionShape& s, const AttentionHead* head, std::int64_t heads, const void* mix,
                  std::int64_t begin, std::int64_t end, void* memory, void* sums) {
  const Scratch<T> scratch(s, heads, memory);
  const std::int64_t sums_size = KeySums<T>(s, nullptr).end - static_cast<T*>(nullptr);
  const bool both = s.forward && s.backward;
  for (std::int64_t first = begin; first < end; first += kAttentionRows) {
    const Block b = block_of<T>(s, first, end);
    const auto part = [&](std::int64_t h, bool known) {
      const State<T> state(s, head[h].state);
      T* p = s.kept ? state.p + probabilities_before<T>(s, first)
                    : scratch.p + (both ? h * kAttentionRows * state.keys : 0);
      return Part<T>{s, head[h], scratch, state, b, p, s.kept || both, s.kept || known};
    };
    for (std::int64_t h = 0; s.forward && h < heads; ++h)
      forward<T>(part(h, false), both ? scratch.out + h * s.dv : static_cast<T*>(head[h].out) + first * s.dv,
                 both ? heads * s.dv : s.dv);
    if (mix != nullptr) mix_out<T>(b, static_cast<const T*>(mix), heads * s.dv, scratch);
    for (std::int64_t h = 0; s.backward && h < heads; ++h) {
      const T* out = (mix == nullptr ? scratch.out : scratch.mixed) + h * s.dv;
      const Rows own{out, b.rows, s.dv, heads * s.dv, 1, kOwn<T>};
      backward<T>(part(h, s.forward), s.forward ? own : head[h].g, s.forward ? 0 : first,
                  KeySums<T>(s, static_cast<T*>(sums) + h * sums_size));
    }
  }
}

template <class T>
void finish_of(const AttentionShape& s, const AttentionHead& head, const void* sums, std::int64_t groups,
               std::int64_t apart) {
  constexpr int kCols = kTileCols<T>;
  const State<T> state(s, head.state);
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
      const std::int64_t at = (f / kCols * state.keys + j) * kCols + f % kCols;
      T total = 0;
      for (std::int64_t group = 0; group < groups; ++group) total += value(group, part.gk - base + at);
      if (s.l2) total -= column * state.k_by_key[at];
      static_cast<T*>(head.gk)[j * s.d + f] = static_cast<T>(s.scale) * total;
    }
    for (std::int64_t f = 0; f < s.dv; ++f) {
      const std::int64_t at = (f / kCols * state.keys + j) * kCols + f % kCols;
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

template <class T, template <class> class Parts>
GRAMIAN_INLINE std::int64_t bytes_of(const AttentionShape& s) {
  return bytes(Parts<T>(s, nullptr).end);
}

std::int64_t state_bytes(const AttentionShape& s, Element element) {
  return element == Element::f64 ? bytes_of<double, State>(s) : bytes_of<float, State>(s);
}
void pack_state(const AttentionShape& s, const AttentionHead& head) {
  head.q.element == Element::f64 ? pack_state_of<double>(s, head) : pack_state_of<float>(s, head);
}
void linearize(const AttentionShape& s, const AttentionHead& head, std::int64_t begin, std::int64_t end,
               void* scratch) {
  head.q.element == Element::f64 ? linearize_of<double>(s, head, begin, end, scratch)
                                 : linearize_of<float>(s, head, begin, end, scratch);
}
std::int64_t linearize_bytes(const AttentionShape& s, Element element) {
  return element == Element::f64 ? 8 * linearize_size<double>(s) : 4 * linearize_size<float>(s);
}
std::int64_t direction_bytes(const AttentionShape& s, Element element) {
  return element == Element::f64 ? bytes_of<double, Direction>(s) : bytes_of<float, Direction>(s);
}
void pack_direction(const AttentionShape& s, const AttentionHead& head) {
  head.q.element == Element::f64 ? pack_direction_of<double>(s, head) : pack_direction_of<float>(s, head);
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
  return element == Element::f64 ? bytes_of<double, KeySums>(s) : bytes_of<float, KeySums>(s);
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

extern const AttentionKernels attention{state_bytes,     pack_state,     linearize, linearize_bytes,
                                        direction_bytes, pack_direction, mix_bytes, pack_mix,
                                        scratch_bytes,   sums_bytes,     rows,      finish};

}  // namespace gramian::GRAMIAN_ISA
