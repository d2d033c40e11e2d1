// Pairs lie in the lanes, weights are broadcast: the sum over the last layer then stays in registers, and scores are
// written in order. Compiled once per instruction set; no standard library here (see lanes.h).
#include "information/pairwise_scores_kernel.h"

#include "core/pack.h"
#include "core/tile.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Pairs are laid out [sub][feature][kTileCols], so that a mask word is 32 pairs on every level.
template <class T>
constexpr int kSubs = kPairs / kTileCols<T>;
// Pairs whose products h1 Qᵀ are added up in registers: the tiles of the sum then cost little to load and store.
constexpr std::int64_t kGroup = 8, kDepth = kGroup * kPairs;

template <class T>
GRAMIAN_INLINE Vec<T> relu(Vec<T> v) {
  return v <= Vec<T>{} ? Vec<T>{} : v;  // NaN stays NaN
}

template <class T>
struct Packed {
  std::int64_t h_rows, h2_rows, h2_cols;  // h and h2, rounded up to whole tiles
  T *b, *w, *v, *b2, *w3, *end;
};

template <class T>
GRAMIAN_INLINE Packed<T> packed_of(const CriticProblem<T>& p, T* packed) {
  Packed<T> at{round_up(p.h, kTileRows<T>), round_up(p.h2, kTileRows<T>), round_up(p.h2, kTileCols<T>)};
  at.b = packed;
  at.w = at.b + pair_blocks(p.m) * kPairs * p.h;  // rows u of W2ᵀ
  at.v = at.w + at.h2_rows * p.h;                 // rows k of W2 diag(w3)
  at.b2 = at.v + at.h_rows * p.h2;
  at.w3 = at.b2 + at.h2_rows;
  at.end = at.w3 + at.h2_rows;
  return at;
}

template <class T>
std::int64_t packed_size(const CriticProblem<T>& p) {
  return packed_of<T>(p, nullptr).end - static_cast<T*>(nullptr);
}

template <class T>
void pack(const CriticProblem<T>& p, T* packed) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const Packed<T> to = packed_of(p, packed);
  const Rows b{p.b, p.m, p.h, p.h, 1, kOwn<T>};
  for (std::int64_t j = 0; j < pair_blocks(p.m) * kPairs; j += kCols) {
    const std::int64_t left = p.m - j;
    const int rows = left < 0 ? 0 : left < kCols ? static_cast<int>(left) : kCols;
    pack_panel<T, kCols>(b, j, rows, 0, p.h, {}, to.b + j * p.h);
  }
  for (std::int64_t u = 0; u < to.h2_rows; ++u) {
    T* const panel = to.w + u / kRows * kRows * p.h + u % kRows;
    for (std::int64_t k = 0; k < p.h; ++k) panel[k * kRows] = u < p.h2 ? p.w2[k * p.h2 + u] : 0;
    to.b2[u] = u < p.h2 ? p.b2[u] : 0;
    to.w3[u] = u < p.h2 ? p.w3[u] : 0;
  }
  for (std::int64_t k = 0; k < to.h_rows; ++k) {
    T* const panel = to.v + k / kRows * kRows * p.h2 + k % kRows;
    for (std::int64_t u = 0; u < p.h2; ++u) panel[u * kRows] = k < p.h ? p.w2[k * p.h2 + u] * p.w3[u] : 0;
  }
}

// relu(a_i + b_j) of 32 pairs.
template <class T>
GRAMIAN_INLINE void first_layer(const CriticProblem<T>& p, const T* b, std::int64_t i, T* h1) {
  constexpr int kCols = kTileCols<T>, kN = kLanes<T>;
  for (int sub = 0; sub < kSubs<T>; ++sub)
    for (std::int64_t k = 0; k < p.h; ++k, b += kCols, h1 += kCols) {
      const Vec<T> a = broadcast(p.a[i * p.h + k]);
      store(h1, relu<T>(load(b) + a));
      store(h1 + kN, relu<T>(load(b + kN) + a));
    }
}

// One bit for each lane that is not <= 0, so that NaN passes its gradient on, as torch's relu does.
template <class T>
GRAMIAN_INLINE std::uint32_t at_work(Vec<T> z) {
  return ~at_least(Vec<T>{}, z) & ((std::uint32_t{1} << kLanes<T>)-1);
}

