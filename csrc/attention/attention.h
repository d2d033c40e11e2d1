// What attention_jvp, attention_vjp and attention_jtj share: their arguments' checks, and the run over heads and rows.
#pragma once
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "attention/attention_kernel.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"

namespace gramian {

struct AttentionOptions {
  const char* op;
  const std::optional<Tensor>& mask;
  bool is_causal;
  std::optional<double> scale;
  bool l2;
};

struct AttentionTensors {
  const Tensor *q, *k, *v, *dq = nullptr, *dk = nullptr, *dv = nullptr, *g = nullptr, *mix = nullptr;
  Tensor *out = nullptr, *gq = nullptr, *gk = nullptr, *gv = nullptr;
};

// q, k and v agree and there is something to attend to.
inline Element check_attention(const AttentionOptions& options, const Tensor& q, const Tensor& k, const Tensor& v) {
  const char* op = options.op;
  if (q.dim() != 4) refuse(op, ": q must be [batch, heads, n, d], got shape ", shape_text(q));
  const Element element = element_of(op, "q", q, false);
  const auto check = [&](const char* name, const Tensor& t) {
    if (t.dim() != 4 || t.size(0) != q.size(0) || t.size(1) != q.size(1))
      refuse(op, ": ", name, " must be [batch, heads, m, d] with the batch and heads of q ", shape_text(q),
             ", got shape ", shape_text(t));
    check_same(op, name, t, "q", q);
  };
  check("k", k);
  check("v", v);
  if (k.size(3) != q.size(3)) refuse(op, ": k must have d = ", q.size(3), " columns like q, got ", k.size(3));
  if (v.size(2) != k.size(2)) refuse(op, ": v must have m = ", k.size(2), " rows like k, got ", v.size(2));
  for (int axis = 0; axis < 4; ++axis)
    if (q.size(axis) == 0) refuse(op, ": q must not be empty, got shape ", shape_text(q));
  if (k.size(2) == 0) refuse(op, ": k must not be empty, got shape ", shape_text(k));
  if (v.size(3) == 0) refuse(op, ": v must not be empty, got shape ", shape_text(v));
  if (options.scale && !std::isfinite(*options.scale)) refuse(op, ": scale must be finite, got ", *options.scale);
  if (options.mask) {
    const Tensor& mask = *options.mask;
    if (mask.scalar_type() != ScalarType::Bool)
      refuse(op, ": mask must be bool, true where a query may look, got ", dtype_text(mask.scalar_type()));
    if (mask.device() != q.device()) refuse(op, ": mask must be on the device of q");
    const std::int64_t full[] = {q.size(0), q.size(1), q.size(2), k.size(2)};
    bool fits = mask.dim() == 4;
    for (int axis = 0; fits && axis < 4; ++axis) fits = mask.size(axis) == 1 || mask.size(axis) == full[axis];
    if (!fits)
      refuse(op, ": mask must be [batch or 1, heads or 1, n or 1, m or 1] with batch = ", full[0],
             ", heads = ", full[1], ", n = ", full[2], ", m = ", full[3], ", got shape ", shape_text(mask));
  }
  return element;
}

inline void check_like(const char* op, const char* name, const Tensor& t, const char* as_name, const Tensor& as) {
  bool same = t.dim() == as.dim();
  for (std::int64_t axis = 0; same && axis < t.dim(); ++axis) same = t.size(axis) == as.size(axis);
  if (!same) refuse(op, ": ", name, " must have the shape of ", as_name, " ", shape_text(as), ", got ", shape_text(t));
  check_same(op, name, t, as_name, as);
}

inline void run_attention(const AttentionOptions& options, Element element, const AttentionTensors& t) {
  const auto& kernel = GRAMIAN_KERNELS(attention);
  const Tensor &q = *t.q, &v = *t.v;
  const std::int64_t batch = q.size(0), heads = q.size(1), size = element == Element::f64 ? 8 : 4;
  const double c = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  const AttentionShape shape{q.size(2),         t.k->size(2), q.size(3),       v.size(3),      options.l2 ? 2 * c : c,
                             options.is_causal, options.l2,   t.dq != nullptr, t.gq != nullptr};

  const std::int64_t packed = kernel.packed_bytes(shape, element);
  std::vector<char> keys(static_cast<std::size_t>(packed * batch * heads + 64));
  char* const keys_at = keys.data() + (64 - reinterpret_cast<std::uintptr_t>(keys.data()) % 64) % 64;
  std::vector<AttentionHead> all(static_cast<std::size_t>(batch * heads));
  const auto view = [&](const Tensor* x, std::int64_t h) { return x == nullptr ? Rows{} : rows_of(*x, element, h); };
  const auto result = [&](Tensor* x, std::int64_t h) -> void* {
    return x == nullptr ? nullptr : static_cast<char*>(x->mutable_data_ptr()) + h * x->size(2) * x->size(3) * size;
  };
  for (std::int64_t h = 0; h < batch * heads; ++h) {
    AttentionHead& head = all[static_cast<std::size_t>(h)];
    head = {view(t.q, h),
            view(t.k, h),
            view(t.v, h),
            view(t.dq, h),
            view(t.dk, h),
            view(t.dv, h),
            view(t.g, h),
            nullptr,
            0,
            0,
            keys_at + h * packed,
            result(t.out, h),
            result(t.gq, h),
            result(t.gk, h),
            result(t.gv, h)};
    if (options.mask) {
      const Tensor& mask = *options.mask;
      const auto stride = [&](int axis) { return mask.size(axis) == 1 ? 0 : mask.stride(axis); };
      head.mask = static_cast<const bool*>(mask.const_data_ptr()) + h / heads * stride(0) + h % heads * stride(1);
      head.mask_row = stride(2);
      head.mask_col = stride(3);
    }
  }
  run_pieces(batch * heads, 1,
             [&](std::int64_t h, std::int64_t, std::int64_t) { kernel.pack(shape, all[static_cast<std::size_t>(h)]); });

  std::vector<char> mix;
  if (t.mix != nullptr) {
    mix.resize(static_cast<std::size_t>(kernel.mix_bytes(heads * v.size(3), element)));
    kernel.pack_mix(rows_of(*t.mix, element), mix.data());
  }

  // Heads that are mixed are worked on together. Rows are cut into groups, each with its own sums over queries, which are
  // added in order: as many as eight workers need, however many there are, so that results do not depend on them.
  const std::int64_t together = t.mix == nullptr ? 1 : heads, units = batch * heads / together;
  const std::int64_t blocks = (shape.n + kAttentionRows - 1) / kAttentionRows;
  const std::int64_t wanted = shape.backward ? (8 + units - 1) / units : blocks;
  const std::int64_t blocks_each = (blocks + std::min(wanted, blocks) - 1) / std::min(wanted, blocks);
  const std::int64_t groups = (blocks + blocks_each - 1) / blocks_each;
  const std::int64_t sums_each = shape.backward ? kernel.sums_bytes(shape, element) : 0;
  std::vector<char> sums(static_cast<std::size_t>(groups * batch * heads * sums_each));
  const std::int64_t workers = worker_count(units * groups);
  const Workspace scratch(workers, kernel.scratch_bytes(shape, together, element));
  // One block of every group after the other: a whole group at once would not let a long call be interrupted.
  for (std::int64_t step = 0; step < blocks_each; ++step)
    run_pieces(units * groups, 1, [&](std::int64_t piece, std::int64_t, std::int64_t worker) {
      const std::int64_t unit = piece / groups, group = piece % groups, block = group * blocks_each + step;
      if (block >= blocks) return;
      kernel.rows(shape, &all[static_cast<std::size_t>(unit * together)], together,
                  t.mix == nullptr ? nullptr : mix.data(), block * kAttentionRows,
                  std::min(shape.n, (block + 1) * kAttentionRows), scratch.of(worker),
                  sums.data() + (group * batch * heads + unit * together) * sums_each);
    });
  if (shape.backward)
    run_pieces(batch * heads, 1, [&](std::int64_t h, std::int64_t, std::int64_t) {
      kernel.finish(shape, all[static_cast<std::size_t>(h)], sums.data() + h * sums_each, groups,
                    batch * heads * sums_each);
    });
}

// Contiguous, of the shape of `as`.
inline Tensor attention_result(const Tensor& as) {
  return torch::stable::new_empty(as, {as.size(0), as.size(1), as.size(2), as.size(3)});
}

inline Tensor attention_output(const Tensor& q, const Tensor& v) {
  return torch::stable::new_empty(q, {q.size(0), q.size(1), q.size(2), v.size(3)});
}

}  // namespace gramian
