// gramian::neighbors_kmeans_plus_plus: greedy k-means++, the rows to start K-means from.
#include <optional>

#include "neighbors/kmeans_plus_plus.h"
#include "neighbors/kmeans_plus_plus_kernel.h"

namespace gramian {
namespace {

constexpr const char* kOp = "kmeans_plus_plus";

template <class T>
class Draws {
 public:
  Draws(const Tensor& x, const double* weights)
      : n_(x.size(0)),
        d_(x.size(1)),
        padded_(n_ + kPadding),
        frame_(measure(kOp, "x", rows_of(x, element_of(kOp, "x", x))), 0, d_, n_),
        set_(frame_, static_cast<const T*>(x.const_data_ptr()), n_, x.stride(0)),
        packed_(1, kmeans_kernels<T>().points_size(n_, d_) * static_cast<std::int64_t>(sizeof(T))),
        closest_(static_cast<std::size_t>(padded_)),
        chosen_(static_cast<std::size_t>(n_)) {
    run_pieces(n_, kAssignPoints, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kmeans_kernels<T>().pack_points(set_.points(), nullptr, begin, end, static_cast<T*>(packed_.of(0)));
    });
    if (weights != nullptr) {
      weights_.assign(weights, weights + n_);
      weights_.resize(static_cast<std::size_t>(padded_));
    }
  }

  // `uniforms` [k, trials] in [0, 1).
  void run(const double* uniforms, std::int64_t k, std::int64_t trials, std::int64_t* indices) {
    // At first any point will do, by its weight; no distance bounds the next yet.
    std::fill_n(closest_.begin(), n_, T{1});
    std::vector<double> masses = block_masses();
    indices[0] = choose(masses, uniforms[0]);
    chosen_[static_cast<std::size_t>(indices[0])] = true;
    std::fill_n(closest_.begin(), n_, std::numeric_limits<T>::max());
    masses = try_all({indices[0]}).masses;
    std::vector<std::int64_t> candidates(static_cast<std::size_t>(trials));
    for (std::int64_t j = 1; j < k; ++j) {
      for (std::int64_t t = 0; t < trials; ++t)
        candidates[static_cast<std::size_t>(t)] = choose(masses, uniforms[j * trials + t]);
      Outcome best = try_all(candidates);
      indices[j] = candidates[best.candidate];
      chosen_[static_cast<std::size_t>(indices[j])] = true;
      masses = std::move(best.masses);
    }
  }

 private:
  static constexpr std::int64_t kBlock = kAssignPoints;

  struct Outcome {
    std::size_t candidate;
    std::vector<double> masses;  // of the blocks, with this candidate
  };

  T weight(std::int64_t i) const { return weights_.empty() ? T{1} : weights_[static_cast<std::size_t>(i)]; }
  double mass(std::int64_t i) const {
    return static_cast<double>(weight(i)) * static_cast<double>(closest_[static_cast<std::size_t>(i)]);
  }

  std::vector<double> block_masses() const {
    std::vector<double> masses(static_cast<std::size_t>(block_count(n_, kBlock)));
    for (std::int64_t i = 0; i < n_; ++i) masses[static_cast<std::size_t>(i / kBlock)] += mass(i);
    return masses;
  }

  // The point at which the running sum of masses passes `uniform` of the total.
  std::int64_t choose(const std::vector<double>& masses, double uniform) const {
    double total = 0;
    for (const double m : masses) total += m;
    if (!(total > 0)) {  // every point lies on a centre: take those that are left in their order
      const auto left = std::find(chosen_.begin(), chosen_.end(), false);
      return left == chosen_.end() ? 0 : left - chosen_.begin();
    }
    double wanted = uniform * total;
    std::size_t block = 0;
    for (; block + 1 < masses.size() && wanted >= masses[block]; ++block) wanted -= masses[block];
    // Rounding may carry past the end of the block: then its last point that has any mass.
    std::int64_t found = -1;
    for (;; --block) {
      const std::int64_t begin = static_cast<std::int64_t>(block) * kBlock, end = std::min(n_, begin + kBlock);
      for (std::int64_t i = begin; i < end; ++i) {
        if (mass(i) > 0) found = i;
        wanted -= mass(i);
        if (found == i && wanted < 0) return i;
      }
      if (found >= 0 || block == 0) return std::max<std::int64_t>(found, 0);
    }
  }