template <class T>
GRAMIAN_INLINE void score_block(const CriticProblem<T>& p, const Packed<T>& packed, const T* h1, T* scores,
                                std::uint32_t* words) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  alignas(64) T tile[kRows * kCols];
  Vec<T> total[2 * kSubs<T>] = {};
  for (std::int64_t u = 0; u < p.h2; u += kRows) {
    std::uint32_t word[kRows] = {};
    for (int sub = 0; sub < kSubs<T>; ++sub) {
      multiply_tile(packed.w + u * p.h, h1 + sub * kCols * p.h, p.h, false, tile);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec<T> b2 = broadcast(packed.b2[u + r]), w3 = broadcast(packed.w3[u + r]);
        const Vec<T> left = load(tile + r * kCols) + b2, right = load(tile + r * kCols + kN) + b2;
        total[2 * sub] += w3 * relu<T>(left);
        total[2 * sub + 1] += w3 * relu<T>(right);
        word[r] |= (at_work<T>(left) | at_work<T>(right) << kN) << sub * kCols;
      }
    }
    if (words != nullptr)
      for (int r = 0; r < kRows && u + r < p.h2; ++r) words[u + r] = word[r];
  }
  if (scores != nullptr)
    for (int half = 0; half < 2 * kSubs<T>; ++half) store(scores + half * kN, total[half]);
}

template <class T>
std::int64_t forward_scratch(const CriticProblem<T>& p) {
  return kPairs * p.h;
}

template <class T>
void forward(const CriticProblem<T>& p, const T* packed, std::int64_t i, T* scores, std::uint32_t* mask, T* h1) {
  const Packed<T> from = packed_of(p, const_cast<T*>(packed));
  T block_scores[kPairs];
  for (std::int64_t block = 0; block < pair_blocks(p.m); ++block) {
    first_layer(p, from.b + block * kPairs * p.h, i, h1);
    score_block(p, from, h1, block_scores, mask == nullptr ? nullptr : mask + block * p.h2);
    const std::int64_t j = block * kPairs, pairs = p.m - j < kPairs ? p.m - j : kPairs;
    __builtin_memcpy(scores + j, block_scores, static_cast<unsigned long>(pairs) * sizeof(T));
  }
}

template <class T>
struct Partial {
  T *products, *b, *sums, *end;
};

template <class T>
GRAMIAN_INLINE Partial<T> partial_of(const CriticProblem<T>& p, const Packed<T>& sizes, T* partial) {
  Partial<T> at;
  at.products = partial;                                      // tiles [k][u] of Σ h1 Qᵀ
  at.b = at.products + sizes.h_rows * sizes.h2_cols;          // [block][sub][k][kTileCols]
  at.sums = at.b + pair_blocks(p.m) * kPairs * sizes.h_rows;  // [u][kLanes]
  at.end = at.sums + p.h2 * kLanes<T>;
  return at;
}

template <class T>
std::int64_t partial_size(const CriticProblem<T>& p) {
  return partial_of<T>(p, packed_of<T>(p, nullptr), nullptr).end - static_cast<T*>(nullptr);
}

template <class T>
struct Scratch {
  T *h1, *q, *h1_rows, *q_cols, *a, *row, *words, *end;
};

template <class T>
GRAMIAN_INLINE Scratch<T> scratch_of(const CriticProblem<T>& p, const Packed<T>& sizes, T* scratch) {
  Scratch<T> at;
  at.h1 = scratch;                                 // [sub][k][kTileCols]
  at.q = at.h1 + kPairs * p.h;                     // [sub][u][kTileCols]
  at.h1_rows = at.q + kPairs * p.h2;               // [k / kTileRows][pair][kTileRows]
  at.q_cols = at.h1_rows + kDepth * sizes.h_rows;  // [u / kTileCols][pair][kTileCols]
  at.a = at.q_cols + kDepth * sizes.h2_cols;       // [k][kLanes]
  at.row = at.a + sizes.h_rows * kLanes<T>;
  at.words = at.row + sizes.h_rows + kLanes<T>;
  at.end = at.words + p.h2;
  return at;
}

template <class T>
std::int64_t backward_scratch(const CriticProblem<T>& p) {
  return scratch_of<T>(p, packed_of<T>(p, nullptr), nullptr).end - static_cast<T*>(nullptr);
}

