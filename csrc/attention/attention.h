// What attention_jvp, attention_vjp and attention_jtj share: their arguments' checks, and the run over heads and rows.
#pragma once
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
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

using Three = std::array<std::reference_wrapper<const Tensor>, 3>;

// dq, dk and dv are like q, k and v.
inline void check_directions(const char* op, const Three& directions, const Three& inputs) {
  constexpr const char* kNames[][2] = {{"dq", "q"}, {"dk", "k"}, {"dv", "v"}};
  for (std::size_t part = 0; part < 3; ++part) {
    const auto [name, as_name] = kNames[part];
    const Tensor &t = directions[part], &as = inputs[part];
    bool same = t.dim() == as.dim();
    for (std::int64_t axis = 0; same && axis < t.dim(); ++axis) same = t.size(axis) == as.size(axis);
    if (!same)
      refuse(op, ": ", name, " must have the shape of ", as_name, " ", shape_text(as), ", got ", shape_text(t));
    check_same(op, name, t, as_name, as);
  }
}

inline void check_gradient(const char* op, const Tensor& g, const Tensor& q, const Tensor& v) {
  if (g.dim() != 4 || g.size(0) != q.size(0) || g.size(1) != q.size(1) || g.size(2) != q.size(2) ||
      g.size(3) != v.size(3))
    refuse(op, ": g must be [batch, heads, n, dv] = (", q.size(0), ", ", q.size(1), ", ", q.size(2), ", ", v.size(3),
           "), got ", shape_text(g));
  check_same(op, "g", g, "q", q);
}

inline void check_mix(const char* op, const Tensor& mix, const Tensor& q, const Tensor& v) {
  const std::int64_t features = q.size(1) * v.size(3);
  if (mix.dim() != 2 || mix.size(0) != features || mix.size(1) != features)
    refuse(op, ": mix must be [heads * dv, heads * dv] = (", features, ", ", features, "), got ", shape_text(mix));
  check_same(op, "mix", mix, "q", q);
}

// Probabilities are kept between the two halves of a call, or between calls, while they take no more than this.
constexpr std::int64_t kMostKeptBytes = std::int64_t{1} << 30;

// One call: its heads, and memory for what they share.
struct AttentionRun {
  const AttentionKernels& kernel;
  Element element;
  std::int64_t batch, heads;
  AttentionShape shape;
  std::vector<AttentionHead> all;

  AttentionRun(const AttentionOptions& options, Element element, const AttentionTensors& t, bool kept)
      : kernel(GRAMIAN_KERNELS(attention)), element(element), batch(t.q->size(0)), heads(t.q->size(1)) {
    const double c = options.scale.value_or(1 / std::sqrt(static_cast<double>(t.q->size(3))));
    const double scale = options.l2 ? 2 * c : c;
    shape = {t.q->size(2),      t.k->size(2), t.q->size(3), t.v->size(3),    scale,
             options.is_causal, options.l2,   kept,         t.dq != nullptr, t.gq != nullptr};
    all.resize(static_cast<std::size_t>(batch * heads));
    const std::int64_t size = element == Element::f64 ? 8 : 4;
    const auto view = [&](const Tensor* x, std::int64_t h) { return x == nullptr ? Rows{} : rows_of(*x, element, h); };
    const auto result = [&](Tensor* x, std::int64_t h) -> void* {
      return x == nullptr ? nullptr : static_cast<char*>(x->mutable_data_ptr()) + h * x->size(2) * x->size(3) * size;
    };
    for (std::int64_t h = 0; h < batch * heads; ++h) {
      AttentionHead& head = all[static_cast<std::size_t>(h)];
      head = {.q = view(t.q, h),
              .k = view(t.k, h),
              .v = view(t.v, h),
              .dq = view(t.dq, h),
              .dk = view(t.dk, h),
              .dv = view(t.dv, h),
              .g = view(t.g, h),
              .out = result(t.out, h),
              .gq = result(t.gq, h),
              .gk = result(t.gk, h),
              .gv = result(t.gv, h)};
      if (!options.mask) continue;
      const Tensor& mask = *options.mask;
      const auto stride = [&](int axis) { return mask.size(axis) == 1 ? 0 : mask.stride(axis); };
      head.mask = static_cast<const bool*>(mask.const_data_ptr()) + h / heads * stride(0) + h % heads * stride(1);
      head.mask_row = stride(2);
      head.mask_col = stride(3);
    }
  }

