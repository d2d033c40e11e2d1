// gramian::neighbors_kmeans on CUDA: Lloyd's algorithm. A round is a search for the nearest centres, a sort of the labels, and the
// sums of clusters; the host learns of each round whether to go on.
#include "neighbors/kmeans_cuda.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "neighbors/clusters_cuda.h"
#include "neighbors/kmeans.h"
#include "neighbors/knn_cuda.h"

namespace gramian {
namespace {

constexpr const char* kOp = "kmeans";

// The places of `labels` by rising label, equal ones by rising place.
Tensor sorted_places(const Tensor& labels) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(labels), from(true), from(std::int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::argsort", "stable", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

class DeviceLloyd {
 public:
  DeviceLloyd(const Tensor& points, const cuda::DeviceWeights& weights, KmeansCall& call, const KmeansOptions& options,
              cuda::Stream stream)
      : stream_(stream),
        options_(options),
        weights_(weights),
        element_(call.dtype == ScalarType::Double ? Element::f64 : Element::f32),
        problem_{rows_of(points, element_), weights.data(), call.k},
        centers_(call.centers),
        labels_(call.labels),
        before_(torch::stable::new_empty(labels_, {call.n})),
        nearest_(torch::stable::new_empty(points, {call.n})),
        search_memory_(cuda::device_memory(kOp, points, cuda::knn(search("init"), nullptr, nullptr, nullptr, nullptr))),
        cluster_memory_(cuda::device_memory(kOp, points, cuda::ClusterMemory(problem_, nullptr).bytes)),
        memory_(problem_, cluster_memory_.mutable_data_ptr()) {
    torch::stable::fill_(before_, -1);
  }

  std::int64_t run() {
    assign("init");  // refuses points that are not finite
    const double enough = options_.tol > 0 ? options_.tol * cuda::variance(problem_, memory_, stream_) : 0;
    for (std::int64_t round = 1; round <= options_.max_iter; ++round) {
      const Tensor order = sorted_places(labels_);
      const cuda::Changes changes = cuda::sum_clusters(problem_, memory_, at(labels_), at(before_), at(order), stream_);
      if (changes.moved == 0 && !stale_) return round;
      stale_ = options_.relocate && changes.empty > 0 && relocate();
      const double moved =
          cuda::move_centers(problem_, memory_, options_.spherical, enough > 0, centers_.mutable_data_ptr(), stream_);
      torch::stable::copy_(before_, labels_);
      assign("centers");
      if (enough > 0 && moved <= enough) return round;
    }
    return options_.max_iter;
  }

  double inertia() const { return cuda::inertia(problem_, memory_, at(labels_), centers_.const_data_ptr(), stream_); }

 private:
  static const std::int64_t* at(const Tensor& t) { return static_cast<const std::int64_t*>(t.const_data_ptr()); }

  cuda::KnnArguments search(const char* name) const {
    cuda::KnnArguments search{kOp,   "x",   name,  problem_.x, rows_of(centers_, element_), Metric::sqeuclidean,
                              false, false, false, 1};
    search.same_x = searches_ > 1;  // not after the first, whose centres may lie far from the points
    return search;
  }

  void assign(const char* name) {
    cuda::knn(search(name), search_memory_.mutable_data_ptr(), nearest_.mutable_data_ptr(),
              static_cast<std::int64_t*>(labels_.mutable_data_ptr()), stream_);
    ++searches_;
  }

  // Each empty cluster takes the point that is farthest from its own centre, unless that is the last of its cluster. Rare, and so
  // the host chooses. True if any did.
  bool relocate() {
    cuda::inertia(problem_, memory_, at(labels_), centers_.const_data_ptr(), stream_);
    const std::int64_t n = problem_.x.rows, d = problem_.x.cols, width = d + 2;
    std::vector<double> squared(static_cast<std::size_t>(n)), totals(static_cast<std::size_t>(problem_.k * width));
    cuda::read_back(squared.data(), memory_.squared, squared.size() * sizeof(double), stream_);
    cuda::read_back(totals.data(), memory_.totals, totals.size() * sizeof(double), stream_);
    const std::vector<std::int64_t> labels = cuda::host_values<std::int64_t>(labels_, stream_);
    const auto count = [&](std::int64_t j) -> double& { return totals[static_cast<std::size_t>(j * width + d + 1)]; };
    std::vector<double> rounding;
    const auto measure = [&](const auto& centers) {
      for (std::int64_t j = 0; j < problem_.k; ++j)
        rounding.push_back(rounding_of_mean(centers.data() + j * d, d, count(j)));
    };
    if (element_ == Element::f64)
      measure(cuda::host_values<double>(centers_, stream_));
    else
      measure(cuda::host_values<float>(centers_, stream_));
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < n; ++i)
      if (squared[static_cast<std::size_t>(i)] >
              rounding[static_cast<std::size_t>(labels[static_cast<std::size_t>(i)])] &&
          weights_.of(i) > 0)
        order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return squared[static_cast<std::size_t>(a)] > squared[static_cast<std::size_t>(b)];
    });
    bool any = false;
    auto point = order.begin();
    for (std::int64_t j = 0; j < problem_.k; ++j) {
      if (count(j) != 0) continue;
      const auto own = [&](std::int64_t i) { return labels[static_cast<std::size_t>(i)]; };
      while (point != order.end() && count(own(*point)) <= 1) ++point;
      if (point == order.end()) break;
      cuda::relocate(problem_, memory_, *point, weights_.of(*point), own(*point), j, stream_);
      --count(own(*point));
      count(j) = 1;
      ++point;
      any = true;
    }
    return any;
  }

  cuda::Stream stream_;
  KmeansOptions options_;
  const cuda::DeviceWeights& weights_;
  Element element_;
  cuda::ClusterProblem problem_;
  std::int64_t searches_ = 0;
  Tensor centers_, labels_, before_, nearest_, search_memory_, cluster_memory_;
  cuda::ClusterMemory memory_;
  bool stale_ = true;  // the centres are not the means of the points whose labels are `before_`
};

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_kmeans_cuda(const Tensor& x, const Tensor& init,
                                                                 const std::optional<Tensor>& weights_given,
                                                                 std::int64_t max_iter, double tol, bool spherical,
                                                                 bool relocate, const std::optional<std::string>& group,
                                                                 std::int64_t) {
  const KmeansOptions options{max_iter, tol, spherical, relocate};
  KmeansCall call(x, init, options, !group.has_value());
  if (group.has_value()) refuse(kOp, ": group must be None for CUDA tensors, got ", *group);
  const cuda::OnDevice device(x);
  const cuda::DeviceWeights weights(kOp, x, weights_given, device.stream);
  const Tensor points = x.scalar_type() == call.dtype ? x : torch::stable::to(x, call.dtype);
  torch::stable::copy_(call.centers, init);
  DeviceLloyd lloyd(points, weights, call, options, device.stream);
  torch::stable::fill_(call.n_iter, static_cast<double>(lloyd.run()));
  torch::stable::fill_(call.inertia, lloyd.inertia());
  return {call.centers, call.labels, call.inertia, call.n_iter};
}

}  // namespace

GRAMIAN_CUDA_OP(kKmeansSchema, "neighbors_kmeans", &neighbors_kmeans_cuda)

}  // namespace gramian
