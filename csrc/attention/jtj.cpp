// gramian::attention_jtj: Jᵀ M J (dq, dk, dv) with the probabilities of a block of rows computed once for both factors.
#include <tuple>

#include "attention/attention.h"

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
  check_like(options.op, "dq", dq, "q", q);
  check_like(options.op, "dk", dk, "k", k);
  check_like(options.op, "dv", dv, "v", v);
  if (mix) {
    const std::int64_t features = q.size(1) * v.size(3);
    if (mix->dim() != 2 || mix->size(0) != features || mix->size(1) != features)
      refuse(options.op, ": mix must be [heads * dv, heads * dv] = (", features, ", ", features, "), got ",
             shape_text(*mix));
    check_same(options.op, "mix", *mix, "q", q);
  }
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

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) {
  m.def(
      "attention_jtj(Tensor q, Tensor k, Tensor v, Tensor dq, Tensor dk, Tensor dv, Tensor? mix=None, "
      "Tensor? mask=None, bool is_causal=False, float? scale=None, bool l2=False, Tensor? state=None) -> (Tensor, "
      "Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_jtj", GRAMIAN_BOX(&attention_jtj_cpu)); }

}  // namespace gramian
