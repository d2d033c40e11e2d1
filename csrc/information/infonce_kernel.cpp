// Compiled once per instruction set; no standard library here (see lanes.h).
#include "information/infonce_kernel.h"

#include "core/pack.h"
#include "core/tile.h"
#include "core/vmath.h"

namespace gramian::GRAMIAN_ISA {
namespace {

// Pairs whose weighted rows are added up in registers.
constexpr std::int64_t kChunk = 512;

template <class T>
struct Packed {
  std::int64_t cols, features;  // n to whole tiles of columns, d to whole tiles of rows
  T *scores, *means, *end;  // g for the scores, [j / kTileCols][k][kTileCols]; for P g, [k / kTileRows][j][kTileRows]
};

template <class T>
GRAMIAN_INLINE Packed<T> packed_of(const InfonceProblem<T>& p, bool gradients, T* packed) {
  Packed<T> at{round_up(p.n, kTileCols<T>), round_up(p.d, kTileRows<T>)};
  at.scores = packed;
  at.means = at.scores + at.cols * p.d;
  at.end = at.means + (gradients ? at.cols * at.features : 0);
  return at;
}

template <class T>
std::int64_t packed_size(const InfonceProblem<T>& p, bool gradients) {
  return packed_of<T>(p, gradients, nullptr).end - static_cast<T*>(nullptr);
}

// Rows [begin, end) of x as panels of kTileRows features, [k / kTileRows][row][kTileRows]; `rows` of them, zero past the end.
template <class T>
void pack_features(const T* x, std::int64_t n, std::int64_t d, std::int64_t begin, std::int64_t rows, T* to) {
  constexpr int kRows = kTileRows<T>;
  for (std::int64_t k = 0; k < d; k += kRows)
    for (std::int64_t i = begin; i < begin + rows; ++i, to += kRows)
      for (int r = 0; r < kRows; ++r) to[r] = i < n && k + r < d ? x[i * d + k + r] : 0;
}

template <class T>
void pack(const InfonceProblem<T>& p, bool gradients, T* packed) {
  constexpr int kCols = kTileCols<T>;
  const Packed<T> to = packed_of(p, gradients, packed);
  const Rows g{p.g, p.n, p.d, p.d, 1, kOwn<T>};
  for (std::int64_t j = 0; j < p.n; j += kCols)
    pack_panel<T, kCols>(g, j, p.n - j < kCols ? static_cast<int>(p.n - j) : kCols, 0, p.d, {}, to.scores + j * p.d);
  if (gradients) pack_features(p.g, p.n, p.d, 0, to.cols, to.means);
}

template <class T>
struct Scratch {
  T *rows, *features, *scores, *turned, *means, *end;
};

template <class T>
GRAMIAN_INLINE Scratch<T> scratch_of(const InfonceProblem<T>& p, const Packed<T>& sizes, bool gradients, T* scratch) {
  Scratch<T> at;
  at.rows = scratch;                                     // f for the scores
  at.features = at.rows + kBandRows * p.d;               // f for Pᵀ f
  at.scores = at.features + kBandRows * sizes.features;  // [j / kTileCols][i][kTileCols]
  at.turned =
      at.scores + kBandRows * (gradients ? sizes.cols : kTileCols<T>);  // of a chunk, [i / kTileCols][j][kTileCols]
  at.means = at.turned + kBandRows * kChunk;                            // tiles [k][i] of (P g)ᵀ
  at.end = at.means + kBandRows * sizes.features;
  return at;
}

template <class T>
std::int64_t scratch_size(const InfonceProblem<T>& p, bool gradients) {
  return scratch_of<T>(p, packed_of<T>(p, gradients, nullptr), gradients, nullptr).end - static_cast<T*>(nullptr);
}

// Σ exp of a row so far, relative to exp(top). The top moves only when a score is well above it: once or twice a row.
template <class T>
struct Online {
  T top = static_cast<T>(-__builtin_inf());
  Vec<T> total = {};

  GRAMIAN_INLINE void add(const T* scores) {
    constexpr T kHeadroom = 8;
    constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
    const Vec<T> left = load(scores), right = load(scores + kN), limit = broadcast(top + kHeadroom);
    if (any_less(limit, left) || any_less(limit, right) || top == static_cast<T>(-__builtin_inf())) {
      T highest = top;
      for (int c = 0; c < kCols; ++c) highest = scores[c] > highest ? scores[c] : highest;
      total *= exp<T>(broadcast(top - highest));
      if (top == static_cast<T>(-__builtin_inf())) total = Vec<T>{};
      top = highest;
    }
    total += exp<T>(left - top) + exp<T>(right - top);
  }

