// Exact k nearest neighbours on the device, by the CPU's rule (pairs.h): the sweep is a filter whose scores have a proven
// error bound, and distances in float64 from the rows as given decide among the few that it leaves. A block of threads owns
// the rows of a panel: their candidates wait in lists that it prunes between tiles. In which order threads append to a list is left
// to chance; which entries it keeps is not, and so no result depends on it.
#include "neighbors/knn_cuda.h"

#include "core/sweep.cuh"
#include "neighbors/pair_set.cuh"

namespace gramian::cuda {
namespace {

template <class T>
struct Problem : DevicePairs<T> {
  bool exclude_self, causal;
  std::int64_t k, parts;
  int keep, capacity;  // entries of a list between tiles, and while a tile is added
  const bool* train;   // [n] of a pass, or null
};

// Of a pass a row has three lists: of all other rows, of those before it, and, for rows that are not in `train`, of those that are.
constexpr int kPassLists = 3;

// May list `list` of row i hold row j?
template <int kLists, class T>
GRAMIAN_DEVICE bool admits(const Problem<T>& p, int list, std::int64_t i, std::int64_t j) {
  if (kLists == 1) return !(p.causal && j >= i) && !(p.exclude_self && j == i);
  return list == 0 ? j != i : list == 1 ? j < i : p.train[j];
}

template <class T>
struct Entries {
  T* score;
  std::uint32_t* index;
};

// The score that an exact key stands for, so that both kinds can wait in one list.
template <class T>
GRAMIAN_DEVICE T score_of_key(const Problem<T>& p, std::int64_t i, double key) {
  if (p.metric == Metric::ip) return static_cast<T>(-key);
  if (p.metric == Metric::cosine) return static_cast<T>(1 - key);
  if (p.metric == Metric::chebyshev) return static_cast<T>(-key);
  return static_cast<T>(static_cast<double>(p.x.half_norm[i]) - key / 2);
}

// A score that at least k entries reach, as high as possible: by bisection.
template <class T>
GRAMIAN_DEVICE T kth_highest(const T* score, int count, std::int64_t k) {
  T low = score[0], high = score[0];
  for (int e = lane_index(); e < count; e += 32) {
    low = score[e] < low ? score[e] : low;
    high = score[e] > high ? score[e] : high;
  }
  low = warp_min(low);
  high = warp_max(high);
  for (T middle = high;;) {  // the highest itself first: all k may tie with it
    int reached = 0;
    for (int e = lane_index(); e < count; e += 32) reached += score[e] >= middle;
    reached = warp_sum(reached);
    if (reached == k) return middle;
    (reached > k ? low : high) = middle;
    middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return low;
  }
}

// Moves the entries that `wanted(e)` names to the front; returns how many. Entry e is read before anything is written at or
// beyond its chunk of 32.
template <class T, class Wanted>
GRAMIAN_DEVICE int keep_entries(const Entries<T>& entries, int count, const Wanted& wanted) {
  int kept = 0;
  for (int first = 0; first < count; first += 32) {
    const int e = first + lane_index();
    const bool inside = e < count;
    const T score = inside ? entries.score[e] : T{0};
    const std::uint32_t index = inside ? entries.index[e] : 0;
    const bool stays = inside && wanted(e, score);
    const unsigned staying = __ballot_sync(kAllLanes, stays);
    __syncwarp();
    if (stays) {
      const int to = kept + __popc(staying & ((1U << lane_index()) - 1));
      entries.score[to] = score;
      entries.index[to] = index;
    }
    kept += __popc(staying);
    __syncwarp();
  }
  return kept;
}

// Keeps what may still be among the k nearest: scores within twice the slack of the k-th. Returns how many.
template <class T>
GRAMIAN_DEVICE int prune(const Problem<T>& p, std::int64_t i, const Entries<T>& entries, int count, T* bound) {
  const T least = *bound = kth_highest(entries.score, count, p.k) - 2 * slack(p, i);
  return keep_entries(entries, count, [=](int, T score) { return score >= least; });
}

// The distances of a list, negated so that the nearest is the highest.
template <class T>
GRAMIAN_DEVICE void score_exactly(const Problem<T>& p, std::int64_t i, const Entries<T>& entries, int count) {
  for (int e = 0; e < count; ++e) {
    const T distance = distance_of_key(p, exact_key(p, i, entries.index[e]));
    if (lane_index() == 0) entries.score[e] = -distance;
  }
  __syncwarp();
}

// How many entries come before entry e: by falling score, ties by rising index, a total order.
template <class T>
GRAMIAN_DEVICE int rank_of(const Entries<T>& entries, int count, int e) {
  const T score = entries.score[e];
  const std::uint32_t index = entries.index[e];
  int rank = 0;
  for (int other = 0; other < count; ++other)
    rank += entries.score[other] > score || (entries.score[other] == score && entries.index[other] < index);
  return rank;
}

// Brings a list down to `keep` entries. If near-ties leave more, their exact distances decide at once: what is not among the
// k nearest of the list then never can be. Returns how many stay; raises *threshold.
template <class T>
GRAMIAN_DEVICE int compact(const Problem<T>& p, std::int64_t i, const Entries<T>& entries, int* rank, int count,
                           T* threshold) {
  T bound;
  int kept = prune(p, i, entries, count, &bound);
  if (kept > p.keep) {
    score_exactly(p, i, entries, kept);
    for (int e = lane_index(); e < kept; e += 32) rank[e] = rank_of(entries, kept, e);
    __syncwarp();
    kept = keep_entries(entries, kept, [&](int e, T) { return rank[e] < p.k; });
    T least = kInfinity<T>;
    for (int e = 0; e < kept; ++e) {
      const T score = score_of_key(p, i, exact_key(p, i, entries.index[e]));
      if (lane_index() == 0) entries.score[e] = score;
      least = score < least ? score : least;
    }
    __syncwarp();
    bound = least - slack(p, i);
  }
  if (lane_index() == 0 && bound > *threshold) *threshold = bound;
  __syncwarp();
  return kept;
}

// ---- Kernels ----

// Lists of all rows: [lists, n, parts, keep], and their lengths [lists, n, parts].
template <class T>
struct Lists {
  T* score;
  std::uint32_t* index;
  int* count;
};

// Lists of the rows of one panel, [lists, kTile, capacity], for each block of threads.
template <class T>
struct Working {
  T* score;
  std::uint32_t* index;
  int* rank;
};

template <class Tile, int kLists, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) search_kernel(Problem<T> p, Working<T> working, Lists<T> lists) {
  constexpr int kRows = kTile<T>;
  __shared__ T threshold[kLists * kRows], half_norm[kRows];
  __shared__ int count[kLists * kRows];
  T* const ring = shared_memory<T>();
  const std::int64_t n = p.x.rows.rows, m = p.y.rows.rows;
  const std::int64_t mine = static_cast<std::int64_t>(blockIdx.x) * kLists * kRows * p.capacity;
  working = {working.score + mine, working.index + mine, working.rank + mine};
  for (std::int64_t task = blockIdx.x; task < p.x.packed.panels() * p.parts; task += gridDim.x) {
    const std::int64_t panel = task / p.parts, part = task % p.parts, first_row = panel * kRows;
    const std::int64_t panels = p.causal ? panel + 1 : p.y.packed.panels();
    for (int r = static_cast<int>(threadIdx.x); r < kLists * kRows; r += kThreads) {
      const std::int64_t i = first_row + r % kRows;
      const bool wants = i < n && (r / kRows < 2 || (p.train != nullptr && !p.train[i]));
      threshold[r] = wants ? -kInfinity<T> : kInfinity<T>;
      count[r] = 0;
    }
    for (std::int64_t j = part * panels / p.parts; j < (part + 1) * panels / p.parts; ++j) {
      const std::int64_t first_col = j * kRows;
      for (int c = static_cast<int>(threadIdx.x); c < kRows; c += kThreads)
        half_norm[c] = first_col + c < m ? p.y.half_norm[first_col + c] : T{0};
      Tile tile;
      multiply_tile(p.x.packed, panel, p.y.packed, j, ring, tile);  // ends with a barrier
      GRAMIAN_UNROLL
      for (int r = 0; r < Tile::kRows; ++r) {
        const int row = tile.row(r);
        T wanted[kLists];
        GRAMIAN_UNROLL
        for (int list = 0; list < kLists; ++list) wanted[list] = threshold[list * kRows + row];
        GRAMIAN_UNROLL
        for (int c = 0; c < Tile::kCols; ++c) {
          const int col = tile.col(c);
          const T score = p.metric == Metric::chebyshev ? -tile.v[r][c] : tile.v[r][c] - half_norm[col];
          const std::int64_t i = first_row + row, at = first_col + col;
          GRAMIAN_UNROLL
          for (int list = 0; list < kLists; ++list) {
            if (!(score >= wanted[list]) || at >= m || !admits<kLists>(p, list, i, at)) continue;
            const int place = list * kRows + row, entry = place * p.capacity + atomicAdd(&count[place], 1);
            working.score[entry] = score;
            working.index[entry] = static_cast<std::uint32_t>(at);
          }
        }
      }
      __syncthreads();
      for (int r = warp_index(); r < kLists * kRows; r += kWarps) {
        const int entries = count[r], offset = r * p.capacity;
        if (entries <= p.keep) continue;
        const int kept = compact(p, first_row + r % kRows, Entries<T>{working.score + offset, working.index + offset},
                                 working.rank + offset, entries, &threshold[r]);
        if (lane_index() == 0) count[r] = kept;
      }
      __syncthreads();
    }
    __syncthreads();  // where there was no panel at all, the counts are not there yet
    for (int r = warp_index(); r < kLists * kRows; r += kWarps) {
      const std::int64_t i = first_row + r % kRows;
      if (i >= n) continue;
      const std::int64_t list = (r / kRows * n + i) * p.parts + part;
      for (int e = lane_index(); e < count[r]; e += 32) {
        lists.score[list * p.keep + e] = working.score[r * p.capacity + e];
        lists.index[list * p.keep + e] = working.index[r * p.capacity + e];
      }
      if (lane_index() == 0) lists.count[list] = count[r];
    }
    __syncthreads();
  }
}

// Row i's neighbours from its lists, which lie one after the other. One warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    finish_kernel(Problem<T> p, Lists<T> lists, T* distances, std::int64_t* indices) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (i >= p.x.rows.rows) return;
  const std::int64_t first = i * p.parts;
  const Entries<T> entries{lists.score + first * p.keep, lists.index + first * p.keep};
  int count = lists.count[first];
  for (std::int64_t part = 1; part < p.parts; ++part) {
    const Entries<T> more{entries.score + part * p.keep, entries.index + part * p.keep};
    const int length = lists.count[first + part];
    for (int begin = 0; begin < length; begin += 32) {
      const int e = begin + lane_index();
      const T score = e < length ? more.score[e] : T{0};
      const std::uint32_t index = e < length ? more.index[e] : 0;
      __syncwarp();
      if (e < length) {
        entries.score[count + e] = score;
        entries.index[count + e] = index;
      }
      __syncwarp();
    }
    count += length;
  }
  T bound;
  if (count > p.k) count = prune(p, i, entries, count, &bound);
  score_exactly(p, i, entries, count);
  const bool product = p.metric == Metric::ip;
  for (int e = lane_index(); e < count; e += 32) {
    const int rank = rank_of(entries, count, e);
    if (rank >= p.k) continue;
    distances[i * p.k + rank] = product ? entries.score[e] : -entries.score[e];
    indices[i * p.k + rank] = static_cast<std::int64_t>(entries.index[e]);
  }
  for (std::int64_t e = count + lane_index(); e < p.k; e += 32) {
    const T none = kInfinity<T>;
    distances[i * p.k + e] = product ? -none : none;
    indices[i * p.k + e] = -1;
  }
}

