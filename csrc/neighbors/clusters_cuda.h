// What the CUDA ops around K-means share: weights that the host has looked at.
#pragma once
#include <optional>
#include <vector>

#include "core/cuda.h"
#include "neighbors/clusters.h"

namespace gramian::cuda {

// The values of a contiguous tensor, wherever it is.
template <class T>
std::vector<T> host_values(const Tensor& t, Stream stream) {
  std::vector<T> values(static_cast<std::size_t>(t.numel()));
  if (!values.empty()) read_back(values.data(), t.const_data_ptr(), values.size() * sizeof(T), stream);
  return values;
}

// Weights of the points, checked; none means one each.
class DeviceWeights {
 public:
  DeviceWeights(const char* op, const Tensor& x, const std::optional<Tensor>& given, Stream stream,
                const Group* group = nullptr) {
    if (!given.has_value()) return;
    check_weights(op, x, *given);
    kept_ = torch::stable::contiguous(*given);
    host_ = host_values<double>(*kept_, stream);
    check_weight_values(op, host_.data(), x.size(0), group);
  }

  const double* data() const { return kept_ ? static_cast<const double*>(kept_->const_data_ptr()) : nullptr; }
  const double* on_host() const { return kept_ ? host_.data() : nullptr; }

 private:
  std::optional<Tensor> kept_;
  std::vector<double> host_;
};

}  // namespace gramian::cuda
