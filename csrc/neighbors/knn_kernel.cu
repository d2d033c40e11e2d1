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
  const T* reach;      // [n] how far neighbours may lie, or null
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

// The lowest score of row i that may be of a pair within reach.
template <class T>
GRAMIAN_DEVICE T least_score(const Problem<T>& p, std::int64_t i) {
  if (p.reach == nullptr) return -kInfinity<T>;
  double margin;
  const double least = score_at(p, i, static_cast<double>(p.reach[i]), &margin) - margin;
  return is_finite(least) ? static_cast<T>(least) : -kInfinity<T>;
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
  if (!p.known->sound()) return;
  T* const ring = shared_memory<T>();
  const std::int64_t n = p.x.rows.rows, m = p.y.rows.rows;
  const std::int64_t mine = static_cast<std::int64_t>(blockIdx.x) * kLists * kRows * p.capacity;
  working = {working.score + mine, working.index + mine, working.rank + mine};
  Tile tile;
  clear_tile(tile);
  for (std::int64_t task = blockIdx.x; task < p.x.packed.panels() * p.parts; task += gridDim.x) {
    const std::int64_t panel = task / p.parts, part = task % p.parts, first_row = panel * kRows;
    const std::int64_t panels = p.causal ? panel + 1 : p.y.packed.panels();
    const std::int64_t first_panel = part * panels / p.parts, last_panel = (part + 1) * panels / p.parts;
    for (int r = static_cast<int>(threadIdx.x); r < kLists * kRows; r += kThreads) {
      const std::int64_t i = first_row + r % kRows;
      const bool wants = i < n && (r / kRows < 2 || (p.train != nullptr && !p.train[i]));
      threshold[r] = wants ? least_score(p, i) : kInfinity<T>;
      count[r] = 0;
    }
    const auto panels_of = [&](std::int64_t t) {
      return PanelPair<T>{p.x.packed.panel(panel), p.y.packed.panel(first_panel + t)};
    };
    const int slabs = static_cast<int>(p.x.packed.depth / kSlab);
    add_tiles(last_panel - first_panel, slabs, panels_of, ring, tile, [&](std::int64_t t) {
      const std::int64_t first_col = (first_panel + t) * kRows;
      for (int c = static_cast<int>(threadIdx.x); c < kRows; c += kThreads)
        half_norm[c] = first_col + c < m ? p.y.half_norm[first_col + c] : T{0};
      __syncthreads();
      GRAMIAN_UNROLL
      for (int r = 0; r < Tile::kRows; ++r) {
        const int row = tile.row(r);
        T wanted = threshold[row];  // by any list
        GRAMIAN_UNROLL
        for (int list = 1; list < kLists; ++list) wanted = fmin(wanted, threshold[list * kRows + row]);
        GRAMIAN_UNROLL
        for (int c = 0; c < Tile::kCols; ++c) {
          const int col = tile.col(c);
          const T score = p.metric == Metric::chebyshev ? -tile.v[r][c] : tile.v[r][c] - half_norm[col];
          const std::int64_t i = first_row + row, at = first_col + col;
          if (!(score >= wanted) || at >= m) continue;
          GRAMIAN_UNROLL_BY(1)
          for (int list = 0; list < kLists; ++list) {
            if ((kLists > 1 && !(score >= threshold[list * kRows + row])) || !admits<kLists>(p, list, i, at)) continue;
            const int place = list * kRows + row, entry = place * p.capacity + atomicAdd(&count[place], 1);
            working.score[entry] = score;
            working.index[entry] = static_cast<std::uint32_t>(at);
          }
        }
      }
      clear_tile(tile);
      __syncthreads();
      for (int r = warp_index(); r < kLists * kRows; r += kWarps) {
        const int entries = count[r], offset = r * p.capacity;
        if (entries <= p.keep) continue;
        const int kept = compact(p, first_row + r % kRows, Entries<T>{working.score + offset, working.index + offset},
                                 working.rank + offset, entries, &threshold[r]);
        if (lane_index() == 0) count[r] = kept;
      }
      __syncthreads();
    });
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
  const bool product = p.metric == Metric::ip, sound = p.known->sound();
  const std::int64_t first = i * p.parts;
  const Entries<T> entries{lists.score + first * p.keep, lists.index + first * p.keep};
  int count = sound ? lists.count[first] : 0;
  for (std::int64_t part = 1; sound && part < p.parts; ++part) {
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
  const T none = !sound ? kNaN<T> : product ? -kInfinity<T> : kInfinity<T>;
  for (int e = lane_index(); e < count; e += 32) {
    const int rank = rank_of(entries, count, e);
    if (rank >= p.k) continue;
    const T distance = product ? entries.score[e] : -entries.score[e];
    const bool within = p.reach == nullptr || (product ? distance >= p.reach[i] : distance <= p.reach[i]);
    distances[i * p.k + rank] = within ? distance : none;
    indices[i * p.k + rank] = within ? static_cast<std::int64_t>(entries.index[e]) : -1;
  }
  for (std::int64_t e = count + lane_index(); e < p.k; e += 32) {
    distances[i * p.k + e] = none;
    indices[i * p.k + e] = -1;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) merge_kernel(NeighborLists<T> lists, T* distances, std::int64_t* indices) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= lists.rows) return;
  std::int64_t a = row * lists.n, b = row * lists.m;
  const std::int64_t a_end = a + lists.n, b_end = b + lists.m;
  for (std::int64_t e = row * lists.k; e < (row + 1) * lists.k; ++e) {
    bool from_b = a == a_end;
    if (a < a_end && b < b_end) {
      const T x = lists.distance_a[a], y = lists.distance_b[b];
      from_b = (lists.largest ? y > x : y < x) || (y == x && lists.index_b[b] < lists.index_a[a]);
    }
    distances[e] = from_b ? lists.distance_b[b] : lists.distance_a[a];
    indices[e] = from_b ? lists.index_b[b++] : lists.index_a[a++];
  }
}

// ---- The search ----

// Of the rows of one side among those of the other; one result a list, a null one is not wanted.
template <class Tile, int kLists = 1, class T = typename Tile::Value>
class Search {
 public:
  Search(Arena& arena, std::int64_t rows, std::int64_t y_rows, std::int64_t k) : rows_(rows), k_(k) {
    const std::int64_t panels = (rows + kTile<T> - 1) / kTile<T>, y_panels = (y_rows + kTile<T> - 1) / kTile<T>;
    // A task owns the rows of a panel, so few queries against many rows would keep few multiprocessors busy: then the rows
    // of y are dealt out to several lists.
    const std::int64_t enough = 2 * multiprocessors();
    parts_ = panels == 0 ? 1 : std::max<std::int64_t>(1, std::min(enough / panels, y_panels));
    blocks_ = std::min(enough, panels * parts_);
    keep_ = k + std::max<std::int64_t>(k, 32);
    capacity_ = keep_ + kTile<T>;
    const std::int64_t counts = kLists * rows * parts_, entries = counts * keep_,
                       waiting = kLists * blocks_ * kTile<T> * capacity_;
    lists_ = {arena.take<T>(entries), arena.take<std::uint32_t>(entries), arena.take<int>(counts)};
    working_ = {arena.take<T>(waiting), arena.take<std::uint32_t>(waiting), arena.take<int>(waiting)};
  }

  void run(const DevicePairs<T>& pairs, const KnnArguments& a, const void* reach, void* const* distances,
           std::int64_t* const* indices, Stream stream) const {
    const Problem<T> problem{pairs,
                             a.exclude_self,
                             a.causal,
                             k_,
                             parts_,
                             static_cast<int>(keep_),
                             static_cast<int>(capacity_),
                             a.train,
                             static_cast<const T*>(reach)};
    launch(search_kernel<Tile, kLists>, grid_of_blocks(blocks_), kTileBytes<T>, stream, problem, working_, lists_);
    for (int list = 0; list < kLists; ++list) {
      const std::int64_t first = list * rows_ * parts_;
      const Lists<T> own{lists_.score + first * keep_, lists_.index + first * keep_, lists_.count + first};
      if (distances[list] != nullptr)
        launch(finish_kernel<T>, grid_of_blocks((rows_ + kWarps - 1) / kWarps), 0, stream, problem, own,
               static_cast<T*>(distances[list]), indices[list]);
    }
  }

 private:
  std::int64_t rows_, k_, parts_, blocks_;
  std::int64_t keep_, capacity_;  // 32 bits once there is memory for them
  Lists<T> lists_;
  Working<T> working_;
};

PairSides sides_of(const KnnArguments& a) {
  return {a.op,
          a.x_name,
          a.y_name,
          a.x,
          a.y,
          a.metric,
          a.self,
          a.x_reach,
          a.y_reach,
          "x_reach must be numbers",
          "y_reach must be numbers",
          a.same_x};
}

template <class Tile, int kLists = 1, class T = typename Tile::Value>
std::int64_t run(const KnnArguments& a, void* memory, void* const* distances, std::int64_t* const* indices,
                 Stream stream) {
  Arena arena(memory);
  const PairSetMemory<T> pairs(arena, sides_of(a));
  const Search<Tile, kLists> search(arena, a.x.rows, a.y.rows, a.k);
  if (memory != nullptr) search.run(pairs.measure_pairs(stream), a, nullptr, distances, indices, stream);
  return arena.bytes();
}

template <class Tile, class T = typename Tile::Value>
std::int64_t run_both(const KnnArguments& a, void* memory, void* const* distances, std::int64_t* const* indices,
                      Stream stream) {
  Arena arena(memory);
  const PairSetMemory<T> pairs(arena, sides_of(a));
  const Search<Tile> forth(arena, a.x.rows, a.y.rows, a.k), back(arena, a.y.rows, a.x.rows, a.k);
  if (memory == nullptr) return arena.bytes();
  const DevicePairs<T> measured = pairs.measure_pairs(stream);
  forth.run(measured, a, a.x_reach, distances, indices, stream);
  back.run(measured.turned(), a, a.y_reach, distances + 1, indices + 1, stream);
  return arena.bytes();
}

}  // namespace