  // Measures all points against the candidates and commits the one that leaves the least.
  Outcome try_all(const std::vector<std::int64_t>& candidates) {
    const auto trials = static_cast<std::int64_t>(candidates.size());
    std::vector<T> rows(static_cast<std::size_t>(trials * d_));
    for (std::int64_t t = 0; t < trials; ++t)
      std::copy_n(set_.points().data + candidates[static_cast<std::size_t>(t)] * set_.points().row_stride, d_,
                  rows.begin() + t * d_);
    const CentroidSet<T> set(frame_, rows.data(), trials);
    distances_.resize(static_cast<std::size_t>(trials * padded_));
    const std::int64_t blocks = block_count(n_, kBlock);
    std::vector<double> potentials(static_cast<std::size_t>(blocks * trials));
    const Draw<T> draw{static_cast<const T*>(packed_.of(0)), weights_.empty() ? nullptr : weights_.data(),
                       closest_.data(), padded_};
    run_pieces(n_, kBlock, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
      kernel().try_candidates(set_.points(), draw, set.centroids(), begin, end, distances_.data(),
                              &potentials[static_cast<std::size_t>(begin / kBlock * trials)]);
    });
    Outcome best{0, {}};
    double least = std::numeric_limits<double>::infinity();
    for (std::int64_t t = 0; t < trials; ++t) {
      double total = 0;
      for (std::int64_t b = 0; b < blocks; ++b) total += potentials[static_cast<std::size_t>(b * trials + t)];
      if (total < least) {
        least = total;
        best.candidate = static_cast<std::size_t>(t);
      }
    }
    best.masses.resize(static_cast<std::size_t>(blocks));
    for (std::size_t b = 0; b < best.masses.size(); ++b)
      best.masses[b] = potentials[b * static_cast<std::size_t>(trials) + best.candidate];
    std::copy_n(distances_.begin() + static_cast<std::int64_t>(best.candidate) * padded_, n_, closest_.begin());
    return best;
  }

  static const KmeansPlusPlusKernels<T>& kernel() {
    if constexpr (sizeof(T) == 4)
      return GRAMIAN_KERNELS(kmeans_plus_plus_f32);
    else
      return GRAMIAN_KERNELS(kmeans_plus_plus_f64);
  }

  std::int64_t n_, d_, padded_;
  Frame<T> frame_;
  PointSet<T> set_;
  Workspace packed_;
  std::vector<T> weights_, closest_, distances_;
  std::vector<bool> chosen_;
};

Tensor neighbors_kmeans_plus_plus_cpu(const Tensor& x, const Tensor& uniforms,
                                      const std::optional<Tensor>& weights_given) {
  const KmeansPlusPlusCall call(x, uniforms);
  const Tensor numbers = torch::stable::contiguous(uniforms);
  const auto* number = static_cast<const double*>(numbers.const_data_ptr());
  call.check_numbers(number);
  const PointWeights weights(kOp, x, weights_given);
  Tensor indices = allocate(x, {call.k}, ScalarType::Long);
  const auto run = [&](auto zero) {
    Draws<decltype(zero)>(readable(x, compute_dtype(call.element)), weights.data())
        .run(number, call.k, call.trials, static_cast<std::int64_t*>(indices.mutable_data_ptr()));
  };
  call.element == Element::f64 ? run(0.0) : run(0.0F);
  return indices;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kKmeansPlusPlusSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) {
  m.impl("neighbors_kmeans_plus_plus", GRAMIAN_BOX(&neighbors_kmeans_plus_plus_cpu));
}

}  // namespace gramian
