// The two ways to exact nearest neighbours on the CPU: a scan for few queries, a sweep for many.
#pragma once
#include <utility>

#include "core/workspace.h"
#include "neighbors/knn.h"
#include "neighbors/knn_kernel.h"
#include "neighbors/pair_set.h"

namespace gramian {

constexpr const char* kKnn = "knn";

template <class T>
const KnnKernels<T>& knn_kernels() {
  if constexpr (sizeof(T) == 4)
    return GRAMIAN_KERNELS(knn_f32);
  else
    return GRAMIAN_KERNELS(knn_f64);
}

// Few queries, every pair scored straight from the rows: by differences, whose rounding is relative to the distance itself,
// so there is nothing to measure or pack before. Exact distances of what the rounding leaves open decide, as after a sweep,
// so the answer is the same to the bit.
template <class T>
class Scan {
 public:
  // By cost, in features read: a sweep measures and packs a row of y at about kSweep times the cost of one distance, and a
  // distance costs kSelect features more for its way through the lists. Measured at d = 16 ... 768.
  static bool pays(const Rows& x, Metric metric) {
    constexpr std::int64_t kSweep = 48, kSelect = 40;
    return x.cols > 0 && x.rows * (x.cols + kSelect) <= kSweep * x.cols && metric != Metric::chebyshev;
  }

  // All queries, as many at a time as keep their lists small: each pair has a score and an index. False: see run.
  static bool answers(const Rows& x, const Rows& y, Metric metric, std::int64_t k, T* distances,
                      std::int64_t* indices) {
    constexpr std::int64_t kPairs = std::int64_t{1} << 23;
    const std::int64_t together = std::max<std::int64_t>(kPairs / y.rows, 2);
    const std::int64_t value_bytes = x.element == Element::f64 ? 8 : x.element == Element::f32 ? 4 : 2;
    for (std::int64_t i = 0; i < x.rows; i += together) {
      Rows some = x;
      some.data = static_cast<const char*>(x.data) + i * x.row_stride * value_bytes;
      some.rows = std::min(together, x.rows - i);
      if (!Scan(some, y, metric, k).run(distances + i * k, indices + i * k)) return false;
    }
    return true;
  }

  Scan(const Rows& x, const Rows& y, Metric metric, std::int64_t k)
      : pairs_(x.rows * y.rows),
        lists_(1, pairs_ * static_cast<std::int64_t>(sizeof(T) + sizeof(std::uint32_t))),
        square_(is_euclidean(metric) ? 0 : size(y.rows)) {
    double unit = 1;  // float64 holds the squares of all float32
    if constexpr (sizeof(T) == 8) {
      const double largest = measure(kKnn, "y", y).largest;
      unit = unit_of<T>(std::max(largest, measure(kKnn, "x", x).largest), x.cols);
    }
    x_norm_ = norms(x, 0, x.rows, unit);
    if (metric == Metric::cosine) {
      for (double norm : x_norm_) x_size_.push_back(norm > 0 ? unit / norm : 0);
      y_size_.resize(size(y.rows));
    }
    problem_ = {{{x, nullptr, nullptr, x_size_.data()},
                 {y, nullptr, nullptr, y_size_.data()},
                 nullptr,
                 unit,
                 nullptr,
                 metric,
                 Sweep::full},
                k,
                y.rows,
                nullptr,
                nullptr};
  }