  std::int64_t blocks() const { return (shape.n + kAttentionRows - 1) / kAttentionRows; }
  std::int64_t block_rows() const { return std::min(shape.n, kAttentionRows); }
  std::int64_t state_bytes() const { return batch * heads * kernel.state_bytes(shape, element); }

  // What identifies a state: it lies before it.
  std::vector<std::int64_t> header() const {
    std::int64_t scale = 0;
    std::memcpy(&scale, &shape.scale, sizeof scale);
    const std::int64_t flags = (shape.causal ? 1 : 0) + (shape.l2 ? 2 : 0) + (element == Element::f64 ? 4 : 0) +
                               8 * static_cast<std::int64_t>(active_isa());
    return {shape.n, shape.m, shape.d, shape.dv, batch * heads, scale, flags, shape.kept ? 1 : 0};
  }

  void place_state(char* memory) {
    for (AttentionHead& head : all) {
      head.state = memory;
      memory += kernel.state_bytes(shape, element);
    }
  }

  // body(piece, worker) for each of `count`, small ones several at a time: a worker that wakes up costs as much as a few of these.
  template <class Body>
  void run(std::int64_t count, std::int64_t flops_each, Body&& body) const {
    constexpr std::int64_t kWorthWaking = std::int64_t{1} << 18;
    const std::int64_t grain = std::max<std::int64_t>(1, kWorthWaking / std::max<std::int64_t>(1, flops_each));
    run_pieces(count, grain, [&](std::int64_t begin, std::int64_t end, std::int64_t worker) {
      for (std::int64_t piece = begin; piece < end; ++piece) body(piece, worker);
    });
  }

  // Of one product of a row's probabilities, and of packing a row, each as `run` counts.
  std::int64_t keys_flops() const { return 2 * shape.m * (shape.d + shape.dv); }
  std::int64_t row_flops() const { return 8 * (shape.d + shape.dv); }

  void linearize() {
    const auto head = [&](std::int64_t h) -> const AttentionHead& { return all[static_cast<std::size_t>(h)]; };
    run(batch * heads, shape.m * row_flops(), [&](std::int64_t h, std::int64_t) { kernel.pack_state(shape, head(h)); });
    const std::int64_t pieces = batch * heads * blocks();
    const Workspace scratch(worker_count(pieces), kernel.linearize_bytes(shape, element));
    run(pieces, block_rows() * keys_flops(), [&](std::int64_t piece, std::int64_t worker) {
      const std::int64_t first = piece % blocks() * kAttentionRows;
      kernel.linearize(shape, head(piece / blocks()), first, std::min(shape.n, first + kAttentionRows),
                       scratch.of(worker));
    });
  }

