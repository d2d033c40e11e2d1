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

// The distances of a list, negated so that the nearest is the highest. Its rows lie anywhere in memory: fetch one ahead. False
// if one that is not zero leaves the normal range of T.
template <class T>
bool score_exactly(const KnnProblem<T>& p, std::int64_t i, const Entries<T>& entries, std::int64_t count) {
  const std::int64_t value_bytes = p.y.rows.element == Element::f64 ? 8 : p.y.rows.element == Element::f32 ? 4 : 2;
  const std::int64_t bytes = p.y.rows.row_stride * value_bytes;
  constexpr double kNormal = sizeof(T) == 4 ? __FLT_MIN__ : __DBL_MIN__;
  bool normal = true;
  for (std::int64_t e = 0; e < count; ++e) {
    if (e + 1 < count) {
      const char* next = static_cast<const char*>(p.y.rows.data) + entries.index[e + 1] * bytes;
      for (std::int64_t b = 0; b < p.y.rows.cols * value_bytes; b += 64) __builtin_prefetch(next + b);
    }
    const double key = exact_key(p, i, entries.index[e]);
    entries.score[e] = -distance_of_key(p, key);
    normal &= key == 0 || __builtin_fabs(static_cast<double>(entries.score[e])) >= kNormal;
  }
  return normal;
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
  if (count >= kN) {
    Vec<T> lowest = load(score), highest = -lowest;
    for (std::int64_t e = count % kN; e < count; e += kN) {
      lowest = lower(lowest, load(score + e));
      highest = lower(highest, -load(score + e));
    }
    for (int l = 0; l < kN; ++l) {
      low = lowest[l] < low ? lowest[l] : low;
      high = -highest[l] > high ? -highest[l] : high;
    }
  }
  for (std::int64_t e = 1; e < count && count < kN; ++e) {
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
    kept = p.k;  // their keys anew: a score made of the rounded distance would be lost where that overflows
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
__attribute__((noinline)) void push_hits(const KnnProblem<T>& p, const KnnTargets<T>& lists, const Tile<T>& t, int r,
                                         std::uint32_t row_hits, std::uint32_t col_hits) {
  const std::int64_t i = t.row + r;
  const T* product = t.values + r * kTileCols<T>;
  const std::uint32_t mask = allowed(p, t, i);
  for (row_hits &= mask; row_hits != 0; row_hits &= row_hits - 1) {
    const int l = __builtin_ctz(row_hits);
    insert(p, lists.rows, i, product[l] - p.y.half_norm[t.col + l], t.col + l);
  }
  for (col_hits &= mask; col_hits != 0; col_hits &= col_hits - 1) {
    const int l = __builtin_ctz(col_hits);
    insert(*p.turned, lists.cols, t.col + l, product[l] - p.x.half_norm[i], i);
  }
}

// The same for the lists of held-out rows, which only rows to learn from enter.
template <class T>
__attribute__((noinline)) void push_held_out(const KnnProblem<T>& p, const KnnTargets<T>& lists, const Tile<T>& t,
                                             int r, std::uint32_t row_hits, std::uint32_t col_hits) {
  std::uint32_t train = 0;
  for (int l = 0; l < t.cols; ++l) train |= static_cast<std::uint32_t>(p.train[t.col + l]) << l;
  const std::uint32_t into_cols = p.train[t.row + r] ? ~0U : 0;
  push_hits(p, {lists.held_out, lists.held_out, {}}, t, r, row_hits & train, col_hits & into_cols);
}

template <class T>
GRAMIAN_INLINE void push_tile(const KnnProblem<T>& p, const KnnTargets<T>& lists, const Tile<T>& t) {
  constexpr int kN = kLanes<T>, kCols = kTileCols<T>;
  const bool both_sides = p.turned != nullptr;  // a tile also serves its columns
  const Vec<T> half_left = load(p.y.half_norm + t.col), half_right = load(p.y.half_norm + t.col + kN);
#pragma GCC unroll 1
  for (int r = 0; r < t.rows; ++r) {
    const std::int64_t i = t.row + r;
    const Vec<T> left = load(t.values + r * kCols), right = load(t.values + r * kCols + kN);
    const auto row_hits = [&](const KnnLists<T>& of) __attribute__((always_inline)) {
      const Vec<T> threshold = broadcast(of.threshold[i]);
      return at_least(left - half_left, threshold) | (at_least(right - half_right, threshold) << kN);
    };
    const auto col_hits = [&](const KnnLists<T>& of) __attribute__((always_inline)) {
      const Vec<T> half = broadcast(p.x.half_norm[i]);
      return at_least(left - half, load(of.threshold + t.col)) |
             (at_least(right - half, load(of.threshold + t.col + kN)) << kN);
    };
    const std::uint32_t in_rows = row_hits(lists.rows), in_cols = both_sides ? col_hits(lists.cols) : 0;
    if (__builtin_expect((in_rows | in_cols) != 0, 0)) push_hits(p, lists, t, r, in_rows, in_cols);
    if (p.train != nullptr) {
      const std::uint32_t out_rows = row_hits(lists.held_out), out_cols = col_hits(lists.held_out);
      if (__builtin_expect((out_rows | out_cols) != 0, 0)) push_held_out(p, lists, t, r, out_rows, out_cols);
    }
  }
}

template <class T>
void block(const KnnProblem<T>& p, const KnnTargets<T>& lists, std::int64_t i, std::int64_t x_rows, std::int64_t j,
           std::int64_t y_rows, void* memory) {
  sweep_pairs(p, i, x_rows, j, y_rows, memory, [&](const Tile<T>& tile) { push_tile(p, lists, tile); });
}

#if defined(__AVX512F__)
void block_bf16(const KnnProblem<float>& p, const KnnTargets<float>& lists, std::int64_t i, std::int64_t x_rows,
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

// The k nearest of a row's candidates, by their exact distances.
template <class T>
bool decide(const KnnProblem<T>& p, std::int64_t i, T* score, std::uint32_t* index, std::int64_t count, T* distances,
            std::int64_t* indices) {
  const Entries<T> entries{score, index};
  const bool normal = score_exactly(p, i, entries, count);
  sort(entries, count);
  const bool product = p.metric == Metric::ip;
  for (std::int64_t e = 0; e < p.k; ++e) {
    const bool found = e < count;
    const T best = found ? score[e] : -kInfinity<T>;
    distances[e] = product ? best : -best;
    indices[e] = found ? static_cast<std::int64_t>(index[e]) : -1;
  }
  return normal;
}

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
  decide(p, i, entries.score, entries.index, count, distances, indices);
}

// ---- Few queries: packing and measuring y would cost more than the search ----

constexpr int kAbreast = 4;  // rows of y: as many sums at once as hide the latency of one

template <class T>
std::int64_t scan_scratch(std::int64_t x_rows, std::int64_t depth) {
  return (x_rows + kAbreast) * round_up(depth, kLanes<T>);
}

// One row as T, zeros behind.
template <class T>
GRAMIAN_INLINE void copy_row(const Rows& rows, std::int64_t row, T* to) {
  constexpr int kN = kLanes<T>;
  for (std::int64_t k = 0; k < rows.cols; k += kN)
    store(to + k, load_features<T>(rows, row, k, rows.cols - k < kN ? static_cast<int>(rows.cols - k) : kN));
}

// Sums over the features of f(x, y) for kAbreast rows of y.
template <class T, class F>
GRAMIAN_INLINE void sum_abreast(const T* x, const T* const* row, std::int64_t depth, T* result, F&& f) {
  Vec<T> total[kAbreast] = {};
  for (std::int64_t k = 0; k < depth; k += kLanes<T>) {
    const Vec<T> value = load(x + k);
#pragma GCC unroll 4
    for (int r = 0; r < kAbreast; ++r) total[r] += f(value, load(row[r] + k));
  }
  // Sums across lanes, of all rows at once: fold halves of neighbours into one vector until each has its lane.
  constexpr int kN = kLanes<T>;
  if constexpr (kN >= kAbreast) {
    const auto fold = [](Vec<T> a, Vec<T> b, int s) __attribute__((always_inline)) {
      IntVec<T> low, high;
      for (int l = 0; l < kN; ++l) {
        low[l] = l & s ? kN + l - s : l;
        high[l] = l & s ? kN + l : l + s;
      }
      return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    };
    Vec<T> all = fold(fold(total[0], total[1], 1), fold(total[2], total[3], 1), 2);
    if constexpr (kN >= 8) all = fold(all, all, 4);
    if constexpr (kN >= 16) all = fold(all, all, 8);
    __builtin_memcpy(result, &all, kAbreast * sizeof(T));
  } else {
    for (int r = 0; r < kAbreast; ++r) result[r] = sum<T>(total[r]);
  }
}

template <class T>
void scan(const KnnProblem<T>& p, std::int64_t begin, std::int64_t end, T* scratch, T* score, T* square) {
  const bool product = p.metric == Metric::ip || p.metric == Metric::cosine;
  const std::int64_t depth = p.x.rows.cols, padded = round_up(depth, kLanes<T>);
  const bool in_place = p.y.rows.element == kOwn<T> && p.y.rows.col_stride == 1 && padded == depth;
  T* queries = scratch + kAbreast * padded;
  for (std::int64_t i = 0; i < p.x.rows.rows; ++i) copy_row(p.x.rows, i, queries + i * padded);
  for (std::int64_t j = begin; j < end; j += kAbreast) {
    const int rows = end - j < kAbreast ? static_cast<int>(end - j) : kAbreast;
    const T* row[kAbreast];
    for (int r = 0; r < kAbreast; ++r) {
      const std::int64_t at = r < rows ? j + r : j;
      row[r] = scratch + r * padded;
      if (in_place)
        row[r] = static_cast<const T*>(p.y.rows.data) + row_offset(p.y.rows, at);
      else
        copy_row(p.y.rows, at, scratch + r * padded);
    }
    T result[kAbreast], size[kAbreast];
    if (product) {
      for (int r = 0; r < rows; ++r) {
        const T* self[kAbreast] = {row[r], row[r], row[r], row[r]};
        sum_abreast(row[r], self, padded, result, [](Vec<T> x, Vec<T> y) { return x * y; });
        square[j + r] = result[0];
        size[r] = p.metric == Metric::cosine && result[0] > 0 ? static_cast<T>(__builtin_sqrt(result[0])) : T{1};
      }
    }
    for (std::int64_t i = 0; i < p.x.rows.rows; ++i) {
      const T* x = queries + i * padded;
      if (product)
        sum_abreast(x, row, padded, result, [](Vec<T> a, Vec<T> b) { return a * b; });
      else
        sum_abreast(x, row, padded, result, [](Vec<T> a, Vec<T> b) { return (a - b) * (a - b); });
      for (int r = 0; r < rows; ++r) score[i * p.y.rows.rows + j + r] = product ? result[r] / size[r] : -result[r];
    }
  }
}

template <class T>
std::int64_t keep(std::int64_t k, double relative, double absolute, T* score, std::uint32_t* index,
                  std::int64_t count) {
  constexpr int kN = kLanes<T>;
  Vec<T> not_finite = {};
  std::int64_t e = 0;
  for (; e + kN <= count; e += kN) not_finite += load(score + e) - load(score + e);  // 0, or NaN
  for (; e < count; ++e) not_finite[0] += score[e] - score[e];
  if (sum<T>(not_finite) != 0) return -1;
  const double kth = kth_highest(score, count, k);
  const T bound = static_cast<T>(kth - relative * __builtin_fabs(kth) - absolute);
  std::int64_t kept = 0;
  const auto push = [&](std::int64_t at) {
    score[kept] = score[at];
    index[kept++] = static_cast<std::uint32_t>(at);
  };
  for (e = 0; e + kN <= count; e += kN)
    for (std::uint32_t hits = at_least(load(score + e), broadcast(bound)); hits != 0; hits &= hits - 1)
      push(e + __builtin_ctz(hits));
  for (; e < count; ++e)
    if (score[e] >= bound) push(e);
  return kept;
}

}  // namespace

#if defined(__AVX512F__)
extern const KnnKernels<float> knn_f32{pairs_scratch<float>,  block<float>,  block_bf16,          rounding_norms,
                                       finish_scratch<float>, finish<float>, scan_scratch<float>, scan<float>,
                                       keep<float>,           decide<float>};
#else
extern const KnnKernels<float> knn_f32{
    pairs_scratch<float>, block<float>,        nullptr,     rounding_norms, finish_scratch<float>,
    finish<float>,        scan_scratch<float>, scan<float>, keep<float>,    decide<float>};
#endif
extern const KnnKernels<double> knn_f64{
    pairs_scratch<double>, block<double>,        nullptr,      nullptr,      finish_scratch<double>,
    finish<double>,        scan_scratch<double>, scan<double>, keep<double>, decide<double>};

}  // namespace gramian::GRAMIAN_ISA
