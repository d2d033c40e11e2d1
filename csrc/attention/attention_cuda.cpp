// gramian::attention_linearize, attention_jvp, attention_vjp and attention_jtj on CUDA. The state is the logarithm of each row's
// sum of exp of scores; probabilities are never kept.
#include "attention/attention_cuda.h"

#include <tuple>

#include "attention/attention.h"
#include "attention/schemas.h"
#include "core/cuda.h"

namespace gramian {
namespace {

// Rows (batch, head, row) of a [batch, heads, n, d] tensor.
Rows all_rows(const Tensor& t, Element element) {
  Rows rows = rows_of(t, element, 0);
  rows.rows = t.size(0) * t.size(1) * t.size(2);
  rows.row_stride = t.stride(0);
  rows.middle = {t.size(1), t.stride(1)};
  rows.inner = {t.size(2), t.stride(2)};
  return rows;
}

cuda::AttentionArguments arguments_of(const AttentionOptions& options, Element element, const Tensor& q,
                                      const Tensor& k, const Tensor& v) {
  const double c = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  cuda::AttentionArguments a{};
  a.q = all_rows(q, element), a.k = all_rows(k, element), a.v = all_rows(v, element);
  a.batch = q.size(0), a.heads = q.size(1), a.n = q.size(2), a.m = k.size(2);
  a.scale = options.l2 ? 2 * c : c;
  a.causal = options.is_causal, a.l2 = options.l2;
  if (options.mask) {
    a.mask = static_cast<const bool*>(options.mask->const_data_ptr());
    for (int axis = 0; axis < 4; ++axis)
      a.mask_strides[axis] = options.mask->size(axis) == 1 ? 0 : options.mask->stride(axis);
  }
  return a;
}

std::int64_t state_bytes(const cuda::AttentionArguments& a) {
  return a.batch * a.heads * a.n * (a.q.element == Element::f64 ? 8 : 4);
}

void run(const AttentionOptions& options, const Tensor& q, cuda::AttentionArguments a,
         const std::optional<Tensor>& state, const cuda::OnDevice& device) {
  if (state) {
    if (state->scalar_type() != ScalarType::Byte || state->dim() != 1 || state->size(0) != state_bytes(a) ||
        state->device() != q.device() || !state->is_contiguous())
      refuse(options.op, ": state must be what attention_linearize returned for these tensors and options");
    a.state = state->const_data_ptr();
  }
  const Tensor memory = cuda::device_memory(options.op, q, cuda::attention_bytes(a));
  cuda::attention(a, memory.mutable_data_ptr(), device.stream);
}

Tensor attention_linearize_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                                bool is_causal, std::optional<double> scale, bool l2, std::optional<bool>) {
  const AttentionOptions options{"attention_linearize", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  const cuda::OnDevice device(q);
  const cuda::AttentionArguments a = arguments_of(options, element, q, k, v);
  Tensor state = allocate(q, {state_bytes(a)}, ScalarType::Byte);
  const Tensor memory = cuda::device_memory(options.op, q, cuda::linearize_bytes(a));
  cuda::linearize(a, memory.mutable_data_ptr(), state.mutable_data_ptr(), device.stream);
  return state;
}

Tensor attention_jvp_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dq, const Tensor& dk,
                          const Tensor& dv, const std::optional<Tensor>& mask, bool is_causal,
                          std::optional<double> scale, bool l2, const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_jvp", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_directions(options.op, {dq, dk, dv}, {q, k, v});
  const cuda::OnDevice device(q);
  Tensor out = attention_output(q, v);
  cuda::AttentionArguments a = arguments_of(options, element, q, k, v);
  a.dq = all_rows(dq, element), a.dk = all_rows(dk, element), a.dv = all_rows(dv, element);
  a.out = out.mutable_data_ptr();
  run(options, q, a, state, device);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> attention_vjp_cuda(const Tensor& q, const Tensor& k, const Tensor& v,
                                                      const Tensor& g, const std::optional<Tensor>& mask,
                                                      bool is_causal, std::optional<double> scale, bool l2,
                                                      const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_vjp", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_gradient(options.op, g, q, v);
  const cuda::OnDevice device(q);
  Tensor gq = attention_result(q), gk = attention_result(k), gv = attention_result(v);
  cuda::AttentionArguments a = arguments_of(options, element, q, k, v);
  a.g = all_rows(g, element);
  a.gq = gq.mutable_data_ptr(), a.gk = gk.mutable_data_ptr(), a.gv = gv.mutable_data_ptr();
  run(options, q, a, state, device);
  return {gq, gk, gv};
}

std::tuple<Tensor, Tensor, Tensor> attention_jtj_cuda(const Tensor& q, const Tensor& k, const Tensor& v,
                                                      const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                                      const std::optional<Tensor>& mix,
                                                      const std::optional<Tensor>& mask, bool is_causal,
                                                      std::optional<double> scale, bool l2,
                                                      const std::optional<Tensor>& state) {
  const AttentionOptions options{"attention_jtj", mask, is_causal, scale, l2};
  const Element element = check_attention(options, q, k, v);
  check_directions(options.op, {dq, dk, dv}, {q, k, v});
  if (mix) check_mix(options.op, *mix, q, v);
  const cuda::OnDevice device(q);
  Tensor gq = attention_result(q), gk = attention_result(k), gv = attention_result(v);
  cuda::AttentionArguments a = arguments_of(options, element, q, k, v);
  a.dq = all_rows(dq, element), a.dk = all_rows(dk, element), a.dv = all_rows(dv, element);
  // Rows of the product are the columns of mix.
  if (mix) a.mix = {mix->const_data_ptr(), mix->size(1), mix->size(0), mix->stride(1), mix->stride(0), element};
  a.gq = gq.mutable_data_ptr(), a.gk = gk.mutable_data_ptr(), a.gv = gv.mutable_data_ptr();
  run(options, q, a, state, device);
  return {gq, gk, gv};
}

}  // namespace

GRAMIAN_CUDA_OP(kAttentionLinearizeSchema, "attention_linearize", &attention_linearize_cuda)
GRAMIAN_CUDA_OP(kAttentionJvpSchema, "attention_jvp", &attention_jvp_cuda)
GRAMIAN_CUDA_OP(kAttentionVjpSchema, "attention_vjp", &attention_vjp_cuda)
GRAMIAN_CUDA_OP(kAttentionJtjSchema, "attention_jtj", &attention_jtj_cuda)

}  // namespace gramian
