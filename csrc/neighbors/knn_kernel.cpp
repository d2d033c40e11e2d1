// Compiled once per instruction set; no standard library here (see lanes.h).
#include "neighbors/knn_kernel.h"

#include "neighbors/distance.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
constexpr T kInfinity = static_cast<T>(__builtin_inf());

template <class T>
GRAMIAN_INLINE void swap(T& a, T& b) {
  const T c = a;
  a = b;
  b = c;
}

// Lists are ordered by falling score, ties by rising index: a total order, so the best k of a set are the same whoever
// found them.
template <class T>
struct Entries {
  T* score;
  std::uint32_t* index;

  GRAMIAN_INLINE bool before(std::int64_t a, std::int64_t b) const {
    return score[a] > score[b] || (score[a] == score[b] && index[a] < index[b]);
  }
  GRAMIAN_INLINE void exchange(std::int64_t a, std::int64_t b) const {
    swap(score[a], score[b]);
    swap(index[a], index[b]);
  }
};

// The distances of a list, negated so that the nearest is the highest. Its rows lie anywhere in memory: fetch one ahead.
template <class T>
void score_exactly(const KnnProblem<T>& p, std::int64_t i, const Entries<T>& entries, std::int64_t count) {
  const std::int64_t value_bytes = p.y.rows.element == Element::f64 ? 8 : p.y.rows.element == Element::f32 ? 4 : 2;
  const std::int64_t bytes = p.y.rows.row_stride * value_bytes;
  for (std::int64_t e = 0; e < count; ++e) {
    if (e + 1 < count) {
      const char* next = static_cast<const char*>(p.y.rows.data) + entries.index[e + 1] * bytes;
      for (std::int64_t b = 0; b < p.y.rows.cols * value_bytes; b += 64) __builtin_prefetch(next + b);
    }
    entries.score[e] = -distance_of_key(p, exact_key(p, i, entries.index[e]));
  }
}

// The score that an exact key stands for, so that both kinds can wait in one list.
template <class T>
GRAMIAN_INLINE T score_of_key(const KnnProblem<T>& p, std::int64_t i, double key) {
  if (p.metric == Metric::ip) return static_cast<T>(-key);
  if (p.metric == Metric::cosine) return static_cast<T>(1 - key);
  if (p.metric == Metric::chebyshev) return static_cast<T>(-key);
  return static_cast<T>(p.x.half_norm[i] - key / 2);
}

// ---- Selection ----

// A score that at least k entries reach, as high as possible: by bisection, counting a vector at a time. A dozen rounds as
// a rule, where a quickselect would mispredict a branch for every second entry.
template <class T>
T kth_highest(const T* score, std::int64_t count, std::int64_t k) {
  constexpr int kN = kLanes<T>;
  T low = score[0], high = score[0];
  for (std::int64_t e = 1; e < count; ++e) {
    low = score[e] < low ? score[e] : low;
    high = score[e] > high ? score[e] : high;
  }
  for (T middle = high;;) {  // the highest itself first: all k may tie with it
    const Vec<T> wanted = broadcast(middle);
    std::int64_t reached = 0, e = 0;
    for (; e + kN <= count; e += kN) reached += __builtin_popcount(at_least(load(score + e), wanted));
    for (; e < count; ++e) reached += score[e] >= middle;
    if (reached == k) return middle;
    (reached > k ? low : high) = middle;
    middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return low;
  }
}

// Heapsort: no recursion, no scratch, no bad case.
template <class T>
void sort(const Entries<T>& entries, std::int64_t count) {
  for (std::int64_t heaped = count / 2, end = count; end > 1;) {
    if (heaped > 0)
      --heaped;
    else
      entries.exchange(0, --end);
    std::int64_t parent = heaped;
    for (std::int64_t child; (child = 2 * parent + 1) < end; parent = child) {
      if (child + 1 < end && entries.before(child, child + 1)) ++child;
      if (!entries.before(parent, child)) break;
      entries.exchange(parent, child);
    }
  }
}

