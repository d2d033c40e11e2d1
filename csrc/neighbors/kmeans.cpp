// gramian::neighbors_kmeans: Lloyd's algorithm from given centres, also for points that are spread over ranks: then all that
// centres follow from is summed over them, and the rest is each rank's own.
#include <numeric>
#include <optional>
#include <tuple>

#include "neighbors/kmeans.h"

namespace gramian {
namespace {

constexpr const char* kOp = "kmeans";

// What centres are made of: of each cluster the sum of its points [d] and of their weights, and how many have weight. Beside
// them, so that ranks talk once a round, how many points moved, and whether sums are made of differences.
struct Totals {
  std::int64_t k, d;
  Tensor tensor;
  double* values = static_cast<double*>(tensor.mutable_data_ptr());

  static std::int64_t size(std::int64_t k, std::int64_t d) { return k * (d + 2) + 2; }
  double* sum(std::int64_t j) { return values + j * d; }
  double& weight(std::int64_t j) { return values[k * d + j]; }
  double& count(std::int64_t j) { return values[k * (d + 1) + j]; }
  double& moved() { return values[size(k, d) - 2]; }
  double& differences() { return values[size(k, d) - 1]; }
};

template <class T>
class Lloyd {
 public:
  // `centers` [k, d] is updated in place.
  Lloyd(const Tensor& x, const double* weights, T* centers, std::int64_t k, const Means& means, double largest,
        const KmeansOptions& options, const Group& group, double n_all)
      : group_(group),
        n_(x.size(0)),
        d_(x.size(1)),
        k_(k),
        options_(options),
        weights_(weights),
        centers_(centers),
        frame_(means, largest, d_, std::max(n_, k)),
        set_(frame_, static_cast<const T*>(x.const_data_ptr()), n_, x.stride(0)),
        centroids_(frame_, centers, k),
        packed_(1, kernel().points_size(n_, d_) * static_cast<std::int64_t>(sizeof(T))),
        labels_(size(n_), -1),
        next_(size(n_)),
        n_all_(n_all),
        own_{k, d_, allocate_zeros(x, {Totals::size(k, d_)}, ScalarType::Double)},
        all_(own_) {
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().pack_points(set_.points(), nullptr, begin, end, static_cast<T*>(packed_.of(0)));
    });
  }

  std::int64_t run() {
    const double enough = options_.tol > 0 ? options_.tol * variance() : 0;
    for (std::int64_t round = 1; round <= options_.max_iter; ++round) {
      group_.expect(Totals::size(k_, d_));
      assign();
      const bool were_stale = stale_;
      add_moves();
      if (all_.moved() == 0 && !were_stale) {
        if (all_.differences() == 0 || !renew_centers()) return round;
        --round;
        continue;
      }
      if (options_.relocate) relocate();
      // A point that an empty cluster took may fall back from it, round after round: where no centre moves, it always will.
      const bool taken_again = were_stale && stale_;
      if (move_centers() <= enough && (enough > 0 || taken_again)) {
        assign();
        return round;
      }
    }
    assign();
    return options_.max_iter;
  }

  void copy_labels(std::int64_t* labels) const { std::copy(next_.begin(), next_.end(), labels); }

  double inertia() {
    const std::vector<double> squared = distances();
    double total = 0;
    for (std::size_t i = 0; i < squared.size(); ++i) total += (weights_ == nullptr ? 1 : weights_[i]) * squared[i];
    return group_.sum(total);
  }

 private:
  static constexpr std::int64_t kCenters = 96;     // that a worker moves at a time; a multiple of kPack
  static constexpr std::int64_t kSumRounds = 16;   // sums are renewed, lest the rounding of differences grow
  static constexpr std::int64_t kPlainRounds = 2;  // before bounds: while all centres move far, they decide nothing

  static const KmeansKernels<T>& kernel() { return kmeans_kernels<T>(); }
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

  // The mean over features of the variance.
  double variance() const {
    double total = 0;
    for (std::int64_t i = 0; i < n_; ++i) total += static_cast<double>(set_.points().norm[i]);
    return group_.sum(total / (frame_.unit * frame_.unit)) / std::max(n_all_ * static_cast<double>(d_), 1.0);
  }