// Q = grad where the unit is at work, and its sum over pairs.
template <class T>
GRAMIAN_INLINE void masked_gradients(const CriticProblem<T>& p, const std::uint32_t* words, const T* grad, T* q,
                                     T* sums) {
  constexpr int kCols = kTileCols<T>, kN = kLanes<T>;
  using Int = decltype(IntVec<T>{}[0] + 0);
  IntVec<T> bit_left, bit_right;
  for (int sub = 0; sub < kSubs<T>; ++sub) {
    for (int l = 0; l < kN; ++l) {
      bit_left[l] = static_cast<Int>(std::uint32_t{1} << (sub * kCols + l));
      bit_right[l] = static_cast<Int>(std::uint32_t{1} << (sub * kCols + kN + l));
    }
    const Vec<T> left = load(grad + sub * kCols), right = load(grad + sub * kCols + kN);
    for (std::int64_t u = 0; u < p.h2; ++u, q += kCols) {
      const IntVec<T> word = IntVec<T>{} + static_cast<Int>(words[u]);
      const Vec<T> q_left = (word & bit_left) != 0 ? left : Vec<T>{},
                   q_right = (word & bit_right) != 0 ? right : Vec<T>{};
      store(q, q_left);
      store(q + kN, q_right);
      store(sums + u * kN, load(sums + u * kN) + (q_left + q_right));
    }
  }
}

// The gradient of the first layer: summed over j for a_i, added to the rows j of b.
template <class T>
GRAMIAN_INLINE void first_layer_gradient(const CriticProblem<T>& p, const Packed<T>& packed, const T* q, const T* h1,
                                         T* a, T* b) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  alignas(64) T tile[kRows * kCols];
  for (std::int64_t k = 0; k < p.h; k += kRows)
    for (int sub = 0; sub < kSubs<T>; ++sub) {
      multiply_tile(packed.v + k * p.h2, q + sub * kCols * p.h2, p.h2, false, tile);
      const std::int64_t rows = p.h - k < kRows ? p.h - k : kRows;
      for (std::int64_t r = 0; r < rows; ++r) {
        const T* const h = h1 + (sub * p.h + k + r) * kCols;
        T* const to = b + (sub * packed.h_rows + k + r) * kCols;
        const Vec<T> left = load(h) <= Vec<T>{} ? Vec<T>{} : load(tile + r * kCols);
        const Vec<T> right = load(h + kN) <= Vec<T>{} ? Vec<T>{} : load(tile + r * kCols + kN);
        store(to, load(to) + left);
        store(to + kN, load(to + kN) + right);
        store(a + (k + r) * kN, load(a + (k + r) * kN) + (left + right));
      }
    }
}

// The same 32 pairs with pairs as the depth, for the product h1 Qᵀ.
template <class T>
GRAMIAN_INLINE void turn(const CriticProblem<T>& p, const Packed<T>& sizes, std::int64_t i, std::int64_t block,
                         std::int64_t slot, const Scratch<T>& s) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  for (std::int64_t pair = 0; pair < kPairs; ++pair) {
    const std::int64_t j = block * kPairs + pair;
    const T *a = p.a + i * p.h, *b = p.b + j * p.h;
    std::int64_t k = 0;
    if (j < p.m) {
      for (; k + kN <= p.h; k += kN) store(s.row + k, relu<T>(load(a + k) + load(b + k)));
      for (; k < p.h; ++k) s.row[k] = a[k] + b[k] <= 0 ? 0 : a[k] + b[k];
    }
    for (; k < sizes.h_rows; ++k) s.row[k] = 0;
    T* to = s.h1_rows + (slot * kPairs + pair) * kRows;
    for (k = 0; k < sizes.h_rows; k += kRows, to += kDepth * kRows) __builtin_memcpy(to, s.row + k, kRows * sizeof(T));
  }
  for (std::int64_t u = 0; u < sizes.h2_cols; u += kN)
    for (std::int64_t pair = 0; pair < kPairs; pair += kN) {
      Vec<T> square[kN];
      const T* const from = s.q + (pair / kCols * p.h2 + u) * kCols + pair % kCols;
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) square[r] = u + r < p.h2 ? load(from + r * kCols) : Vec<T>{};
      transpose<T>(square);
      T* const to = s.q_cols + (u / kCols * kDepth + slot * kPairs + pair) * kCols + u % kCols;
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) store(to + r * kCols, square[r]);
    }
}

template <class T>
void add_products(const Packed<T>& sizes, const Scratch<T>& s, std::int64_t pairs, T* products) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  for (std::int64_t u = 0; u < sizes.h2_cols; u += kCols)
    for (std::int64_t k = 0; k < sizes.h_rows; k += kRows, products += kRows * kCols)
      multiply_tile(s.h1_rows + k * kDepth, s.q_cols + u * kDepth, pairs, true, products);
}

