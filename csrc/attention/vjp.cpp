// gramian::attention_vjp: the gradients of attention for a gradient g of its output.
#include <tuple>

#include "attention/attention.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor> attention_vjp_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                                                     const std::optional<Tensor>& mask, bool is_causal,
                                                     std::optional<double> scale, bool l2,
                                                     const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_vjp", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  if (g.dim() != 4 || g.size(0) != q.size(0) || g.size(1) != q.size(1) || g.size(2) != q.size(2) ||
      g.size(3) != v.size(3))
    refuse(options.op, ": g must be [batch, heads, n, dv] = (", q.size(0), ", ", q.size(1), ", ", q.size(2), ", ",
           v.size(3), "), got ", shape_text(g));
  check_same(options.op, "g", g, "q", q);
  Tensor gq = attention_result(q), gk = attention_result(k), gv = attention_result(v);
  run_attention(options, element, {.q = &q, .k = &k, .v = &v, .g = &g, .gq = &gq, .gk = &gk, .gv = &gv}, state);
  return {gq, gk, gv};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "attention_vjp(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? mask=None, bool is_causal=False, "
      "float? scale=None, bool l2=False, Tensor? state=None) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_vjp", GRAMIAN_BOX(&attention_vjp_cpu)); }

}  // namespace gramian