// Keeps what may still be among the k nearest: scores within twice the slack of the k-th. Returns how many.
template <class T>
std::int64_t prune(const KnnProblem<T>& p, std::int64_t i, const Entries<T>& entries, std::int64_t count, T* bound) {
  *bound = kth_highest(entries.score, count, p.k) - 2 * p.slack[i];
  std::int64_t kept = 0;
  for (std::int64_t e = 0; e < count; ++e) {
    entries.score[kept] = entries.score[e];
    entries.index[kept] = entries.index[e];
    kept += entries.score[e] >= *bound;
  }
  return kept;
}

// A list is full. If near-ties leave too little room, their exact distances decide at once: what is not among the k
// nearest of the list then never can be.
template <class T>
__attribute__((noinline)) void compact(const KnnProblem<T>& p, const KnnLists<T>& lists, std::int64_t i) {
  const Entries<T> entries{lists.score + i * p.capacity, lists.index + i * p.capacity};
  T bound;
  std::int64_t kept = prune(p, i, entries, lists.count[i], &bound);
  if (kept > (p.k + p.capacity) / 2) {
    score_exactly(p, i, entries, kept);
    sort(entries, kept);
    kept = p.k;
    for (std::int64_t e = 0; e < kept; ++e) entries.score[e] = score_of_key(p, i, exact_key(p, i, entries.index[e]));
    bound = entries.score[kept - 1] - p.slack[i];
  }
  if (bound > lists.threshold[i]) lists.threshold[i] = bound;
  lists.count[i] = static_cast<std::int32_t>(kept);
}

template <class T>
GRAMIAN_INLINE void insert(const KnnProblem<T>& p, const KnnLists<T>& lists, std::int64_t i, T score, std::int64_t j) {
  const std::int64_t count = lists.count[i];
  lists.score[i * p.capacity + count] = score;
  lists.index[i * p.capacity + count] = static_cast<std::uint32_t>(j);
  lists.count[i] = static_cast<std::int32_t>(count + 1);
  if (count + 1 == p.capacity) compact(p, lists, i);
}

// ---- The sweep ----

// Out of line: hits are rare once the thresholds are good, and the loop over a tile should stay in the instruction cache.
template <class T>
__attribute__((noinline)) void push_hits(const KnnProblem<T>& p, const KnnLists<T>& lists, const Tile<T>& t, int r,
                                         std::uint32_t row_hits, std::uint32_t col_hits) {
  const std::int64_t i = t.row + r;
  const T* product = t.values + r * kTileCols<T>;
  const std::uint32_t mask = allowed(p, t, i);
  for (row_hits &= mask; row_hits != 0; row_hits &= row_hits - 1) {
    const int l = __builtin_ctz(row_hits);
    insert(p, lists, i, product[l] - p.y.half_norm[t.col + l], t.col + l);
  }
  for (col_hits &= mask; col_hits != 0; col_hits &= col_hits - 1) {
    const int l = __builtin_ctz(col_hits);
    insert(p, lists, t.col + l, product[l] - p.x.half_norm[i], i);
  }
}

template <class T>
GRAMIAN_INLINE void push_tile(const KnnProblem<T>& p, const KnnLists<T>& lists, const Tile<T>& t) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  const bool symmetric = p.sweep == Sweep::symmetric;  // then a tile also serves the rows that its columns are
  const Vec<T> half_left = load(p.y.half_norm + t.col), half_right = load(p.y.half_norm + t.col + kN);
#pragma GCC unroll 1
  for (int r = 0; r < t.rows; ++r) {
    const std::int64_t i = t.row + r;
    const Vec<T> left = load(t.values + r * kCols), right = load(t.values + r * kCols + kN);
    const Vec<T> threshold = broadcast(lists.threshold[i]);
    const std::uint32_t row_hits =
        at_least(left - half_left, threshold) | (at_least(right - half_right, threshold) << kN);
    std::uint32_t col_hits = 0;
    if (symmetric) {
      const Vec<T> half = broadcast(p.x.half_norm[i]);
      col_hits = at_least(left - half, load(lists.threshold + t.col)) |
                 at_least(right - half, load(lists.threshold + t.col + kN)) << kN;
    }
    if (__builtin_expect((row_hits | col_hits) != 0, 0)) push_hits(p, lists, t, r, row_hits, col_hits);
  }
}