template <class T>
void backward(const CriticProblem<T>& p, const T* packed, std::int64_t begin, std::int64_t end,
              const std::uint32_t* mask, const T* grad, T* grad_a, T* partial, T* scratch) {
  constexpr int kN = kLanes<T>;
  const Packed<T> from = packed_of(p, const_cast<T*>(packed));
  const Scratch<T> s = scratch_of(p, from, scratch);
  const Partial<T> to = partial_of(p, from, partial);
  const std::int64_t blocks = pair_blocks(p.m);
  __builtin_memset(partial, 0, static_cast<unsigned long>(to.end - partial) * sizeof(T));
  auto* const again = reinterpret_cast<std::uint32_t*>(s.words);
  std::int64_t slots = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t v = 0; v < from.h_rows * kN; ++v) s.a[v] = 0;
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t j = block * kPairs, pairs = p.m - j < kPairs ? p.m - j : kPairs;
      T block_grad[kPairs] = {};
      __builtin_memcpy(block_grad, grad + i * p.m + j, static_cast<unsigned long>(pairs) * sizeof(T));
      first_layer(p, from.b + j * p.h, i, s.h1);
      if (mask == nullptr) score_block<T>(p, from, s.h1, nullptr, again);
      masked_gradients(p, mask == nullptr ? again : mask + (i * blocks + block) * p.h2, block_grad, s.q, to.sums);
      first_layer_gradient(p, from, s.q, s.h1, s.a, to.b + j * from.h_rows);
      turn(p, from, i, block, slots, s);
      if (++slots == kGroup) {
        add_products(from, s, kDepth, to.products);
        slots = 0;
      }
    }
    for (std::int64_t k = 0; k < p.h; ++k) grad_a[i * p.h + k] = sum<T>(load(s.a + k * kN));
  }
  add_products(from, s, slots * kPairs, to.products);
}

template <class T>
void finish_b(const CriticProblem<T>& p, const T* partials, std::int64_t count, std::int64_t block, T* grad_b) {
  constexpr int kCols = kTileCols<T>;
  const Packed<T> sizes = packed_of<T>(p, nullptr);
  const std::int64_t stride = partial_size(p);
  for (std::int64_t j = block * kPairs; j < p.m && j < (block + 1) * kPairs; ++j)
    for (std::int64_t k = 0; k < p.h; ++k) {
      const T* at = partial_of(p, sizes, const_cast<T*>(partials)).b + block * kPairs * sizes.h_rows +
                    (j % kPairs / kCols * sizes.h_rows + k) * kCols + j % kCols;
      double total = 0;
      for (std::int64_t part = 0; part < count; ++part, at += stride) total += *at;
      grad_b[j * p.h + k] = static_cast<T>(total);
    }
}

template <class T>
void finish_w(const CriticProblem<T>& p, const T* partials, std::int64_t count, double* products, double* sums) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>, kN = kLanes<T>;
  const Packed<T> sizes = packed_of<T>(p, nullptr);
  const std::int64_t stride = partial_size(p), tiles = sizes.h_rows / kRows;
  for (std::int64_t part = 0; part < count; ++part, partials += stride) {
    const Partial<T> from = partial_of(p, sizes, const_cast<T*>(partials));
    for (std::int64_t k = 0; k < p.h; ++k)
      for (std::int64_t u = 0; u < p.h2; ++u)
        products[k * p.h2 + u] +=
            from.products[((u / kCols * tiles + k / kRows) * kRows + k % kRows) * kCols + u % kCols];
    for (std::int64_t u = 0; u < p.h2; ++u)
      for (int l = 0; l < kN; ++l) sums[u] += from.sums[u * kN + l];
  }
}

}  // namespace

extern const CriticKernels<float> critic_f32{packed_size<float>, pack<float>,         forward_scratch<float>,
                                             forward<float>,     partial_size<float>, backward_scratch<float>,
                                             backward<float>,    finish_b<float>,     finish_w<float>};
extern const CriticKernels<double> critic_f64{packed_size<double>, pack<double>,         forward_scratch<double>,
                                              forward<double>,     partial_size<double>, backward_scratch<double>,
                                              backward<double>,    finish_b<double>,     finish_w<double>};

}  // namespace gramian::GRAMIAN_ISA
