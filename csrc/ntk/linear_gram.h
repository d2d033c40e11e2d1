// gramian::ntk_linear_gram, on every device: its schema, what it asks of its arguments, and the layers of a batch.
#pragma once
#include "ntk/layers.h"

namespace gramian {

constexpr const char* kLinearGramSchema =
    "ntk_linear_gram(Tensor a1, Tensor g1, Tensor? a2, Tensor? g2, bool bias, bool trace, bool materialise) -> Tensor";

struct LinearGramCall {
  std::int64_t batches = 1, rows, cols;
  Element element;
  std::vector<std::int64_t> shape;  // of the result

  LinearGramCall(const Tensor& a1, const Tensor& g1, const std::optional<Tensor>& a2_given,
                 const std::optional<Tensor>& g2_given, bool bias, bool trace, bool materialise)
      : a1_(a1),
        g1_(g1),
        a2_(a2_given ? *a2_given : a1),
        g2_(g2_given ? *g2_given : g1),
        symmetric_(!a2_given),
        bias_(bias),
        trace_(trace),
        route_(materialise ? Route::materialise : Route::hadamard) {
    check_layer(kOp, "a1", a1, "g1", g1, true);
    if (a2_given.has_value() != g2_given.has_value())
      refuse(kOp, ": ", a2_given ? "g2" : "a2", " must be given with ", a2_given ? "a2" : "g2", ", got None");
    if (a2_given) {
      check_layer(kOp, "a2", a2_, "g2", g2_, true);
      check_other_side(kOp, "a2", a2_, a1, "g2", g2_, g1, true);
      bool same_batch = a2_.dim() == a1.dim();
      for (std::int64_t d = 0; same_batch && d < a1.dim() - 3; ++d) same_batch = a1.size(d) == a2_.size(d);
      if (!same_batch) refuse(kOp, ": a2 must have the batch of a1 ", shape_text(a1), ", got shape ", shape_text(a2_));
    }
    if (a1.size(a1.dim() - 1) == 0 && !bias)
      refuse(kOp, ": a1 must have features unless bias is set, got shape ", shape_text(a1));

    const std::int64_t axes = a1.dim(), outputs = g1.size(g1.dim() - 3);
    for (std::int64_t d = 0; d < axes - 3; ++d) batches *= shape.emplace_back(a1.size(d));
    const std::int64_t n = a1.size(axes - 3), m = a2_.size(axes - 3);
    if (trace)
      shape.insert(shape.end(), {n, m});
    else
      shape.insert(shape.end(), {n, outputs, m, outputs});
    kept_ = trace ? 1 : outputs;
    rows = n * kept_, cols = m * kept_;
    element = element_of(kOp, "a1", a1);
  }

  Layer layer(std::int64_t batch) const {
    return layer_of(a1_, g1_, a2_, g2_, true, batch, trace_, bias_, false, route_);
  }

  KernelMatrix matrix(const Tensor& out, std::int64_t batch) const {
    void* const to =
        static_cast<char*>(out.mutable_data_ptr()) + batch * rows * cols * (element == Element::f64 ? 8 : 4);
    return {rows, cols, kept_, cols, symmetric_, false, to, symmetric_ ? to : nullptr};
  }

 private:
  static constexpr const char* kOp = "linear_gram";
  const Tensor &a1_, &g1_, &a2_, &g2_;
  bool symmetric_, bias_, trace_;
  Route route_;
  std::int64_t kept_;
};

}  // namespace gramian
