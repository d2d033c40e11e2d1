// gramian::attention_jvp: the derivative of attention along (dq, dk, dv).
#include "attention/attention.h"
#include "attention/schemas.h"

namespace gramian {
namespace {

Tensor attention_jvp_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dq, const Tensor& dk,
                         const Tensor& dv, const std::optional<Tensor>& mask, bool is_causal,
                         std::optional<double> scale, bool l2, const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_jvp", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_directions(options.op, {dq, dk, dv}, {q, k, v});
  Tensor out = attention_output(q, v);
  run_attention(options, element, {.q = &q, .k = &k, .v = &v, .dq = &dq, .dk = &dk, .dv = &dv, .out = &out}, state);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAttentionJvpSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_jvp", GRAMIAN_BOX(&attention_jvp_cpu)); }

}  // namespace gramian