  GRAMIAN_INLINE T log_sum() const { return top + log<T>(broadcast(sum<T>(total)))[0]; }
};

// Scores become weights P = exp(score - log_sum), also turned: pairs of the chunk as rows.
template <class T>
GRAMIAN_INLINE void weigh(const T (&log_sum)[kBandRows], T* scores, std::int64_t j, std::int64_t chunk, T* turned) {
  constexpr int kCols = kTileCols<T>, kN = kLanes<T>;
  for (std::int64_t i = 0; i < kBandRows; i += kN)
    for (int half = 0; half < kCols; half += kN) {
      Vec<T> square[kN];
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) {
        T* const at = scores + (i + r) * kCols + half;
        square[r] = exp<T>(load(at) - log_sum[i + r]);
        store(at, square[r]);
      }
      transpose<T>(square);
      T* const to = turned + (i / kCols * chunk + j + half) * kCols + i % kCols;
#pragma GCC unroll 16
      for (int r = 0; r < kN; ++r) store(to + r * kCols, square[r]);
    }
}

template <class T>
void band(const InfonceProblem<T>& p, const T* packed, std::int64_t begin, T* log_sums, T* expected_g, T* partial,
          T* scratch) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const bool gradients = expected_g != nullptr;
  const Packed<T> g = packed_of(p, gradients, const_cast<T*>(packed));
  const Scratch<T> s = scratch_of(p, g, gradients, scratch);
  const std::int64_t left = p.n - begin, rows = left < kBandRows ? left : kBandRows;
  const Rows f{p.f, p.n, p.d, p.d, 1, kOwn<T>};
  for (std::int64_t i = 0; i < rows; i += kRows)
    pack_panel<T, kRows>(f, begin + i, rows - i < kRows ? static_cast<int>(rows - i) : kRows, 0, p.d, {},
                         s.rows + i * p.d);

  Online<T> online[kBandRows];
  for (std::int64_t j = 0; j < p.n; j += kCols)
    for (std::int64_t i = 0; i < rows; i += kRows) {
      T* const tile = s.scores + ((gradients ? j : 0) * kBandRows / kCols + i) * kCols;
      multiply_tile(s.rows + i * p.d, g.scores + j * p.d, p.d, false, tile);
      for (std::int64_t c = p.n - j; c < kCols; ++c)
        for (int r = 0; r < kRows; ++r) tile[r * kCols + c] = static_cast<T>(-__builtin_inf());
      for (int r = 0; r < kRows; ++r) online[i + r].add(tile + r * kCols);
    }
  T log_sum[kBandRows];
  for (std::int64_t i = 0; i < kBandRows; ++i) {
    log_sum[i] = i < rows ? online[i].log_sum() : static_cast<T>(__builtin_inf());  // weights of rows past the end: 0
    if (i < rows) log_sums[begin + i] = log_sum[i];
  }
  if (!gradients) return;

  for (std::int64_t j = 0; j < g.cols; j += kCols)
    for (std::int64_t i = round_up(rows, kRows); i < kBandRows; ++i)
      __builtin_memset(s.scores + (j / kCols * kBandRows + i) * kCols, 0, kCols * sizeof(T));
  pack_features(p.f, begin + rows, p.d, begin, kBandRows, s.features);
  for (std::int64_t first = 0; first < g.cols; first += kChunk) {
    const std::int64_t chunk = g.cols - first < kChunk ? g.cols - first : kChunk;
    for (std::int64_t j = first; j < first + chunk; j += kCols) {
      T* const weights = s.scores + j * kBandRows;
      weigh<T>(log_sum, weights, j - first, chunk, s.turned);
      T* to = partial + j * g.features;  // tiles [j / kTileCols][k] of (Pᵀ f)ᵀ
      for (std::int64_t k = 0; k < g.features; k += kRows, to += kRows * kCols)
        multiply_tile(s.features + k * kBandRows, weights, kBandRows, true, to);
    }
    T* to = s.means;
    for (std::int64_t i = 0; i < kBandRows; i += kCols)
      for (std::int64_t k = 0; k < g.features; k += kRows, to += kRows * kCols)
        multiply_tile(g.means + k * g.cols + first * kRows, s.turned + i * chunk, chunk, first > 0, to);
  }
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t k = 0; k < p.d; ++k)
      expected_g[(begin + i) * p.d + k] =
          s.means[((i / kCols * (g.features / kRows) + k / kRows) * kRows + k % kRows) * kCols + i % kCols];
}

template <class T>
std::int64_t partial_size(const InfonceProblem<T>& p) {
  const Packed<T> sizes = packed_of<T>(p, true, nullptr);
  return sizes.cols * sizes.features;
}

template <class T>
void finish(const InfonceProblem<T>& p, const T* partials, std::int64_t count, std::int64_t j, T* expected_f) {
  constexpr int kRows = kTileRows<T>, kCols = kTileCols<T>;
  const Packed<T> sizes = packed_of<T>(p, true, nullptr);
  const std::int64_t stride = partial_size(p);
  for (std::int64_t k = 0; k < p.d; ++k) {
    const T* at =
        partials + ((j / kCols * (sizes.features / kRows) + k / kRows) * kRows + k % kRows) * kCols + j % kCols;
    double total = 0;
    for (std::int64_t part = 0; part < count; ++part, at += stride) total += *at;
    expected_f[j * p.d + k] = static_cast<T>(total);
  }
}

}  // namespace

extern const InfonceKernels<float> infonce_f32{packed_size<float>, pack<float>,         scratch_size<float>,
                                               band<float>,        partial_size<float>, finish<float>};
extern const InfonceKernels<double> infonce_f64{packed_size<double>, pack<double>,         scratch_size<double>,
                                                band<double>,        partial_size<double>, finish<double>};

}  // namespace gramian::GRAMIAN_ISA
