// gramian::ntk_linear_gram: the tangent-kernel Gram of one layer, K[n, c, m, e] = <sum_t g a, sum_s g' a'>.
#include "ntk/layers.h"

namespace gramian {
namespace {

constexpr const char* kOp = "linear_gram";

Tensor ntk_linear_gram_cpu(const Tensor& a1, const Tensor& g1, const std::optional<Tensor>& a2_given,
                           const std::optional<Tensor>& g2_given, bool bias, bool trace, bool materialise) {
  check_layer(kOp, "a1", a1, "g1", g1, true);
  if (a2_given.has_value() != g2_given.has_value())
    refuse(kOp, ": ", a2_given ? "g2" : "a2", " must be given with ", a2_given ? "a2" : "g2", ", got None");
  const Tensor& a2 = a2_given ? *a2_given : a1;
  const Tensor& g2 = g2_given ? *g2_given : g1;
  if (a2_given) {
    check_layer(kOp, "a2", a2, "g2", g2, true);
    check_other_side(kOp, "a2", a2, a1, "g2", g2, g1);
    bool same_batch = a2.dim() == a1.dim();
    for (std::int64_t d = 0; same_batch && d < a1.dim() - 3; ++d) same_batch = a1.size(d) == a2.size(d);
    if (!same_batch) refuse(kOp, ": a2 must have the batch of a1 ", shape_text(a1), ", got shape ", shape_text(a2));
  }
  if (a1.size(a1.dim() - 1) == 0 && !bias)
    refuse(kOp, ": a1 must have features unless bias is set, got shape ", shape_text(a1));

  const std::int64_t axes = a1.dim(), outputs = g1.size(g1.dim() - 3), kept = trace ? 1 : outputs;
  std::vector<std::int64_t> shape;
  std::int64_t batches = 1;
  for (std::int64_t d = 0; d < axes - 3; ++d) {
    shape.push_back(a1.size(d));
    batches *= a1.size(d);
  }
  const std::int64_t n = a1.size(axes - 3), m = a2.size(axes - 3);
  if (trace)
    shape.insert(shape.end(), {n, m});
  else
    shape.insert(shape.end(), {n, outputs, m, outputs});
  const Element element = element_of(kOp, "a1", a1);
  Tensor out = torch::stable::new_empty(a1, shape, compute_dtype(element));
  const std::int64_t rows = n * kept, cols = m * kept, value_bytes = element == Element::f64 ? 8 : 4;
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    void* const to = static_cast<char*>(out.mutable_data_ptr()) + batch * rows * cols * value_bytes;
    add_grams({layer_of(a1, g1, a2, g2, batch, trace, bias, false, materialise ? Route::materialise : Route::hadamard)},
              {rows, cols, kept, cols, !a2_given, false, to, a2_given ? nullptr : to}, out);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "ntk_linear_gram(Tensor a1, Tensor g1, Tensor? a2, Tensor? g2, bool bias, bool trace, bool materialise) -> "
      "Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("ntk_linear_gram", TORCH_BOX(&ntk_linear_gram_cpu)); }

}  // namespace gramian