// ---- The search ----

template <class Tile, int kLists = 1, class T = typename Tile::Value>
class Search {
 public:
  Search(const KnnArguments& a, void* memory) : a_(a), arena_(memory), pairs_(arena_, a.x, a.y, a.self) {
    const std::int64_t panels = (a.x.rows + kTile<T> - 1) / kTile<T>, y_panels = (a.y.rows + kTile<T> - 1) / kTile<T>;
    // A task owns the rows of a panel, so few queries against many rows would keep few multiprocessors busy: then the rows
    // of y are dealt out to several lists.
    const std::int64_t enough = 2 * multiprocessors();
    parts_ = panels == 0 ? 1 : std::max<std::int64_t>(1, std::min(enough / panels, y_panels));
    blocks_ = std::min(enough, panels * parts_);
    keep_ = static_cast<int>(a.k + std::max<std::int64_t>(a.k, 32));
    capacity_ = keep_ + kTile<T>;
    const std::int64_t counts = kLists * a.x.rows * parts_, entries = counts * keep_,
                       waiting = kLists * blocks_ * kTile<T> * capacity_;
    lists_ = {arena_.take<T>(entries), arena_.take<std::uint32_t>(entries), arena_.take<int>(counts)};
    working_ = {arena_.take<T>(waiting), arena_.take<std::uint32_t>(waiting), arena_.take<int>(waiting)};
  }

