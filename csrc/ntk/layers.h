// What the ops of this family share on every device: layers from tensors, with the checks.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "ntk/linear_gram_kernel.h"

namespace gramian {

// Where a holds patches of images, it may be the images themselves: [n, t_1, t_2, p, d_in / p], positions and features in two axes
// each, whose strides overlap.
inline bool has_patches(const Tensor& a, bool batched) { return !batched && a.dim() == 5; }

inline std::int64_t positions_of(const Tensor& a, bool batched) {
  return has_patches(a, batched) ? a.size(1) * a.size(2) : a.size(a.dim() - 2);
}

inline std::int64_t features_of(const Tensor& a, bool batched) {
  return has_patches(a, batched) ? a.size(3) * a.size(4) : a.size(a.dim() - 1);
}

inline Rows patch_rows(const Tensor& a, Element element) {
  Rows rows{
      a.const_data_ptr(), a.size(0) * a.size(1) * a.size(2), a.size(3) * a.size(4), a.stride(0), a.stride(4), element};
  rows.middle = {a.size(1), a.stride(1)};
  rows.inner = {a.size(2), a.stride(2)};
  rows.part = a.size(4), rows.part_stride = a.stride(3);
  return rows;
}

// a [n, t, d_in], g [n, c, t, d_out], at `batch` of the axes before them. In the trace form outputs are features of g.
inline Rows activation_rows(const Tensor& a, Element element, std::int64_t batch) {
  const std::int64_t axes = a.dim();
  Rows rows = rows_of(a, element);
  rows.data = batch_of(a, element, axes - 3, batch);
  rows.rows = a.size(axes - 3) * a.size(axes - 2);
  rows.row_stride = a.stride(axes - 3);
  rows.inner = {a.size(axes - 2), a.stride(axes - 2)};
  return rows;
}

inline Rows gradient_rows(const Tensor& g, Element element, std::int64_t batch, bool trace) {
  const std::int64_t axes = g.dim(), outputs = g.size(axes - 3), output_stride = g.stride(axes - 3);
  const std::int64_t positions = g.size(axes - 2), width = g.size(axes - 1);
  Rows rows{batch_of(g, element, axes - 4, batch),
            g.size(axes - 4) * positions,
            width,
            g.stride(axes - 4),
            g.stride(axes - 1),
            element};
  rows.inner = {positions, g.stride(axes - 2)};
  if (trace) {
    rows.cols = outputs * width;
    if (output_stride != width * rows.col_stride && width > 0) rows.part = width, rows.part_stride = output_stride;
  } else {
    rows.rows *= outputs;
    rows.middle = {outputs, output_stride};
  }
  return rows;
}

inline void check_layer(const char* op, const std::string& a_name, const Tensor& a, const std::string& g_name,
                        const Tensor& g, bool batched) {
  if (a.dim() != 3 && (batched ? a.dim() < 3 : a.dim() != 5))
    refuse(op, ": ", a_name, " must be [n, t, d_in], got shape ", shape_text(a));
  if (batched ? g.dim() < 4 : g.dim() != 4)
    refuse(op, ": ", g_name, " must be [n, c, t, d_out], got shape ", shape_text(g));
  element_of(op, a_name.c_str(), a);
  check_same(op, g_name.c_str(), g, a_name.c_str(), a);
  const std::int64_t dg = g.dim(), batch_axes = batched ? a.dim() - 3 : 0;
  bool same_batch = batch_axes == dg - 4;
  for (std::int64_t d = 0; same_batch && d < batch_axes; ++d) same_batch = a.size(d) == g.size(d);
  if (!same_batch || a.size(batch_axes) != g.size(dg - 4) || positions_of(a, batched) != g.size(dg - 2))
    refuse(op, ": ", g_name, " must have the samples and positions of ", a_name, " ", shape_text(a), ", got shape ",
           shape_text(g));
  if (positions_of(a, batched) == 0)
    refuse(op, ": ", a_name, " must have at least one position, got shape ", shape_text(a));
}

inline void check_other_side(const char* op, const std::string& a_name, const Tensor& a2, const Tensor& a1,
                             const std::string& g_name, const Tensor& g2, const Tensor& g1, bool batched) {
  check_same(op, a_name.c_str(), a2, "a1", a1);
  if (features_of(a2, batched) != features_of(a1, batched) || positions_of(a2, batched) != positions_of(a1, batched))
    refuse(op, ": ", a_name, " must have the positions and features of a1 ", shape_text(a1), ", got shape ",
           shape_text(a2));
  if (g2.size(g2.dim() - 1) != g1.size(g1.dim() - 1) || g2.size(g2.dim() - 3) != g1.size(g1.dim() - 3))
    refuse(op, ": ", g_name, " must have the outputs and features of g1 ", shape_text(g1), ", got shape ",
           shape_text(g2));
}

inline Layer layer_of(const Tensor& a1, const Tensor& g1, const Tensor& a2, const Tensor& g2, bool batched,
                      std::int64_t batch, bool trace, bool ones, bool equal, Route route) {
  const Element element = element_of("linear_gram", "a1", a1);
  const auto rows = [&](const Tensor& a) {
    return has_patches(a, batched) ? patch_rows(a, element) : activation_rows(a, element, batch);
  };
  return {{rows(a1), gradient_rows(g1, element, batch, trace), rows(a2), gradient_rows(g2, element, batch, trace),
           positions_of(a1, batched), ones, equal},
          route};
}

}  // namespace gramian