std::int64_t knn(const KnnArguments& a, void* memory, void* distances, std::int64_t* indices, Stream stream) {
  const bool wide = a.x.element == Element::f64, largest = a.metric == Metric::chebyshev;
  if (wide && largest) return run<LargestTile<double>>(a, memory, &distances, &indices, stream);
  if (wide) return run<DmmaTile>(a, memory, &distances, &indices, stream);
  if (largest) return run<LargestTile<float>>(a, memory, &distances, &indices, stream);
  return run<FmaTile>(a, memory, &distances, &indices, stream);
}

std::int64_t knn_pass(const KnnArguments& a, void* memory, void* const* distances, std::int64_t* const* indices,
                      Stream stream) {
  return a.x.element == Element::f64 ? run<DmmaTile, kPassLists>(a, memory, distances, indices, stream)
                                     : run<FmaTile, kPassLists>(a, memory, distances, indices, stream);
}

std::int64_t knn_both(const KnnArguments& a, void* memory, void* const* distances, std::int64_t* const* indices,
                      Stream stream) {
  const bool wide = a.x.element == Element::f64, largest = a.metric == Metric::chebyshev;
  if (wide && largest) return run_both<LargestTile<double>>(a, memory, distances, indices, stream);
  if (wide) return run_both<DmmaTile>(a, memory, distances, indices, stream);
  if (largest) return run_both<LargestTile<float>>(a, memory, distances, indices, stream);
  return run_both<FmaTile>(a, memory, distances, indices, stream);
}

template <class T>
void knn_merge(const NeighborLists<T>& lists, T* distances, std::int64_t* indices, Stream stream) {
  launch(merge_kernel<T>, grid_of_threads(lists.rows), 0, stream, lists, distances, indices);
}
template void knn_merge<float>(const NeighborLists<float>&, float*, std::int64_t*, Stream);
template void knn_merge<double>(const NeighborLists<double>&, double*, std::int64_t*, Stream);

}  // namespace gramian::cuda