  // False if the scores cannot decide: rows that are not finite, or whose distances leave the range of T.
  bool run(T* distances, std::int64_t* indices) {
    // The square of a small query beside a huge row has vanished; a search measures it in a unit of its own.
    if (problem_.metric == Metric::cosine && *std::min_element(x_norm_.begin(), x_norm_.end()) < 0x1p-450) return false;
    const auto& kernel = knn_kernels<T>();
    const Rows &x = problem_.x.rows, &y = problem_.y.rows;
    T* const score = static_cast<T*>(lists_.of(0));
    std::uint32_t* const candidate = reinterpret_cast<std::uint32_t*>(score + pairs_);
    const std::int64_t grain = std::max<std::int64_t>(64, (std::int64_t{1} << 15) / y.cols / 4 * 4);
    const Workspace scratch(worker_count(block_count(y.rows, grain)),
                            kernel.scan_scratch(x.rows, y.cols) * static_cast<std::int64_t>(sizeof(T)));
    run_pieces(y.rows, grain, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      kernel.scan(problem_, begin, end, static_cast<T*>(scratch.of(worker)), score, square_.data());
    });
    double shortest = 1, longest = 1;  // |y|
    if (!square_.empty()) {
      const auto [low, high] = std::minmax_element(square_.begin(), square_.end());
      if (!(*high < std::numeric_limits<T>::infinity()) || (problem_.metric == Metric::cosine && !(*low > vanishing())))
        return false;
      shortest = std::sqrt(*low), longest = std::sqrt(*high);
    }
    std::vector<std::int64_t> count(size(x.rows));
    run_pieces(x.rows, 1, [&](std::int64_t i, std::int64_t, std::int64_t) {
      const auto [relative, absolute] = margin(x_norm_[size(i)] / problem_.unit, shortest, longest);
      count[size(i)] = kernel.keep(problem_.k, relative, absolute, score + i * y.rows, candidate + i * y.rows, y.rows);
    });
    if (std::find(count.begin(), count.end(), -1) != count.end()) return false;
    if (problem_.metric == Metric::cosine) {
      for (std::int64_t i = 0; i < x.rows; ++i)
        for (std::int64_t c = i * y.rows; c < i * y.rows + count[size(i)]; ++c)
          if (const std::int64_t j = candidate[c]; y_size_[size(j)] == 0)
            y_size_[size(j)] = problem_.unit / norms(y, j, j + 1, problem_.unit)[0];
    }
    run_pieces(x.rows, 1, [&](std::int64_t i, std::int64_t, std::int64_t) {
      if (!kernel.decide(problem_, i, score + i * y.rows, candidate + i * y.rows, count[size(i)],
                         distances + i * problem_.k, indices + i * problem_.k))
        count[size(i)] = -1;
    });
    return std::find(count.begin(), count.end(), -1) == count.end();
  }

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

  static std::vector<double> norms(Rows rows, std::int64_t begin, std::int64_t end, double unit) {
    std::vector<double> norm(size(end - begin));
    GRAMIAN_KERNELS(moments).squared_norms(rows, begin, end, nullptr, unit, norm.data() - begin);
    for (double& value : norm) value = std::sqrt(value);
    return norm;
  }

  // Sums of squares below this may have lost terms.
  double vanishing() const {
    return static_cast<double>(problem_.y.rows.cols) * std::numeric_limits<T>::min() /
           std::numeric_limits<T>::epsilon();
  }

  // By how much a score may lie below the k-th highest and still be among the k nearest: relative to it, and absolute. d / 4
  // roundings at most in a lane, a few of squares and lanes; twice, as both scores are rounded, and as much again for the
  // rounding of exact distances, to their type and (float64) on their way. What underflows comes on top.
  std::pair<double, double> margin(double x_norm, double shortest, double longest) const {
    const double d = static_cast<double>(problem_.y.rows.cols);
    const double rounding = (0.3 * d + 8) * std::numeric_limits<T>::epsilon();
    const double lost = 4 * d * std::numeric_limits<T>::min();
    switch (problem_.metric) {
      case Metric::ip: return {0, 2 * rounding * x_norm * longest + lost};
      case Metric::cosine: return {0, 4 * rounding * x_norm + lost / shortest};
      default: return {3 * rounding, lost};
    }
  }

  std::int64_t pairs_;
  Workspace lists_;
  std::vector<T> square_;
  std::vector<double> x_norm_, x_size_, y_size_;
  KnnProblem<T> problem_;
};

// Lists beside those of the nearest rows of y.
struct Lists {
  bool past = false;            // in a symmetric sweep: those before a row by themselves
  const bool* train = nullptr;  // [n] with `past`: for other rows, those among these
  bool both_sides = false;      // in a full sweep: of the rows of y, those of x
};

// With Lists::both_sides, how far neighbours may lie: of each row of x, of each row of y. Null: anywhere.
template <class T>
struct Reach {
  const T *of_x = nullptr, *of_y = nullptr;
};

// The candidates of the rows of one side, in one set or several.
template <class T>
struct ListSets {
  std::int64_t rows = 0, capacity = 0;
  std::vector<T> score, threshold;
  std::vector<std::uint32_t> index;
  std::vector<std::int32_t> count;