template <class T>
void block(const KnnProblem<T>& p, const KnnLists<T>& lists, std::int64_t i, std::int64_t x_rows, std::int64_t j,
           std::int64_t y_rows, void* memory) {
  sweep_pairs(p, i, x_rows, j, y_rows, memory, [&](const Tile<T>& tile) { push_tile(p, lists, tile); });
}

#if defined(__AVX512F__)
void block_bf16(const KnnProblem<float>& p, const KnnLists<float>& lists, std::int64_t i, std::int64_t x_rows,
                std::int64_t j, std::int64_t y_rows, void* memory) {
  sweep_pairs_bf16(p, i, x_rows, j, y_rows, memory, [&](const Tile<float>& tile) { push_tile(p, lists, tile); });
}
#endif

void rounding_norms(const Rows& rows, std::int64_t begin, std::int64_t end, const float* shift, const float* scale,
                    double* norm) {
  constexpr int kN = kLanes<float>;
  for (std::int64_t i = begin; i < end; ++i) {
    f32xN squares = {};  // of differences of 2^-9 relative: float32 is plenty, and the caller rounds up
    for (std::int64_t k = 0; k < rows.cols; k += kN) {
      const int features = rows.cols - k < kN ? static_cast<int>(rows.cols - k) : kN;
      f32xN centre = {};
      if (shift != nullptr) __builtin_memcpy(&centre, shift + k, static_cast<unsigned long>(features) * sizeof(float));
      const f32xN v = (load_features<float>(rows, i, k, features) - centre) * scale[i];
      const f32xN lost = v - bf16_round(v);
      squares += lost * lost;
    }
    norm[i] = __builtin_sqrt(static_cast<double>(sum<float>(squares)));
  }
}

// ---- The answer ----

template <class T>
std::int64_t finish_scratch(std::int64_t parts, std::int64_t capacity) {
  return parts * capacity * static_cast<std::int64_t>(sizeof(T) + sizeof(std::uint32_t));
}

template <class T>
void finish(const KnnProblem<T>& p, const KnnLists<T>& lists, std::int64_t i, std::int64_t parts,
            std::int64_t part_stride, void* memory, T* distances, std::int64_t* indices) {
  T* score = static_cast<T*>(memory);
  const Entries<T> entries{score, reinterpret_cast<std::uint32_t*>(score + parts * p.capacity)};
  std::int64_t count = 0;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t list = part * part_stride + i;
    for (std::int32_t c = 0; c < lists.count[list]; ++c, ++count) {
      entries.score[count] = lists.score[list * p.capacity + c];
      entries.index[count] = lists.index[list * p.capacity + c];
    }
  }
  T bound;
  if (count > p.k) count = prune(p, i, entries, count, &bound);
  score_exactly(p, i, entries, count);
  sort(entries, count);
  const bool product = p.metric == Metric::ip;
  for (std::int64_t e = 0; e < p.k; ++e) {
    const bool found = e < count;
    const T score = found ? entries.score[e] : -kInfinity<T>;
    distances[e] = product ? score : -score;
    indices[e] = found ? static_cast<std::int64_t>(entries.index[e]) : -1;
  }
}

}  // namespace

#if defined(__AVX512F__)
extern const KnnKernels<float> knn_f32{pairs_scratch<float>, block<float>,          block_bf16,
                                       rounding_norms,       finish_scratch<float>, finish<float>};
#else
extern const KnnKernels<float> knn_f32{pairs_scratch<float>, block<float>,          nullptr,
                                       rounding_norms,       finish_scratch<float>, finish<float>};
#endif
extern const KnnKernels<double> knn_f64{pairs_scratch<double>,  block<double>, nullptr, nullptr,
                                        finish_scratch<double>, finish<double>};

}  // namespace gramian::GRAMIAN_ISA
