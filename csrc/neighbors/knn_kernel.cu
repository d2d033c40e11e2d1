// Exact k nearest neighbours on the device, by the CPU's rule (pairs.h): the sweep is a filter whose scores have a proven
// error bound, and distances in float64 from the rows as given decide among the few that it leaves. A block of threads owns
// the rows of a panel: their candidates wait in lists that it prunes between tiles. In which order threads append to a list is left
// to chance; which entries it keeps is not, and so no result depends on it.
#include "neighbors/knn_cuda.h"

#include "core/sweep.cuh"
#include "core/tile.cuh"
#include "neighbors/moments.cuh"
#include "neighbors/unit.h"

namespace gramian::cuda {
namespace {

// A norm that makes the slack swallow every score: for rows so small that 1 / |x| overflows, all is decided exactly.
constexpr double kHuge = 1e10;

template <class T>
struct DeviceSide : Side<T> {  // half_norm [n] without padding
  Packed<T> packed;
  const double* norm;  // [n] of the packed row
};

template <class T>
struct Problem {
  DeviceSide<T> x, y;
  const Facts* y_norms;
  double unit, rounding;
  Metric metric;
  bool exclude_self, causal;
  std::int64_t k, parts;
  int keep, capacity;  // entries of a list between tiles, and while a tile is added
};

template <class T>
struct Entries {
  T* score;
  std::uint32_t* index;
};

// Bounds |score - exact score| for every partner of row i: d roundings of the product and a few of packing, norms and
// the result, each against |x||y| <= (|x| + |y|)^2 / 4.
template <class T>
GRAMIAN_DEVICE T slack(const Problem<T>& p, std::int64_t i) {
  const double sum = p.x.norm[i] + p.y_norms->largest;
  return static_cast<T>(p.rounding * sum * sum);
}

// ---- By one warp ----

// Lower is nearer: squared distance (in units of 1 / unit^2), cosine distance, minus the inner product, or the
// largest difference.
template <class T>
GRAMIAN_DEVICE double exact_key(const Problem<T>& p, std::int64_t i, std::int64_t j) {
  const bool product = p.metric == Metric::ip, cosine = p.metric == Metric::cosine;
  const bool largest = p.metric == Metric::chebyshev;
  const double x_size = cosine ? p.x.size[i] : p.unit, y_size = cosine ? p.y.size[j] : p.unit;
  if (cosine && (x_size == 0 || y_size == 0)) return 1;  // a zero row is similar to nothing
  const std::int64_t x_row = row_offset(p.x.rows, i), y_row = row_offset(p.y.rows, j);
  double total = 0;
  for (std::int64_t f = lane_index(); f < p.x.rows.cols; f += 32) {
    // Rounded: a fused a - b would not be zero for equal rows.
    const double a = rounded_product(convert<T>(p.x.rows, x_row + feature_offset(p.x.rows, f)), x_size);
    const double b = rounded_product(convert<T>(p.y.rows, y_row + feature_offset(p.y.rows, f)), y_size);
    if (largest)
      total = fmax(total, fabs(a - b));
    else
      total += product ? a * b : (a - b) * (a - b);
  }
  if (largest) return warp_max(total);
  total = warp_sum(total);
  // Unit rows: 1 - cos = |x - y|^2 / 2, and the difference form does not cancel.
  return product ? -total : cosine ? total / 2 : total;
}

// What is returned, the inner product with its sign turned, and so what ties are about: lower is nearer.
template <class T>
GRAMIAN_DEVICE T distance_of_key(const Problem<T>& p, double key) {
  switch (p.metric) {
    case Metric::euclidean: return static_cast<T>(sqrt(key) / p.unit);
    case Metric::cosine:
    case Metric::chebyshev: return static_cast<T>(key);
    default: return static_cast<T>(key / p.unit / p.unit);  // twice: the square of the unit may vanish
  }
}

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

// norm, half_norm, size and scale of each row, and what `measure` of moments.cuh finds of them.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    norms_kernel(Rows x, const T* shift, double unit, Metric metric, double* norm, T* half_norm, double* size, T* scale,
                 Facts* facts) {
  __shared__ Facts slots[kWarps];
  Facts mine{0, kInfinity<double>};
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * kStatRows;
  for (std::int64_t i = begin + warp_index(); i < begin + kStatRows && i < x.rows; i += kWarps) {
    // Chebyshev scores are exact, so their slack is that of norms of zero.
    const double square = metric == Metric::chebyshev ? 0 : squared_norm(x, i, shift, unit);
    if (!is_finite(square))
      mine.first_bad = mine.first_bad < static_cast<double>(i) ? mine.first_bad : static_cast<double>(i);
    double length = sqrt(square), inverse = 0;
    T factor = static_cast<T>(unit);
    if (metric == Metric::cosine) {
      inverse = length > 0 ? unit / length : 0;
      factor = static_cast<T>(inverse);
      length = is_finite(static_cast<double>(factor)) ? 1 : kHuge;
      if (length > 1) factor = 0;
    }
    mine.largest = length > mine.largest ? length : mine.largest;
    if (lane_index() == 0) {
      norm[i] = length;
      half_norm[i] = metric == Metric::euclidean || metric == Metric::sqeuclidean ? static_cast<T>(square / 2) : T{0};
      size[i] = inverse;
      scale[i] = factor;
    }
  }
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) facts[blockIdx.x] = mine;
}

