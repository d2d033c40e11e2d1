// gramian::neighbors_kmeans on CUDA: Lloyd's algorithm. A round is a search for the nearest centres, a sort of the labels, and the
// sums of clusters, over all ranks where points are spread over some; the host learns of each round whether to go on.
#include "neighbors/kmeans_cuda.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

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
              const Group& group, cuda::Stream stream)
      : stream_(stream),
        options_(options),
        group_(group),
        weights_(weights),
        element_(call.dtype == ScalarType::Double ? Element::f64 : Element::f32),
        problem_{rows_of(points, element_), weights.data(), call.k},
        centers_(call.centers),
        labels_(call.labels),
        before_(allocate(labels_, {call.n})),
        nearest_(allocate(points, {call.n})),
        own_(allocate(points, {cuda::totals_size(problem_)}, ScalarType::Double)),
        all_(own_),
        search_memory_(cuda::device_memory(kOp, points, cuda::knn(search("init"), nullptr, nullptr, nullptr, nullptr))),
        cluster_memory_(cuda::device_memory(kOp, points, cuda::ClusterMemory(problem_, nullptr).bytes)),
        memory_(problem_, cluster_memory_.mutable_data_ptr()) {
    torch::stable::fill_(before_, -1);
  }

  std::int64_t run() {
    assign("init");  // refuses points that are not finite
    const double enough = options_.tol > 0 ? options_.tol * variance() : 0;
    for (std::int64_t round = 1; round <= options_.max_iter; ++round) {
      const Tensor order = sorted_places(labels_);
      cuda::sum_clusters(problem_, memory_, at(labels_), at(before_), at(order), values(own_), stream_);
      all_ = group_.sum(own_);
      const cuda::Changes changes = cuda::look_at(problem_, memory_, values(all_), stream_);
      const bool were_stale = stale_;
      if (changes.moved == 0 && !were_stale) return round;
      stale_ = options_.relocate && changes.empty > 0 && relocate();
      // As on the CPU: a point that an empty cluster took may fall back from it for ever.
      const bool taken_again = were_stale && stale_;
      const double moved = cuda::move_centers(problem_, memory_, values(all_), options_.spherical,
                                              enough > 0 || taken_again, centers_.mutable_data_ptr(), stream_);
      torch::stable::copy_(before_, labels_);
      assign("centers");
      if (moved <= enough && (enough > 0 || taken_again)) return round;
    }
    return options_.max_iter;
  }

  double inertia() const {
    return group_.sum(cuda::inertia(problem_, memory_, at(labels_), centers_.const_data_ptr(), stream_));
  }

 private:
  static const std::int64_t* at(const Tensor& t) { return static_cast<const std::int64_t*>(t.const_data_ptr()); }
  static double* values(const Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); }

  // The mean over features of the variance.
  double variance() const {
    const auto n = static_cast<double>(problem_.x.rows), n_all = group_.sum(n);
    cuda::find_mean(problem_, memory_, stream_);
    if (!group_.alone()) {
      std::vector<double> mean(static_cast<std::size_t>(problem_.x.cols));
      cuda::read_back(mean.data(), memory_.mean, mean.size() * sizeof(double), stream_);
      for (double& value : mean) value *= n / std::max(n_all, 1.0);
      group_.sum(mean.data(), problem_.x.cols);
      cuda::write_over(memory_.mean, mean.data(), mean.size() * sizeof(double), stream_);
    }
    return group_.sum(cuda::spread(problem_, memory_, stream_)) /
           std::max(n_all * static_cast<double>(problem_.x.cols), 1.0);
  }

  cuda::KnnArguments search(const char* name) const {
    cuda::KnnArguments search{kOp,   "x",   name,  problem_.x, rows_of(centers_, element_), Metric::sqeuclidean,
                              false, false, false, 1};
    // Not after the first, whose centres may lie far from the points, nor where they are means of other ranks' points too.
    search.same_x = searches_ > 1 && group_.alone();
    return search;
  }

  void assign(const char* name) {
    cuda::knn(search(name), search_memory_.mutable_data_ptr(), nearest_.mutable_data_ptr(),
              static_cast<std::int64_t*>(labels_.mutable_data_ptr()), stream_);
    ++searches_;
  }

  // Rare, and so the host chooses. True if any cluster took a point.
  bool relocate() {
    cuda::inertia(problem_, memory_, at(labels_), centers_.const_data_ptr(), stream_);
    const std::int64_t d = problem_.x.cols, width = d + 2;
    std::vector<double> squared(static_cast<std::size_t>(problem_.x.rows)), count, rounding;
    if (!squared.empty()) cuda::read_back(squared.data(), memory_.squared, squared.size() * sizeof(double), stream_);
    const std::vector<double> totals = cuda::host_values<double>(all_, stream_);
    const auto measure = [&](const auto& centers) {
      for (std::int64_t j = 0; j < problem_.k; ++j) {
        count.push_back(totals[static_cast<std::size_t>(j * width + d + 1)]);
        rounding.push_back(rounding_of_mean(centers.data() + j * d, d, count.back()));
      }
    };
    if (element_ == Element::f64)
      measure(cuda::host_values<double>(centers_, stream_));
    else
      measure(cuda::host_values<float>(centers_, stream_));
    const Tensor row = allocate(own_, {d});
    const auto take = [&](std::int32_t point, double weight, std::int64_t from, std::int64_t to) {
      cuda::copy_row(problem_, point, values(row), stream_);
      cuda::relocate(problem_, values(group_.sum(row)), weight, from, to, values(all_), stream_);
    };
    return relocate_points(group_, squared, cuda::host_values<std::int64_t>(labels_, stream_), weights_.on_host(),
                           rounding, count.data(), take);
  }

  cuda::Stream stream_;
  KmeansOptions options_;
  const Group& group_;
  const cuda::DeviceWeights& weights_;
  Element element_;
  cuda::ClusterProblem problem_;
  std::int64_t searches_ = 0;
  Tensor centers_, labels_, before_, nearest_;
  Tensor own_, all_;  // totals of this process, and of all ranks
  Tensor search_memory_, cluster_memory_;
  cuda::ClusterMemory memory_;
  bool stale_ = true;  // the centres are not the means of the points whose labels are `before_`
};

std::tuple<Tensor, Tensor, Tensor, Tensor> neighbors_kmeans_cuda(
    const Tensor& x, const Tensor& init, const std::optional<Tensor>& weights_given, std::int64_t max_iter, double tol,
    bool spherical, bool relocate, const std::optional<std::string>& group_name, std::int64_t rank) {
  const KmeansOptions options{max_iter, tol, spherical, relocate};
  KmeansCall call(x, init, options, !group_name.has_value());
  const cuda::OnDevice device(x);
  const Group group(group_name, rank, x);
  const cuda::DeviceWeights weights(kOp, x, weights_given, device.stream, &group);
  const Tensor points = x.scalar_type() == call.dtype ? x : torch::stable::to(x, call.dtype);
  torch::stable::copy_(call.centers, init);
  DeviceLloyd lloyd(points, weights, call, options, group, device.stream);
  torch::stable::fill_(call.n_iter, static_cast<double>(lloyd.run()));
  torch::stable::fill_(call.inertia, lloyd.inertia());
  return {call.centers, call.labels, call.inertia, call.n_iter};
}

}  // namespace

GRAMIAN_CUDA_OP(kKmeansSchema, "neighbors_kmeans", &neighbors_kmeans_cuda)

}  // namespace gramian
