// What every op does with its tensors before a kernel sees them: the checks that all ops share, and the strided view.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/refuse.h"
#include "core/rows.h"

namespace gramian {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An op as the dispatcher calls it. All that torch can fail at for us is to find memory, and its stable ABI does not say so.
template <void (*op)(StableIValue*, std::uint64_t, std::uint64_t)>
void boxed(StableIValue* stack, std::uint64_t arguments, std::uint64_t results) {
  try {
    op(stack, arguments, results);
  } catch (const std::runtime_error&) {
    throw std::bad_alloc();
  }
}
#define GRAMIAN_BOX(op) ::gramian::boxed<TORCH_BOX(op)>

// What there is no memory for, and how much of it: a MemoryError in Python.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (std::int64_t d = 0; d < t.dim(); ++d)
    text += std::to_string(t.size(d)) + (d + 1 < t.dim() ? ", " : t.dim() == 1 ? "," : "");
  return text + ")";
}

inline std::string dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    case ScalarType::Short: return "int16";
    case ScalarType::Char: return "int8";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return torch::headeronly::toString(dtype);
  }
}

// A tensor of an op's own, on the device of `like`.
inline Tensor allocate(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                       std::optional<ScalarType> dtype = std::nullopt) {
  try {
    return torch::stable::new_empty(like, shape, dtype);
  } catch (const std::runtime_error&) {
    const ScalarType type = dtype.value_or(like.scalar_type());
    double bytes = type == ScalarType::Byte ? 1 : type == ScalarType::Double || type == ScalarType::Long ? 8 : 4;
    for (const std::int64_t size : shape) bytes *= static_cast<double>(size);
    throw OutOfMemory("gramian: no memory for a result of " + std::to_string(std::llround(bytes / (1 << 20))) + " MiB");
  }
}

inline Tensor allocate_zeros(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                             std::optional<ScalarType> dtype = std::nullopt) {
  Tensor zeros = allocate(like, shape, dtype);
  torch::stable::zero_(zeros);
  return zeros;
}

// One number, on the device of `like`. Beyond the range of float32 it is infinite; torch's own full() would refuse it.
inline Tensor number(const Tensor& like, double value, ScalarType dtype) {
  return torch::stable::to(torch::stable::fill_(allocate(like, {}, ScalarType::Double), value), dtype);
}

// The element type of a floating tensor. `halves` says whether bfloat16 and float16 are welcome.
inline Element element_of(const char* op, const char* name, const Tensor& t, bool halves = true) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Element::f32;
    case ScalarType::Double: return Element::f64;
    case ScalarType::BFloat16:
      if (halves) return Element::bf16;
      break;
    case ScalarType::Half:
      if (halves) return Element::f16;
      break;
    default: break;
  }
  refuse(op, ": ", name, " must be ", halves ? "float32, float64, bfloat16 or float16" : "float32 or float64", ", got ",
         dtype_text(t.scalar_type()));
}

// What a kernel computes in and returns: float32 for half inputs, else the input's own type.
inline ScalarType compute_dtype(Element element) {
  return element == Element::f64 ? ScalarType::Double : ScalarType::Float;
}

inline void check_same(const char* op, const char* name, const Tensor& t, const char* as_name, const Tensor& as) {
  if (t.scalar_type() != as.scalar_type())
    refuse(op, ": ", name, " must have the dtype of ", as_name, " (", dtype_text(as.scalar_type()), "), got ",
           dtype_text(t.scalar_type()));
  if (t.device() != as.device()) refuse(op, ": ", name, " must be on the device of ", as_name);
}

// Where `t` begins at index `batch` of its first `axes` axes, flattened.
inline const char* batch_of(const Tensor& t, Element element, std::int64_t axes, std::int64_t batch) {
  const std::int64_t size = element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
  std::int64_t offset = 0;
  for (std::int64_t d = axes - 1; batch > 0 && d >= 0; --d) {
    offset += batch % t.size(d) * t.stride(d);
    batch /= t.size(d);
  }
  return static_cast<const char*>(t.const_data_ptr()) + offset * size;
}

// The last two axes of `t`, at index `batch` of the flattened axes before them.
inline Rows rows_of(const Tensor& t, Element element, std::int64_t batch = 0) {
  const std::int64_t axes = t.dim();
  return {batch_of(t, element, axes - 2, batch),
          t.size(axes - 2),
          t.size(axes - 1),
          t.stride(axes - 2),
          t.stride(axes - 1),
          element};
}

}  // namespace gramian
