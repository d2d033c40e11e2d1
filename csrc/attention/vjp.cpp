// gramian::attention_vjp: the gradients of attention for a gradient g of its output.
#include <tuple>

#include "attention/attention.h"
#include "attention/schemas.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor> attention_vjp_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& g,
                                                     const std::optional<Tensor>& mask, bool is_causal,
                                                     std::optional<double> scale, bool l2,
                                                     const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_vjp", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_gradient(options.op, g, q, v);
  Tensor gq = attention_result(q), gk = attention_result(k), gv = attention_result(v);
  run_attention(options, element, {.q = &q, .k = &k, .v = &v, .g = &g, .gq = &gq, .gk = &gk, .gv = &gv}, state);
  return {gq, gk, gv};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAttentionVjpSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_vjp", GRAMIAN_BOX(&attention_vjp_cpu)); }

}  // namespace gramian
