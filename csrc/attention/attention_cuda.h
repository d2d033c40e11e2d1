// The CUDA kernels of attention_linearize, attention_jvp, attention_vjp and attention_jtj.
#pragma once
#include "core/device.h"
#include "core/rows.h"

namespace gramian::cuda {

// Rows are (batch, head, row) of whole tensors; what a pass does not have is null. Outputs are contiguous. jvp has dq, dk, dv
// and out; vjp has g, gq, gk and gv; jtj both, without g and out.
struct AttentionArguments {
  Rows q, k, v, dq, dk, dv, g, mix;
  std::int64_t batch, heads, n, m;
  double scale;  // of q.k: for L2 attention 2c, with -c |k|^2 added
  bool causal, l2;
  const bool* mask;              // true where a query may look
  std::int64_t mask_strides[4];  // 0 along an axis of size 1
  const void* state;             // log of the sum of exp of each row's scores, or null
  void *out, *gq, *gk, *gv;
};

std::int64_t attention_bytes(const AttentionArguments& arguments);
void attention(const AttentionArguments& arguments, void* memory, Stream stream);

// log_sums [batch, heads, n]: the state.
std::int64_t linearize_bytes(const AttentionArguments& arguments);
void linearize(const AttentionArguments& arguments, void* memory, void* log_sums, Stream stream);

}  // namespace gramian::cuda
