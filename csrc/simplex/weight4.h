// What the two ops of the 4-simplex weight check and hand to the kernel.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "simplex/weight4_kernel.h"

namespace gramian {

constexpr const char* kWeight4Schema =
    "simplex_weight4(Tensor lengths, Tensor labels, bool squared=False) -> (Tensor, Tensor)";
constexpr const char* kWeight4BackwardSchema =
    "simplex_weight4_backward(Tensor lengths, Tensor labels, Tensor grad_action, Tensor grad_log_volume, "
    "bool squared=False) -> (Tensor, Tensor)";

constexpr std::int64_t kSimplexGrain = 1024;  // simplices a worker takes at once: 160 KB in and out, about 30 us

inline void check_simplices(const char* op, const char* name, const Tensor& t, const Tensor& lengths) {
  if (t.scalar_type() != ScalarType::Double)
    refuse(op, ": ", name, " must be float64, got ", dtype_text(t.scalar_type()));
  if (t.device() != lengths.device()) refuse(op, ": ", name, " must be on the device of lengths");
}

// Lengths and labels are [..., 10] of the same shape, float64.
inline void check_weight4(const char* op, const Tensor& lengths, const Tensor& labels) {
  check_simplices(op, "lengths", lengths, lengths);
  if (lengths.dim() < 1 || lengths.size(lengths.dim() - 1) != kEdges4)
    refuse(op, ": lengths must be [..., 10], got shape ", shape_text(lengths));
  check_simplices(op, "labels", labels, lengths);
  if (shape_text(labels) != shape_text(lengths))
    refuse(op, ": labels must have the shape of lengths, ", shape_text(lengths), ", got ", shape_text(labels));
}

inline std::vector<std::int64_t> batch_shape(const Tensor& lengths) {
  std::vector<std::int64_t> shape;
  for (std::int64_t d = 0; d + 1 < lengths.dim(); ++d) shape.push_back(lengths.size(d));
  return shape;
}

// One call, on any device: contiguous arguments, results, and what the kernel takes.
struct Weight4Call {
  Tensor x, s, action, log_volume;
  Weight4Problem problem{};
  std::int64_t n;

  Weight4Call(const Tensor& lengths, const Tensor& labels, bool squared) {
    check_weight4("weight4", lengths, labels);
    x = torch::stable::contiguous(lengths), s = torch::stable::contiguous(labels);
    n = x.numel() / kEdges4;
    action = allocate(x, batch_shape(lengths)), log_volume = allocate(x, batch_shape(lengths));
    problem.lengths = static_cast<const double*>(x.const_data_ptr());
    problem.labels = static_cast<const double*>(s.const_data_ptr());
    problem.squared = squared;
    problem.action = static_cast<double*>(action.mutable_data_ptr());
    problem.log_volume = static_cast<double*>(log_volume.mutable_data_ptr());
  }
};

struct Weight4BackwardCall {
  Tensor x, s, by_action, by_log, grad_lengths, grad_labels;
  Weight4Problem problem{};
  std::int64_t n;

  Weight4BackwardCall(const Tensor& lengths, const Tensor& labels, const Tensor& grad_action,
                      const Tensor& grad_log_volume, bool squared) {
    constexpr const char* kOp = "weight4_backward";
    check_weight4(kOp, lengths, labels);
    n = lengths.numel() / kEdges4;
    const auto check = [&](const char* name, const Tensor& grad) {
      check_simplices(kOp, name, grad, lengths);
      if (grad.dim() != lengths.dim() - 1 || grad.numel() != n)
        refuse(kOp, ": ", name, " must be [...] like lengths, ", shape_text(lengths), ", got ", shape_text(grad));
    };
    check("grad_action", grad_action);
    check("grad_log_volume", grad_log_volume);
    x = torch::stable::contiguous(lengths), s = torch::stable::contiguous(labels);
    by_action = torch::stable::contiguous(grad_action), by_log = torch::stable::contiguous(grad_log_volume);
    std::vector<std::int64_t> shape = batch_shape(lengths);
    shape.push_back(kEdges4);
    grad_lengths = allocate(x, shape), grad_labels = allocate(x, shape);
    problem.lengths = static_cast<const double*>(x.const_data_ptr());
    problem.labels = static_cast<const double*>(s.const_data_ptr());
    problem.squared = squared;
    problem.grad_action = static_cast<const double*>(by_action.const_data_ptr());
    problem.grad_log_volume = static_cast<const double*>(by_log.const_data_ptr());
    problem.grad_lengths = static_cast<double*>(grad_lengths.mutable_data_ptr());
    problem.grad_labels = static_cast<double*>(grad_labels.mutable_data_ptr());
  }
};

}  // namespace gramian