  void multiply(const Tensor* mix) {
    std::vector<char> packed_mix;
    if (mix != nullptr) {
      packed_mix.resize(static_cast<std::size_t>(kernel.mix_bytes(heads * shape.dv, element)));
      kernel.pack_mix(rows_of(*mix, element), packed_mix.data());
    }
    // Heads that are mixed are worked on together. Rows are cut into groups, each with its own sums over queries, which are
    // added in order: as many as a few workers need, however many there are, so that results do not depend on them.
    constexpr std::int64_t kFew = 4;
    const std::int64_t together = mix == nullptr ? 1 : heads, units = batch * heads / together;
    const std::int64_t wanted = std::min(blocks(), shape.backward ? (kFew + units - 1) / units : blocks());
    const std::int64_t blocks_each = (blocks() + wanted - 1) / wanted;
    const std::int64_t groups = (blocks() + blocks_each - 1) / blocks_each;
    const std::int64_t direction_each = shape.forward ? kernel.direction_bytes(shape, element) : 0;
    const std::int64_t sums_each = shape.backward ? kernel.sums_bytes(shape, element) : 0;
    const std::int64_t workers = worker_count(units * groups);
    const std::int64_t scratch_each = kernel.scratch_bytes(shape, together, element);
    const std::int64_t sums_at = batch * heads * direction_each,
                       scratch_at = sums_at + groups * batch * heads * sums_each;
    const Workspace memory(1, scratch_at + workers * scratch_each);
    char* const base = static_cast<char*>(memory.of(0));
    if (shape.forward)
      run(batch * heads, shape.m * row_flops(), [&](std::int64_t h, std::int64_t) {
        AttentionHead& head = all[static_cast<std::size_t>(h)];
        head.direction = base + h * direction_each;
        kernel.pack_direction(shape, head);
      });
    if (shape.backward) std::memset(base + sums_at, 0, static_cast<std::size_t>(scratch_at - sums_at));
    // One block of every group after the other: a whole group at once would not let a long call be interrupted.
    for (std::int64_t step = 0; step < blocks_each; ++step)
      run(units * groups, together * block_rows() * 2 * keys_flops(), [&](std::int64_t piece, std::int64_t worker) {
        const std::int64_t unit = piece / groups, group = piece % groups, block = group * blocks_each + step;
        if (block >= blocks()) return;
        kernel.rows(shape, &all[static_cast<std::size_t>(unit * together)], together,
                    mix == nullptr ? nullptr : packed_mix.data(), block * kAttentionRows,
                    std::min(shape.n, (block + 1) * kAttentionRows), base + scratch_at + worker * scratch_each,
                    base + sums_at + (group * batch * heads + unit * together) * sums_each);
      });
    if (shape.backward)
      run(batch * heads, groups * shape.m * row_flops(), [&](std::int64_t h, std::int64_t) {
        kernel.finish(shape, all[static_cast<std::size_t>(h)], base + sums_at + h * sums_each, groups,
                      batch * heads * sums_each);
      });
  }
};

constexpr std::int64_t kStateHeader = 64;  // bytes

inline void run_attention(const AttentionOptions& options, Element element, const AttentionTensors& t,
                          const std::optional<Tensor>& state) {
  if (state) {
    const bool known = state->scalar_type() == ScalarType::Byte && state->dim() == 1 && state->size(0) > kStateHeader;
    std::vector<std::int64_t> header(kStateHeader / 8);
    if (known) std::memcpy(header.data(), state->const_data_ptr(), kStateHeader);
    AttentionRun run(options, element, t, header.back() != 0);
    if (!known || header != run.header() || state->size(0) != kStateHeader + run.state_bytes())
      refuse(options.op, ": state must be what attention_linearize returned for these tensors and options");
    run.place_state(static_cast<char*>(const_cast<void*>(state->const_data_ptr())) + kStateHeader);
    run.multiply(t.mix);
    return;
  }
  AttentionRun run(options, element, t, true);
  constexpr std::int64_t kMostOnce = std::int64_t{32}
                                     << 20;  // fresh pages for more cost as much as the products they save
  if (run.state_bytes() > kMostOnce) run.shape.kept = false;
  const Workspace memory(1, run.state_bytes());
  run.place_state(static_cast<char*>(memory.of(0)));
  run.linearize();
  run.multiply(t.mix);
}

// Contiguous, of the shape of `as`.
inline Tensor attention_result(const Tensor& as) {
  return allocate(as, {as.size(0), as.size(1), as.size(2), as.size(3)});
}

inline Tensor attention_output(const Tensor& q, const Tensor& v) {
  return allocate(q, {q.size(0), q.size(1), q.size(2), v.size(3)});
}

}  // namespace gramian