  std::int64_t bytes() const { return arena_.bytes(); }

  // One result a list; a null one is not wanted.
  void run(T* const* distances, std::int64_t* const* indices, Stream stream) {
    const Problem<T> problem{pairs_.measure_pairs(a_.op, a_.x_name, a_.x, a_.y_name, a_.y, a_.self, a_.metric, stream),
                             a_.exclude_self,
                             a_.causal,
                             a_.k,
                             parts_,
                             keep_,
                             capacity_,
                             a_.train};
    launch(search_kernel<Tile, kLists>, grid_of_blocks(blocks_), kTileBytes<T>, stream, problem, working_, lists_);
    for (int list = 0; list < kLists; ++list) {
      const std::int64_t first = list * a_.x.rows * parts_;
      const Lists<T> own{lists_.score + first * keep_, lists_.index + first * keep_, lists_.count + first};
      if (distances[list] != nullptr)
        launch(finish_kernel<T>, grid_of_blocks((a_.x.rows + kWarps - 1) / kWarps), 0, stream, problem, own,
               distances[list], indices[list]);
    }
  }

 private:
  KnnArguments a_;
  Arena arena_;
  PairSetMemory<T> pairs_;
  std::int64_t parts_, blocks_;
  int keep_, capacity_;
  Lists<T> lists_;
  Working<T> working_;
};

}  // namespace

