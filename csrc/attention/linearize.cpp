// gramian::attention_linearize: what attention_jvp, attention_vjp and attention_jtj need that no direction changes.
#include "attention/attention.h"
#include "attention/schemas.h"

namespace gramian {
namespace {

Tensor attention_linearize_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                               bool is_causal, std::optional<double> scale, bool l2, std::optional<bool> keep) {
  const AttentionOptions options{"attention_linearize", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  AttentionRun run(options, element, {.q = &q, .k = &k, .v = &v}, keep.value_or(true));
  if (!keep && run.state_bytes() > kMostKeptBytes) run.shape.kept = false;
  Tensor state = allocate(q, {kStateHeader + run.state_bytes()}, ScalarType::Byte);
  char* const memory = static_cast<char*>(state.mutable_data_ptr());
  prefer_huge_pages(memory, static_cast<std::size_t>(state.size(0)));
  std::memcpy(memory, run.header().data(), kStateHeader);
  run.place_state(memory + kStateHeader);
  run.linearize();
  return state;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kAttentionLinearizeSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("attention_linearize", GRAMIAN_BOX(&attention_linearize_cpu)); }

}  // namespace gramian
