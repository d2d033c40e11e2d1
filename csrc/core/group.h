// Sums over the ranks of a process group, by an op that gramian.distributed registers over torch.distributed.
#pragma once
#include <algorithm>
#include <array>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace gramian {

// Why a sum failed is known to gramian.distributed, whose op it is.
struct GroupFailed : std::exception {
  const char* what() const noexcept override { return "kmeans: a sum over the ranks of group failed"; }
};

class Group {
 public:
  // No name: this process alone. New tensors are made like `like`.
  Group(const std::optional<std::string>& name, std::int64_t rank, const Tensor& like)
      : name_(name), rank_(name ? rank : 0), like_(like) {}

  bool alone() const { return !name_.has_value(); }
  std::int64_t rank() const { return rank_; }

  // Sums over the ranks, added in their order: the same bits on every rank. Of a tensor of float64 like `like` a new one, or alone
  // itself; values[0, count) on the host are replaced.
  Tensor sum(const Tensor& values) const {
    return alone() || values.numel() == 0 ? values : call("gramian_distributed::sum", values);
  }
  void sum(double* values, std::int64_t count) const {
    if (alone() || count == 0) return;
    const Tensor total = on_host(sum(on_device(values, count)));
    std::copy_n(static_cast<const double*>(total.const_data_ptr()), count, values);
  }
  double sum(double value) const {
    sum(&value, 1);
    return value;
  }

  // So many are added next: what the others send may arrive from now on.
  void expect(std::int64_t count) const {
    if (alone()) return;
    std::array<StableIValue, 2> stack{torch::stable::detail::from(count), torch::stable::detail::from(*name_)};
    run("gramian_distributed::expect", stack);
  }

  // The values of all ranks, one rank after the other: [ranks, count].
  std::vector<double> gather(const double* values, std::int64_t count) const {
    if (alone()) return {values, values + count};
    const Tensor all = on_host(call("gramian_distributed::gather", on_device(values, count)));
    const auto* data = static_cast<const double*>(all.const_data_ptr());
    return {data, data + all.numel()};
  }

 private:
  // Where the points are, since the group's backend sends from there.
  Tensor on_device(const double* values, std::int64_t count) const {
    Tensor given = torch::stable::new_empty(like_, {count}, ScalarType::Double, std::nullopt, kHost);
    std::copy_n(values, count, static_cast<double*>(given.mutable_data_ptr()));
    return like_.is_cpu() ? given : torch::stable::to(given, std::nullopt, std::nullopt, like_.device());
  }
  static Tensor on_host(const Tensor& t) {
    return t.is_cpu() ? t : torch::stable::to(t, std::nullopt, std::nullopt, kHost);
  }

  Tensor call(const char* op, const Tensor& given) const {
    std::array<StableIValue, 2> stack{torch::stable::detail::from(given), torch::stable::detail::from(*name_)};
    run(op, stack);
    return torch::stable::detail::to<Tensor>(stack[0]);
  }

  static void run(const char* op, std::array<StableIValue, 2>& stack) {
    if (torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION) != 0) throw GroupFailed();
  }

  static constexpr torch::headeronly::DeviceType kHost = torch::headeronly::DeviceType::CPU;

  std::optional<std::string> name_;
  std::int64_t rank_;
  Tensor like_;
};

}  // namespace gramian