std::int64_t knn_bytes(const KnnArguments& arguments) {
  return arguments.x.element == Element::f64 ? Search<DmmaTile>(arguments, nullptr).bytes()
                                             : Search<FmaTile>(arguments, nullptr).bytes();
}

void knn(const KnnArguments& arguments, void* memory, void* distances, std::int64_t* indices, Stream stream) {
  const bool wide = arguments.x.element == Element::f64, largest = arguments.metric == Metric::chebyshev;
  const auto run = [&](auto search, auto* to) { search.run(&to, &indices, stream); };
  if (wide && largest) return run(Search<LargestTile<double>>(arguments, memory), static_cast<double*>(distances));
  if (wide) return run(Search<DmmaTile>(arguments, memory), static_cast<double*>(distances));
  if (largest) return run(Search<LargestTile<float>>(arguments, memory), static_cast<float*>(distances));
  run(Search<FmaTile>(arguments, memory), static_cast<float*>(distances));
}

std::int64_t knn_pass_bytes(const KnnArguments& arguments) {
  return arguments.x.element == Element::f64 ? Search<DmmaTile, kPassLists>(arguments, nullptr).bytes()
                                             : Search<FmaTile, kPassLists>(arguments, nullptr).bytes();
}

void knn_pass(const KnnArguments& arguments, void* memory, void* const* distances, std::int64_t* const* indices,
              Stream stream) {
  const auto run = [&](auto search, auto zero) {
    using T = decltype(zero);
    T* const to[kPassLists] = {static_cast<T*>(distances[0]), static_cast<T*>(distances[1]),
                               static_cast<T*>(distances[2])};
    search.run(to, indices, stream);
  };
  if (arguments.x.element == Element::f64)
    run(Search<DmmaTile, kPassLists>(arguments, memory), 0.0);
  else
    run(Search<FmaTile, kPassLists>(arguments, memory), 0.0F);
}

}  // namespace gramian::cuda
