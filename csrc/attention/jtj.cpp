// gramian::attention_jtj: Jᵀ M J (dq, dk, dv) with the probabilities of a block of rows computed once for both factors.
#include <tuple>

#include "attention/attention.h"
#include "attention/schemas.h"

namespace gramian {
namespace {

std::tuple<Tensor, Tensor, Tensor> attention_jtj_cpu(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                                     const std::optional<Tensor>& mix,
                                                     const std::optional<Tensor>& mask, bool is_causal,
                                                     std::optional<double> scale, bool l2,
                                                     const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_jtj", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_directions(options.op, {dq, dk, dv}, {q, k, v});
  if (mix) check_mix(options.op, *mix, q, v);
  Tensor gq = attention_result(q), gk = attention_result(k), gv = attention_result(v);
  run_attention(options, element,
                {.q = &q,
                 .k = &k,
                 .v = &v,
                 .dq = &dq,
                 .dk = &dk,
                 .dv = &dv,
                 .mix = mix ? &*mix : nullptr,
                 .gq = &gq,
                 .gk = &gk,
                 .gv = &gv},
                state);
  return {gq, gk, gv};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAttentionJtjSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_jtj", GRAMIAN_BOX(&attention_jtj_cpu)); }

}  // namespace gramian