static __global__ void __launch_bounds__(kThreads, 1)
    join_norms_kernel(const Facts* facts, std::int64_t count, Facts* all) {
  __shared__ Facts slots[kWarps];
  Facts mine{0, kInfinity<double>};
  for (std::int64_t b = threadIdx.x; b < count; b += kThreads) mine = joined(mine, facts[b]);
  mine = block_facts(mine, slots);
  if (threadIdx.x == 0) *all = mine;
}

// Lists of all rows: [n, parts, keep], and their lengths [n, parts].
template <class T>
struct Lists {
  T* score;
  std::uint32_t* index;
  int* count;
};

// Lists of the rows of one panel, [kTile, capacity], for each block of threads.
template <class T>
struct Working {
  T* score;
  std::uint32_t* index;
  int* rank;
};

template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) search_kernel(Problem<T> p, Working<T> working, Lists<T> lists) {
  constexpr int kRows = kTile<T>;
  __shared__ T threshold[kRows], half_norm[kRows];
  __shared__ int count[kRows];
  T* const ring = shared_memory<T>();
  const std::int64_t n = p.x.rows.rows, m = p.y.rows.rows;
  const std::int64_t mine = static_cast<std::int64_t>(blockIdx.x) * kRows * p.capacity;
  working = {working.score + mine, working.index + mine, working.rank + mine};
  for (std::int64_t task = blockIdx.x; task < p.x.packed.panels() * p.parts; task += gridDim.x) {
    const std::int64_t panel = task / p.parts, part = task % p.parts, first_row = panel * kRows;
    const std::int64_t panels = p.causal ? panel + 1 : p.y.packed.panels();
    for (int r = static_cast<int>(threadIdx.x); r < kRows; r += kThreads) {
      threshold[r] = first_row + r < n ? -kInfinity<T> : kInfinity<T>;
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
        const T wanted = threshold[row];
        GRAMIAN_UNROLL
        for (int c = 0; c < Tile::kCols; ++c) {
          const int col = tile.col(c);
          const T score = p.metric == Metric::chebyshev ? -tile.v[r][c] : tile.v[r][c] - half_norm[col];
          if (!(score >= wanted)) continue;
          const std::int64_t i = first_row + row, at = first_col + col;
          if (at >= m || (p.causal && at >= i) || (p.exclude_self && at == i)) continue;
          const int entry = row * p.capacity + atomicAdd(&count[row], 1);
          working.score[entry] = score;
          working.index[entry] = static_cast<std::uint32_t>(at);
        }
      }
      __syncthreads();
      for (int r = warp_index(); r < kRows; r += kWarps) {
        const int entries = count[r], offset = r * p.capacity;
        if (entries <= p.keep) continue;
        const int kept = compact(p, first_row + r, Entries<T>{working.score + offset, working.index + offset},
                                 working.rank + offset, entries, &threshold[r]);
        if (lane_index() == 0) count[r] = kept;
      }
      __syncthreads();
    }
    __syncthreads();  // where there was no panel at all, the counts are not there yet
    for (int r = warp_index(); r < kRows && first_row + r < n; r += kWarps) {
      const std::int64_t list = (first_row + r) * p.parts + part;
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

template <class T>
struct SideMemory {
  MomentsMemory moments;
  T *scale, *half_norm;
  double *size, *norm;
  Facts *blocks, *norms;
  char* packed;

  SideMemory(Arena& arena, const Rows& rows)
      : moments(arena, rows.rows, rows.cols),
        scale(arena.take<T>(rows.rows)),
        half_norm(arena.take<T>(rows.rows)),
        size(arena.take<double>(rows.rows)),
        norm(arena.take<double>(rows.rows)),
        blocks(arena.take<Facts>(stat_blocks(rows.rows))),
        norms(arena.take<Facts>(1)),
        packed(arena.take<char>(packed_bytes<T>(rows.rows, rows.cols))) {}
};

template <class T>
DeviceSide<T> measured(const char* op, const char* name, const Rows& rows, Metric metric, const T* shift, double unit,
                       const SideMemory<T>& memory, Stream stream) {
  const std::int64_t blocks = stat_blocks(rows.rows);
  launch(norms_kernel<T>, dim3{static_cast<unsigned>(blocks)}, 0, stream, rows, shift, unit, metric, memory.norm,
         memory.half_norm, memory.size, memory.scale, memory.blocks);
  launch(join_norms_kernel, dim3{1}, 0, stream, static_cast<const Facts*>(memory.blocks), blocks, memory.norms);
  if (sizeof(T) == 8) {  // float32 values cannot overflow float64 squares
    Facts facts;
    read_back(&facts, memory.norms, sizeof facts, stream);
    if (is_finite(facts.first_bad))
      refuse(op, ": ", name, " must span a range whose squares do not overflow, got row ",
             static_cast<std::int64_t>(facts.first_bad));
  }
  return {{rows, memory.scale, memory.half_norm, memory.size},
          pack<T>(rows, {shift, memory.scale}, memory.packed, stream),
          memory.norm};
}

template <class Tile, class T = typename Tile::Value>
class Search {
 public:
  Search(const KnnArguments& a, void* memory)
      : a_(a), arena_(memory), x_(arena_, a.x), y_(a.self ? x_ : SideMemory<T>(arena_, a.y)) {
    mean_ = arena_.take<T>(a.x.cols);
    unused_ = arena_.take<T>(a.x.cols);
    const std::int64_t panels = (a.x.rows + kTile<T> - 1) / kTile<T>, y_panels = (a.y.rows + kTile<T> - 1) / kTile<T>;
    // A task owns the rows of a panel, so few queries against many rows would keep few multiprocessors busy: then the rows
    // of y are dealt out to several lists.
    const std::int64_t enough = 2 * multiprocessors();
    parts_ = panels == 0 ? 1 : std::max<std::int64_t>(1, std::min(enough / panels, y_panels));
    blocks_ = std::min(enough, panels * parts_);
    keep_ = static_cast<int>(a.k + std::max<std::int64_t>(a.k, 32));
    capacity_ = keep_ + kTile<T>;
    const std::int64_t entries = a.x.rows * parts_ * keep_, waiting = blocks_ * kTile<T> * capacity_;
    lists_ = {arena_.take<T>(entries), arena_.take<std::uint32_t>(entries), arena_.take<int>(a.x.rows * parts_)};
    working_ = {arena_.take<T>(waiting), arena_.take<std::uint32_t>(waiting), arena_.take<int>(waiting)};
  }

  std::int64_t bytes() const { return arena_.bytes(); }

  void run(T* distances, std::int64_t* indices, Stream stream) {
    double largest = measure(a_.op, a_.y_name, a_.y, y_.moments, mean_, stream);
    if (!a_.self) largest = std::max(largest, measure(a_.op, a_.x_name, a_.x, x_.moments, unused_, stream));
    const double unit = a_.metric == Metric::chebyshev ? 1 : unit_of<T>(largest, a_.x.cols);
    const bool squares = a_.metric == Metric::euclidean || a_.metric == Metric::sqeuclidean;
    const T* const shift = squares ? mean_ : nullptr;
    const DeviceSide<T> x = measured(a_.op, a_.x_name, a_.x, a_.metric, shift, unit, x_, stream);
    const DeviceSide<T> y = a_.self ? x : measured(a_.op, a_.y_name, a_.y, a_.metric, shift, unit, y_, stream);
    const double rounding = (0.3 * static_cast<double>(a_.x.cols) + 8) * std::numeric_limits<T>::epsilon() / 2;
    const Problem<T> problem{x,         y,    y_.norms, unit,  rounding, a_.metric, a_.exclude_self,
                             a_.causal, a_.k, parts_,   keep_, capacity_};
    launch(search_kernel<Tile>, dim3{static_cast<unsigned>(blocks_)}, kTileBytes<T>, stream, problem, working_, lists_);
    launch(finish_kernel<T>, dim3{static_cast<unsigned>((a_.x.rows + kWarps - 1) / kWarps)}, 0, stream, problem, lists_,
           distances, indices);
  }

 private:
  KnnArguments a_;
  Arena arena_;
  SideMemory<T> x_, y_;
  T *mean_, *unused_;
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
  const auto run = [&](auto search, auto* to) { search.run(to, indices, stream); };
  if (wide && largest) return run(Search<LargestTile<double>>(arguments, memory), static_cast<double*>(distances));
  if (wide) return run(Search<DmmaTile>(arguments, memory), static_cast<double*>(distances));
  if (largest) return run(Search<LargestTile<float>>(arguments, memory), static_cast<float*>(distances));
  run(Search<FmaTile>(arguments, memory), static_cast<float*>(distances));
}

}  // namespace gramian::cuda