  void allot(std::int64_t sets, std::int64_t rows_given, std::int64_t capacity_given) {
    rows = rows_given, capacity = capacity_given;
    const auto lists = static_cast<std::size_t>(sets * stride());
    score.resize(lists * static_cast<std::size_t>(capacity));
    index.resize(score.size());
    count.assign(lists, 0);
    threshold.assign(lists, -std::numeric_limits<T>::infinity());
    for (std::int64_t set = 0; set < sets; ++set)
      std::fill_n(threshold.begin() + set * stride() + rows, kPadding, std::numeric_limits<T>::infinity());
  }

  std::int64_t stride() const { return rows + kPadding; }  // lists from one set to the next

  KnnLists<T> of(std::int64_t set) {
    const std::int64_t first = set * stride();
    return {score.data() + first * capacity, index.data() + first * capacity, count.data() + first,
            threshold.data() + first};
  }
};

template <class T>
class Search {
 public:
  Search(const Rows& x, const std::optional<Rows>& y, Metric metric, Sweep sweep, bool exclude_self, std::int64_t k,
         bool allow_bf16 = true, const Lists& keep = {}, const Reach<T>& reach = {})
      : keep_(keep),
        reach_(reach),
        set_(kKnn, x, y, metric, sweep),
        x_rows_(x.rows),
        y_rows_(set_.pairs().y.rows.rows) {
    problem_ = {set_.pairs(), k, (k + std::max<std::int64_t>(k, 16) + 15) / 16 * 16, keep.train, nullptr};
    if (sweep == Sweep::symmetric) problem_.turned = &problem_;
    if (keep.both_sides) {
      turned_slack_ = set_.slack_of(set_.y_data(), set_.x_data());
      turned_ = {set_.turned(), k, problem_.capacity, nullptr, nullptr};
      turned_.slack = turned_slack_.data();
      problem_.turned = &turned_;
    }
    if constexpr (sizeof(T) == 4) {
      if (allow_bf16 && has_bf16_dot() && metric != Metric::chebyshev) consider_bf16(exclude_self);
    }
    plan();
    if (set_.self() && !exclude_self && sweep == Sweep::symmetric)
      for (std::int64_t i = 0; i < x.rows; ++i) seed_with_itself(static_cast<std::size_t>(i));
  }

  bool bf16() const { return bf16_; }

  void run(T* distances, std::int64_t* indices) {
    sweep();
    finish(problem_, lists_, 0, parts_, distances, indices);
  }

  // With Lists::past: the neighbours among all other rows, among those before, and with `train` of held-out rows among those.
  // With Lists::both_sides: those of x in y, and those of y in x.
  void run(T* const* distances, std::int64_t* const* indices) {
    sweep();
    if (keep_.both_sides) {
      finish(problem_, lists_, 0, 1, distances[0], indices[0]);
      finish(turned_, turned_lists_, 0, 1, distances[1], indices[1]);
      if (reach_.of_x != nullptr) drop_beyond(problem_, reach_.of_x, distances[0], indices[0]);
      if (reach_.of_y != nullptr) drop_beyond(turned_, reach_.of_y, distances[1], indices[1]);
      return;
    }
    finish(problem_, lists_, kAfter, 2, distances[0], indices[0]);
    finish(problem_, lists_, kBefore, 1, distances[1], indices[1]);
    if (keep_.train != nullptr) finish(problem_, lists_, kHeldOut, 1, distances[2], indices[2]);
  }

 private:
  static constexpr std::int64_t kFinishRows = 64;
  static constexpr std::int64_t kFewestTasks = 16;
  enum : std::int64_t { kAfter, kBefore, kHeldOut };  // sets of lists, with Lists::past

  void sweep() {
    const auto& kernel = knn_kernels<T>();
    const std::int64_t y_per_part = block_count(block_count(y_rows_, y_block_), parts_);
    Schedule schedule(problem_.sweep, x_blocks_ * parts_, problem_.sweep == Sweep::full ? y_per_part : x_blocks_,
                      keep_.both_sides);
    const std::int64_t workers = worker_count(schedule.size());
    const Workspace scratch(workers, kernel.scratch(x_block_, y_block_, problem_.x.rows.cols));
    run_sweep(schedule, workers, [&](const BlockPair& b, std::int64_t worker) {
      const std::int64_t part = b.i / x_blocks_;
      const std::int64_t i = b.i % x_blocks_ * x_block_, j = (part * y_per_part + b.j) * y_block_;
      if (j >= y_rows_) return;
      KnnTargets<T> targets{lists_.of(part), lists_.of(part), {}};
      if (keep_.past) targets = {lists_.of(kAfter), lists_.of(kBefore), lists_.of(kHeldOut)};
      if (keep_.both_sides) targets.cols = turned_lists_.of(0);
      const auto block = bf16_ ? kernel.block_bf16 : kernel.block;
      block(problem_, targets, i, std::min(x_block_, x_rows_ - i), j, std::min(y_block_, y_rows_ - j),
            scratch.of(worker));
    });
  }