  // The labels for the centres as they are, into next_.
  void assign() {
    if (!order_.empty()) return assign_bounded();
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().assign(set_.points(), static_cast<const T*>(packed_.of(0)), centroids_.centroids(), begin, end, nullptr,
                      next_.data() + begin);
    });
    if (++plain_rounds_ == kPlainRounds && bounds_pay()) start_bounds();
  }

  std::int64_t groups() const { return block_count(k_, kernel().group); }

  // Bounds take the memory of a few features for each point, and a look at all groups costs as much as a few features.
  bool bounds_pay() const { return groups() >= 3 && groups() <= 2 * d_; }

  // Centres that lie near each other into one group, so that most groups are far from a point as a whole: halves, again and again,
  // along the line between two that lie far apart. [first, last) of centroid_; whole groups, but for the last.
  void group_centers(std::int64_t first, std::int64_t last) {
    const std::int64_t groups = block_count(last - first, kernel().group);
    if (groups <= 1) return;
    const auto center = [&](std::int64_t place) { return centers_ + centroid_[size(place)] * d_; };
    const auto farthest_from = [&](auto&& origin) {
      std::int64_t farthest = first;
      double most = -1;
      for (std::int64_t place = first; place < last; ++place) {
        double apart = 0;
        for (std::int64_t f = 0; f < d_; ++f) {
          const double by = (static_cast<double>(center(place)[f]) - static_cast<double>(origin[f])) * frame_.unit;
          apart += by * by;
        }
        if (apart > most) {
          most = apart;
          farthest = place;
        }
      }
      return center(farthest);
    };
    const T* one_end = farthest_from(frame_.shift);
    const T* other_end = farthest_from(one_end);
    std::vector<std::pair<double, std::int32_t>> along(size(last - first));
    for (std::int64_t place = first; place < last; ++place) {
      double at = 0;
      for (std::int64_t f = 0; f < d_; ++f)
        at += (static_cast<double>(one_end[f]) - static_cast<double>(other_end[f])) * frame_.unit *
              (static_cast<double>(center(place)[f]) - static_cast<double>(other_end[f])) * frame_.unit;
      along[size(place - first)] = {at, centroid_[size(place)]};
    }
    const std::int64_t half = groups / 2 * kernel().group;
    std::nth_element(along.begin(), along.begin() + half, along.end());
    for (std::int64_t place = first; place < last; ++place) centroid_[size(place)] = along[size(place - first)].second;
    group_centers(first, first + half);
    group_centers(first + half, last);
  }

  // Points of a cluster side by side, in the order of next_ and of the centres' places.
  void start_bounds() {
    centroid_.resize(size(k_));
    std::iota(centroid_.begin(), centroid_.end(), 0);
    group_centers(0, k_);
    place_of_.resize(size(k_));
    for (std::int64_t place = 0; place < k_; ++place)
      place_of_[size(centroid_[size(place)])] = static_cast<std::int32_t>(place);
    offsets_.assign(size(k_ + 1), 0);
    for (const std::int32_t label : next_) ++offsets_[size(place_of_[size(label)]) + 1];
    std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
    order_.resize(size(n_));
    label_at_.resize(size(n_));
    for (std::int64_t i = 0; i < n_; ++i) {
      const std::int64_t place = offsets_[size(place_of_[size(next_[size(i)])])]++;
      order_[size(place)] = static_cast<std::int32_t>(i);
      label_at_[size(place)] = next_[size(i)];
    }
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().pack_points(set_.points(), order_.data(), begin, end, static_cast<T*>(packed_.of(0)));
    });
    upper_.assign(size(n_), std::numeric_limits<T>::infinity());
    lower_.assign(size(kernel().bounds_size(n_, k_)), -std::numeric_limits<T>::infinity());
    moved_.assign(size(groups()), 0);
    shift_.assign(size(k_), 0);
  }

  void assign_bounded() {
    std::vector<T> shift(size(k_)), moved(size(groups()));
    constexpr double kUp = 1 + 2 * std::numeric_limits<T>::epsilon();  // rounded to the safe side
    for (std::size_t j = 0; j < shift_.size(); ++j) {
      shift[j] = static_cast<T>(shift_[j] * kUp);
      T& group_moved = moved[size(place_of_[j] / kernel().group)];
      group_moved = std::max(group_moved, shift[j]);
      shift_[j] = 0;
    }
    for (std::size_t g = 0; g < moved.size(); ++g)
      moved[g] = static_cast<T>(moved_[g] += static_cast<double>(moved[g]));
    const Bounds<T> bounds{static_cast<const T*>(packed_.of(0)),
                           order_.data(),
                           upper_.data(),
                           lower_.data(),
                           label_at_.data(),
                           centroid_.data(),
                           place_of_.data(),
                           shift.data(),
                           moved.data()};
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().assign_bounded(set_.points(), bounds, centroids_.centroids(), begin, end);
    });
    for (std::size_t place = 0; place < order_.size(); ++place) next_[size(order_[place])] = label_at_[place];
  }

  std::vector<double> distances() const {
    std::vector<double> squared(size(n_));
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().distances(set_.points(), centroids_.centroids(), next_.data() + begin, begin, end,
                         squared.data() + begin);
    });
    return squared;
  }

  // Sorts what changes the sums by cluster, points rising within each: a point i that came, ~i that left. Where many moved,
  // the sums are made anew, from all points. False if no point moved.
  bool collect_moves() {
    std::int64_t moved = 0;
    for (std::size_t i = 0; i < next_.size(); ++i) moved += next_[i] != labels_[i];
    own_.moved() = static_cast<double>(moved);
    if (moved == 0 && !stale_) return false;
    fresh_ = stale_ || 2 * moved > n_ || ++rounds_since_renewal_ >= kSumRounds;
    own_.differences() = fresh_ ? 0 : 1;
    offsets_.assign(size(k_ + 1), 0);
    const auto each = [&](auto&& visit) {
      for (std::size_t i = 0; i < next_.size(); ++i) {
        const auto point = static_cast<std::int32_t>(i);
        if (fresh_) {
          visit(next_[i], point);
        } else if (next_[i] != labels_[i]) {
          visit(labels_[i], ~point);
          visit(next_[i], point);
        }
      }
    };
    each([&](std::int32_t cluster, std::int32_t) { ++offsets_[size(cluster) + 1]; });
    std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
    members_.resize(size(offsets_.back()));
    std::vector<std::int64_t> at(offsets_.begin(), offsets_.end() - 1);
    each([&](std::int32_t cluster, std::int32_t member) { members_[size(at[size(cluster)]++)] = member; });
    return true;
  }

  // Each worker owns whole sums and adds to them in the order of the points, so no bit depends on the number of workers.
  void add_moves() {
    if (collect_moves()) add_collected();
    if (!group_.alone()) all_ = {k_, d_, group_.sum(own_.tensor)};
    labels_ = next_;
    stale_ = false;
  }

  void add_collected() {
    if (fresh_) {
      std::fill_n(own_.values, k_ * (d_ + 2), 0);
      rounds_since_renewal_ = 0;
    }
    const std::int64_t slices = block_count(d_, kSumFeatures);
    run_pieces(k_ * slices, 8, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t j = task / slices, first = task % slices * kSumFeatures;
        const std::int64_t members = offsets_[size(j) + 1] - offsets_[size(j)];
        if (members > 0)
          kernel().accumulate(set_.points(), weights_, members_.data() + offsets_[size(j)], members, first,
                              std::min(kSumFeatures, d_ - first), own_.sum(j) + first);
      }
    });
    for (std::int64_t j = 0; j < k_; ++j)
      for (std::int64_t m = offsets_[size(j)]; m < offsets_[size(j) + 1]; ++m) {
        const std::int32_t member = members_[size(m)];
        const double weight = weights_ == nullptr ? 1 : weights_[member < 0 ? ~member : member];
        own_.weight(j) += member < 0 ? -weight : weight;
        if (weight > 0) own_.count(j) += member < 0 ? -1 : 1;
      }
  }

  // The means of a result are sums of its points, not of differences. False if that moves no centre.
  bool renew_centers() {
    stale_ = true;
    add_moves();
    return move_centers() > 0;
  }

  // Each empty cluster takes the point that is farthest from its own centre, unless that is the last of its cluster.
  void relocate() {
    double* const count = &all_.count(0);
    if (std::find(count, count + k_, 0.0) == count + k_) return;
    std::vector<double> rounding(size(k_)), row(size(d_));
    for (std::int64_t j = 0; j < k_; ++j) rounding[size(j)] = rounding_of_mean(centers_ + j * d_, d_, count[j]);
    const auto take = [&](std::int32_t point, double weight, std::int64_t from, std::int64_t to) {
      const T* x = set_.points().data + (point < 0 ? 0 : point) * set_.points().row_stride;
      for (std::int64_t f = 0; f < d_; ++f) row[size(f)] = point < 0 ? 0 : static_cast<double>(x[f]);
      group_.sum(row.data(), d_);
      for (std::int64_t f = 0; f < d_; ++f) {
        all_.sum(from)[f] -= weight * row[size(f)];
        all_.sum(to)[f] = row[size(f)];
      }
      all_.weight(from) -= weight;
      all_.weight(to) = 1;
    };
    // The sums no longer are those of the labels.
    if (relocate_points(group_, distances(), labels_, weights_, rounding, count, take)) stale_ = true;
  }

  // Centres from sums; a cluster without points keeps its own. Returns the sum of the squared distances they moved.
  double move_centers() {
    std::vector<double> shifts(size(k_));
    const std::int32_t* order = centroid_.empty() ? nullptr : centroid_.data();
    run_pieces(k_, kCenters, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      for (std::int64_t place = begin; place < end; ++place) {
        const std::int64_t j = order == nullptr ? place : order[place];
        if (all_.count(j) == 0) continue;
        const double* sum = all_.sum(j);
        double divisor = all_.weight(j);
        if (options_.spherical) divisor = std::sqrt(std::inner_product(sum, sum + d_, sum, 0.0));
        if (!(divisor > 0)) continue;
        for (std::int64_t f = 0; f < d_; ++f) {
          const T moved = static_cast<T>(sum[f] / divisor);
          const double by = static_cast<double>(moved) - static_cast<double>(centers_[j * d_ + f]);
          shifts[size(j)] += by * by;
          centers_[j * d_ + f] = moved;
        }
      }
      centroids_.pack(begin, end, order);
    });
    for (std::size_t j = 0; j < shift_.size(); ++j) shift_[j] += std::sqrt(shifts[j]) * frame_.unit;
    return std::accumulate(shifts.begin(), shifts.end(), 0.0);
  }

  const Group& group_;
  std::int64_t n_, d_, k_;
  KmeansOptions options_;
  const double* weights_;
  T* centers_;
  Frame<T> frame_;
  PointSet<T> set_;
  CentroidSet<T> centroids_;
  Workspace packed_;
  std::vector<std::int32_t> labels_, next_, members_;
  double n_all_;      // points of all ranks
  Totals own_, all_;  // sums over this rank's points, and over those of all
  std::vector<std::int64_t> offsets_;
  std::vector<std::int32_t> order_, label_at_;     // with bounds: the points by place, and their labels
  std::vector<std::int32_t> centroid_, place_of_;  // with bounds: the centres by place, and their places
  std::vector<T> upper_, lower_;
  std::vector<double> moved_, shift_;
  std::int64_t rounds_since_renewal_ = 0, plain_rounds_ = 0;
  bool stale_ = true, fresh_ = false;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_kmeans_cpu(
    const Tensor& x, const Tensor& init, const std::optional<Tensor>& weights_given, std::int64_t max_iter, double tol,
    bool spherical, bool relocate, const std::optional<std::string>& group_name, std::int64_t rank) {
  const KmeansOptions options{max_iter, tol, spherical, relocate};
  KmeansCall call(x, init, options, !group_name.has_value());
  const Group group(group_name, rank, x);
  const PointWeights weights(kOp, x, weights_given, &group);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const Tensor rows = readable(x, call.dtype);
    Means means = measure(kOp, "x", rows_of(rows, element_of(kOp, "x", rows)));
    const double n_all = group.sum(static_cast<double>(call.n));
    if (!group.alone()) {
      const double share = static_cast<double>(call.n) / std::max(n_all, 1.0);
      for (double& mean : means.mean) mean *= share;
      group.sum(means.mean.data(), x.size(1));
    }
    const double largest = measure(kOp, "init", rows_of(init, element_of(kOp, "init", init))).largest;
    torch::stable::copy_(call.centers, init);
    Lloyd<T> lloyd(rows, weights.data(), static_cast<T*>(call.centers.mutable_data_ptr()), call.k, means, largest,
                   options, group, n_all);
    *static_cast<std::int64_t*>(call.n_iter.mutable_data_ptr()) = lloyd.run();
    lloyd.copy_labels(static_cast<std::int64_t*>(call.labels.mutable_data_ptr()));
    *static_cast<double*>(call.inertia.mutable_data_ptr()) = lloyd.inertia();
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
  return {call.centers, call.labels, call.inertia, call.n_iter};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKmeansSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("neighbors_kmeans", GRAMIAN_BOX(&neighbors_kmeans_cpu)); }

}  // namespace gramian
