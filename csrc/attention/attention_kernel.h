// Tangent and cotangent of attention for a range of query rows: what attention_jvp, attention_vjp and attention_jtj share.
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "core/rows.h"

namespace gramian {

// Scores are scale * q.k + bias_j: for L2 attention, scale is 2c and bias_j = -c |k_j|^2 (what is constant along a row of
// scores drops out of the softmax).
struct AttentionShape {
  std::int64_t n, m, d, dv;  // queries, keys, features of a key, features of a value
  double scale;
  bool causal, l2;
  bool kept;  // the state holds the probabilities; else they are recomputed from the rows' largest score and sum
  bool forward, backward;  // jvp, vjp; both: the product with J^T J
};

// One head of one batch element. A part that a pass does not have is null; outputs are contiguous.
struct AttentionHead {
  Rows q, k, v, dq, dk, dv, g;
  const bool* mask = nullptr;  // true where a query may look
  std::int64_t mask_row = 0, mask_col = 0;
  void* state =
      nullptr;  // what does not depend on the direction: packed q, k, v, and all that is known of probabilities
  void* direction = nullptr;  // packed dk and dv
  void *out, *gq, *gk, *gv;
};

struct AttentionKernels {
  std::int64_t (*state_bytes)(const AttentionShape& shape, Element element);
  void (*pack_state)(const AttentionShape& shape, const AttentionHead& head);
  // The probabilities of query rows [begin, end): begin is a multiple of kAttentionRows, here and below.
  void (*linearize)(const AttentionShape& shape, const AttentionHead& head, std::int64_t begin, std::int64_t end,
                    void* scratch);
  std::int64_t (*linearize_bytes)(const AttentionShape& shape, Element element);  // of that scratch

  std::int64_t (*direction_bytes)(const AttentionShape& shape, Element element);
  void (*pack_direction)(const AttentionShape& shape, const AttentionHead& head);
  std::int64_t (*mix_bytes)(std::int64_t features, Element element);
  void (*pack_mix)(const Rows& mix, void* packed);
  std::int64_t (*scratch_bytes)(const AttentionShape& shape, std::int64_t heads, Element element);
  std::int64_t (*sums_bytes)(const AttentionShape& shape, Element element);  // of one head
  // Query rows [begin, end) of all `heads`, whose outputs are multiplied by `mix` if there is one; sums over the queries are added
  // to `sums`, one part for each head.
  void (*rows)(const AttentionShape& shape, const AttentionHead* head, std::int64_t heads, const void* mix,
               std::int64_t begin, std::int64_t end, void* scratch, void* sums);
  // gk and gv of one head from the sums of `groups` ranges of rows, `apart` bytes from one another.
  void (*finish)(const AttentionShape& shape, const AttentionHead& head, const void* sums, std::int64_t groups,
                 std::int64_t apart);
};

constexpr std::int64_t kAttentionRows = 96;  // query rows that are worked on at once

GRAMIAN_DECLARE_KERNELS(AttentionKernels, attention)

}  // namespace gramian