  static void finish(const KnnProblem<T>& problem, ListSets<T>& lists, std::int64_t first, std::int64_t sets,
                     T* distances, std::int64_t* indices) {
    const auto& kernel = knn_kernels<T>();
    const std::int64_t workers = worker_count(block_count(lists.rows, kFinishRows));
    const Workspace scratch(workers, kernel.finish_scratch(sets, problem.capacity));
    run_pieces(lists.rows, kFinishRows, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      for (std::int64_t i = begin; i < end; ++i)
        kernel.finish(problem, lists.of(first), i, sets, lists.stride(), scratch.of(worker), distances + i * problem.k,
                      indices + i * problem.k);
    });
  }

  // Where scores begin that may be of pairs within reach.
  void start_within(const KnnProblem<T>& problem, const SideData<T>& side, const T* reach, ListSets<T>& lists) const {
    for (std::size_t i = 0; i < static_cast<std::size_t>(lists.rows); ++i) {
      const auto [score, rounding] = set_.score_at(side, i, reach[i]);
      const double least = score - rounding - static_cast<double>(problem.slack[i]);
      if (std::isfinite(least)) lists.threshold[i] = static_cast<T>(least);
    }
  }

  static void drop_beyond(const KnnProblem<T>& problem, const T* reach, T* distances, std::int64_t* indices) {
    const bool product = problem.metric == Metric::ip;
    const T nowhere = product ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < problem.x.rows.rows; ++i)
      for (std::int64_t e = i * problem.k; e < (i + 1) * problem.k; ++e) {
        if (product ? distances[e] >= reach[i] : distances[e] <= reach[i]) continue;
        distances[e] = nowhere;
        indices[e] = -1;
      }
  }

  // The bfloat16 product is twice as fast, and its scores err by |x - x'||y| + |x'||y - y'| more (x' the rounded row). It
  // pays if that leaves room for few more candidates: a sample of rows tells how far beyond its k-th neighbour lies
  // its (3 k + 32)-th. Tight clusters far from one another would make nearly every row a candidate.
  void consider_bf16(bool exclude_self) {
    const Side<T>&x = problem_.x, &y = problem_.y;
    constexpr std::int64_t kSample = 96, kFewestRows = 4096, kFewestFeatures = 48;
    const std::int64_t beyond = 3 * problem_.k + 32;
    if (x_rows_ < kFewestRows || beyond >= y_rows_ / 8 || x.rows.cols < kFewestFeatures) return;

    std::vector<double> lost_x(static_cast<std::size_t>(x_rows_)), lost_y;
    rounding_norms(x, lost_x);
    if (!set_.self()) rounding_norms(y, lost_y = std::vector<double>(static_cast<std::size_t>(y_rows_)));
    const std::vector<double>& lost = set_.self() ? lost_x : lost_y;
    const auto widened = [](std::vector<T> slack, const SideData<T>& a, const std::vector<double>& lost_a,
                            const SideData<T>& b, const std::vector<double>& lost_b) {
      const double most_lost = *std::max_element(lost_b.begin(), lost_b.end());
      for (std::size_t i = 0; i < slack.size(); ++i)
        slack[i] += static_cast<T>(1.001 * (lost_a[i] * b.largest_norm + (a.norm[i] + lost_a[i]) * most_lost));
      return slack;
    };
    std::vector<T> slack = widened(set_.slack(), set_.x_data(), lost_x, set_.y_data(), lost);
    const std::int64_t step = x_rows_ / kSample;
    Rows sample = x.rows;
    sample.rows = kSample;
    sample.row_stride *= step;
    Search<T> pilot(sample, y.rows, problem_.metric, Sweep::full, false, beyond, false);
    std::vector<T> distance(static_cast<std::size_t>(kSample * beyond));
    std::vector<std::int64_t> index(distance.size());
    pilot.run(distance.data(), index.data());
    std::int64_t crowded = 0;
    for (std::int64_t s = 0; s < kSample; ++s) {
      const T* of = &distance[static_cast<std::size_t>(s * beyond)];
      const double gap = score_gap(of[problem_.k - (set_.self() && !exclude_self ? 1 : 0)], of[beyond - 1]);
      if (gap < 2 * slack[static_cast<std::size_t>(s * step)]) ++crowded;
    }
    if (crowded > kSample / 8) return;

    bf16_ = true;
    slack_ = std::move(slack);
    problem_.slack = slack_.data();
    problem_.capacity = (2 * problem_.k + 32 + 15) / 16 * 16;
    if (keep_.both_sides) {
      turned_slack_ = widened(std::move(turned_slack_), set_.y_data(), lost, set_.x_data(), lost_x);
      turned_.slack = turned_slack_.data();
      turned_.capacity = problem_.capacity;
    }
  }

  void rounding_norms(const Side<T>& side, std::vector<double>& norm) {
    run_pieces(side.rows.rows, kStatBlock, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      knn_kernels<T>().rounding_norms(side.rows, begin, end, problem_.shift, side.scale, norm.data());
    });
  }

  // How far apart two returned distances are in score.
  double score_gap(double near, double far) const {
    const double unit = problem_.unit * problem_.unit;
    switch (problem_.metric) {
      case Metric::euclidean: return (far * far - near * near) * unit / 2;
      case Metric::sqeuclidean: return (far - near) * unit / 2;
      case Metric::cosine: return far - near;
      default: return (near - far) * unit;
    }
  }

  // Blocks, and the lists. A few queries against many rows would keep few workers busy, as a block owns its rows of x:
  // then the rows of y are dealt out to several sets of lists, joined at the end.
  void plan() {
    y_block_ =
        block_rows(y_rows_, 4 * worker_count(y_rows_));  // where a block owns both its sides, each worker owns two
    x_block_ = set_.self()        ? y_block_
               : keep_.both_sides ? block_rows(x_rows_, 4 * worker_count(x_rows_))
                                  : block_rows(x_rows_, 1);
    x_blocks_ = block_count(x_rows_, x_block_);
    if (!set_.self() && !keep_.both_sides && x_blocks_ > 0)
      parts_ = std::clamp<std::int64_t>(kFewestTasks / x_blocks_, 1,
                                        std::max<std::int64_t>(block_count(y_rows_, y_block_), 1));
    lists_.allot(keep_.past ? kHeldOut + 1 : parts_, x_rows_, problem_.capacity);
    if (keep_.both_sides) turned_lists_.allot(1, y_rows_, turned_.capacity);
    if (reach_.of_x != nullptr) start_within(problem_, set_.x_data(), reach_.of_x, lists_);
    if (reach_.of_y != nullptr) start_within(turned_, set_.y_data(), reach_.of_y, turned_lists_);
    if (keep_.train != nullptr) {
      T* const threshold = lists_.of(kHeldOut).threshold;
      for (std::int64_t i = 0; i < x_rows_; ++i)
        if (keep_.train[i]) threshold[i] = std::numeric_limits<T>::infinity();
    }
  }

  void seed_with_itself(std::size_t i) {
    const auto at = i * static_cast<std::size_t>(problem_.capacity);
    const double norm = set_.x_data().norm[i];
    lists_.score[at] = problem_.metric == Metric::ip       ? static_cast<T>(norm * norm)
                       : problem_.metric == Metric::cosine ? static_cast<T>(set_.x_data().scale[i] > 0 ? 1 : 0)
                                                           : set_.x_data().half_norm[i];
    lists_.index[at] = static_cast<std::uint32_t>(i);
    lists_.count[i] = 1;
  }

  Lists keep_;
  Reach<T> reach_;
  PairSet<T> set_;
  bool bf16_ = false;
  std::int64_t x_rows_, y_rows_, x_block_ = 0, y_block_ = 0, x_blocks_ = 0, parts_ = 1;
  std::vector<T> slack_, turned_slack_;
  ListSets<T> lists_, turned_lists_;  // of x, of y
  KnnProblem<T> problem_, turned_;
};

}  // namespace gramian
