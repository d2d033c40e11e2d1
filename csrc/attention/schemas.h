// The schemas of the ops of attention, on every device.
#pragma once

namespace gramian {

constexpr const char* kAttentionLinearizeSchema =
    "attention_linearize(Tensor q, Tensor k, Tensor v, Tensor? mask=None, bool is_causal=False, float? scale=None, "
    "bool l2=False, bool? keep=None) -> Tensor";
constexpr const char* kAttentionJvpSchema =
    "attention_jvp(Tensor q, Tensor k, Tensor v, Tensor dq, Tensor dk, Tensor dv, Tensor? mask=None, "
    "bool is_causal=False, float? scale=None, bool l2=False, Tensor? state=None) -> Tensor";
constexpr const char* kAttentionVjpSchema =
    "attention_vjp(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? mask=None, bool is_causal=False, "
    "float? scale=None, bool l2=False, Tensor? state=None) -> (Tensor, Tensor, Tensor)";
constexpr const char* kAttentionJtjSchema =
    "attention_jtj(Tensor q, Tensor k, Tensor v, Tensor dq, Tensor dk, Tensor dv, Tensor? mix=None, "
    "Tensor? mask=None, bool is_causal=False, float? scale=None, bool l2=False, Tensor? state=None) -> (Tensor, "
    "Tensor, Tensor)";

}  // namespace gramian
