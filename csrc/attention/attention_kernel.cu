// Tangent and cotangent of attention on the device. Scores are computed again in every pass and never stored; a row's
// probabilities are exp(score - log_sum). A block of threads owns a panel of queries, or of keys for the sums over queries,
// and puts two tiles into shared memory one after the other: probabilities P, and P times the derivative X of the scores or
// of the probabilities. Sums of P X f and of P f and the row sum r of P X make sum_j P (X - r) f without a second pass.
#include "attention/attention_cuda.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/weigh.cuh"

namespace gramian::cuda {
namespace {

constexpr int kFeatures = 64;  // of an output that a block of threads sums; others by blockIdx.y
template <class T>
constexpr std::size_t kAttentionBytes = (kStagedValues<T> + 64 + kRingValues<T> + kFactorValues<kFeatures>)*sizeof(T);

template <class T>
struct AttentionProblem {
  Packed<T> q, k, v, dq, dk, dv, g;  // a head's panels after those of another
  std::int64_t n, m, heads, q_panels, k_panels;
  T scale;
  bool causal;
  const bool* mask;
  std::int64_t mask_strides[4];
  const T *bias, *dbias;  // of keys, [units, padded m]; null but for L2
  T* log_sum;             // [units, n], infinite where a query sees nothing
  T* mean;                // [units, n]: r of the last pass over keys
  T *out, *gk, *gv;
  std::int64_t features;  // of out
};

template <class T>
GRAMIAN_DEVICE bool sees(const AttentionProblem<T>& p, std::int64_t unit, std::int64_t i, std::int64_t j) {
  if (i >= p.n || j >= p.m || (p.causal && j > i)) return false;
  return p.mask == nullptr || p.mask[unit / p.heads * p.mask_strides[0] + unit % p.heads * p.mask_strides[1] +
                                     i * p.mask_strides[2] + j * p.mask_strides[3]];
}

template <class T>
GRAMIAN_DEVICE T bias_of(const T* bias, const AttentionProblem<T>& p, std::int64_t unit, std::int64_t j) {
  return bias == nullptr ? T{0} : bias[unit * p.k_panels * kTile<T> + j];
}

// factor * sum_f x[f] y[f] of each row of the packed keys, with x = y or dk.
template <class T>
__global__ void __launch_bounds__(kThreads) bias_kernel(Packed<T> x, Packed<T> y, T factor, T* bias) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= x.panels() * kTile<T>) return;
  const std::int64_t panel = at / kTile<T>, r = at % kTile<T>;
  T total = 0;
  for (std::int64_t f = 0; f < x.depth; ++f)
    total += x.panel(panel)[f * kTile<T> + r] * y.panel(panel)[f * kTile<T> + r];
  bias[at] = factor * total;
}

// log of the sum over keys of exp of the scores of a panel of queries.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) log_sum_kernel(AttentionProblem<T> p) {
  const std::int64_t unit = blockIdx.x / p.q_panels, i = blockIdx.x % p.q_panels;
  const std::int64_t last = p.causal && i + 1 < p.k_panels ? i + 1 : p.k_panels;
  const T found = log_sum_of_rows<Tile>(
      last, shared_memory<T>(),
      [&](std::int64_t j, T* stage, Tile& tile) {
        multiply_tile(p.q, unit * p.q_panels + i, p.k, unit * p.k_panels + j, stage, tile);
      },
      [&](std::int64_t j, int r, int c, T product) {
        const std::int64_t row = i * kTile<T> + r, col = j * kTile<T> + c;
        return sees(p, unit, row, col) ? p.scale * product + bias_of(p.bias, p, unit, col) : -kInfinity<T>;
      });
  const std::int64_t row = i * kTile<T> + threadIdx.x;
  if (static_cast<int>(threadIdx.x) < kTile<T> && row < p.n) p.log_sum[unit * p.n + row] = found;
}

// Adds up what the threads of a row found, in a fixed order; all of them get it. `slots` is kThreads of shared memory.
template <class T>
GRAMIAN_DEVICE T row_total(T mine, T* slots) {
  __syncthreads();
  slots[threadIdx.x] = mine;
  __syncthreads();
  T total = 0;
  for (int side = 0; side < kSides<T>; ++side)
    total += slots[side * kTile<T> + static_cast<int>(threadIdx.x) % kTile<T>];
  return total;
}

// out_i = sum_j P_ij (X_ij - r_i) f_j with r_i = sum_j P_ij X_ij, for a panel of queries. Forward, X is the tangent of the
// scores, f = v, and sum_j P_ij dv_j is added; else X = g v', f = k, and the result is times the scale.
template <class Tile, bool kForward, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) query_kernel(AttentionProblem<T> p) {
  using Sums = Weighted<T, kFeatures>;
  __shared__ T slots[kThreads];
  T* const weights = shared_memory<T>();                          // P
  T* const memory = weights + (kStagedValues<T> + 64) / 64 * 64;  // the ring, then P X
  T* const factors = memory + kRingValues<T>;
  const std::int64_t unit = blockIdx.x / p.q_panels, i = blockIdx.x % p.q_panels, first = blockIdx.y * kFeatures;
  Sums tilted, plain;
  tilted.clear();
  plain.clear();
  T mean = 0;
  const std::int64_t last = p.causal && i + 1 < p.k_panels ? i + 1 : p.k_panels;
  for (std::int64_t j = 0; j < last; ++j) {
    const std::int64_t q = unit * p.q_panels + i, k = unit * p.k_panels + j;
    const int cols = static_cast<int>(p.m - j * kTile<T> < kTile<T> ? p.m - j * kTile<T> : kTile<T>);
    Tile tile;
    multiply_tile(p.q, q, p.k, k, memory, tile);
    stage_tile(tile, weights);
    change_staged(tile, weights, [&](int r, int c, T& value) {
      const std::int64_t row = i * kTile<T> + r, col = j * kTile<T> + c;
      value = sees(p, unit, row, col)
                  ? static_cast<T>(exp(p.scale * value + bias_of(p.bias, p, unit, col) - p.log_sum[unit * p.n + row]))
                  : T{0};
    });
    clear_tile(tile);
    // Forward two products, by one loop: the kernel is short enough for the compiler to have registers left.
    GRAMIAN_UNROLL_BY(1)
    for (int part = 0; part < (kForward ? 2 : 1); ++part) {
      const T *const x = !kForward   ? p.g.panel(q)
                         : part == 0 ? p.dq.panel(q)
                                     : p.q.panel(q),
                     *const y = !kForward   ? p.v.panel(k)
                                : part == 0 ? p.k.panel(k)
                                            : p.dk.panel(k);
      add_slabs(x, y, static_cast<int>((kForward ? p.q.depth : p.v.depth) / kSlab), memory, tile);
    }
    GRAMIAN_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
    for (int c = 0; c < Tile::kCols; ++c) {
      const int at = tile.row(r) * kStageStride<T> + tile.col(c);
      T x = tile.v[r][c];
      if constexpr (kForward) x = p.scale * x + bias_of(p.dbias, p, unit, j * kTile<T> + tile.col(c));
      memory[at] = weights[at] * x;
    }
    const Packed<T>& f = kForward ? p.v : p.k;
    tilted.add(memory, f.panel(k), cols, f.depth, first, factors);
    scan_row<T>([&](int l) { mean += l < cols ? memory[Sums::row() * kStageStride<T> + l] : T{0}; });
    plain.add(weights, f.panel(k), cols, f.depth, first, factors);
    if constexpr (kForward) tilted.add(weights, p.dv.panel(k), cols, p.dv.depth, first, factors);
  }
  mean = row_total(mean, slots);
  const std::int64_t row = i * kTile<T> + Sums::row();
  if (row >= p.n) return;
  GRAMIAN_UNROLL
  for (int o = 0; o < Sums::kOwned; ++o) {
    const std::int64_t feature = first + Sums::first_owned() + o;
    const T value = tilted.sum[o] - mean * plain.sum[o];
    if (feature < p.features) p.out[(unit * p.n + row) * p.features + feature] = kForward ? value : p.scale * value;
  }
  if (blockIdx.y == 0 && static_cast<int>(threadIdx.x) < kTile<T>) p.mean[unit * p.n + row] = mean;
}

// gk_j = scale (sum_i e_ij q_i - [L2] sum_i e_ij k_j) with e = P (g v' - mean_i), and gv_j = sum_i P_ij g_i, for a panel of
// keys: tiles are transposed.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) key_kernel(AttentionProblem<T> p, std::int64_t d, std::int64_t dv) {
  using Sums = Weighted<T, kFeatures>;
  __shared__ T slots[kThreads];
  T* const weights = shared_memory<T>();
  T* const memory = weights + (kStagedValues<T> + 64) / 64 * 64;
  T* const factors = memory + kRingValues<T>;
  const std::int64_t unit = blockIdx.x / p.k_panels, j = blockIdx.x % p.k_panels, first = blockIdx.y * kFeatures;
  const std::int64_t k = unit * p.k_panels + j;
  Sums keys, values;
  keys.clear();
  values.clear();
  T total = 0;
  for (std::int64_t i = p.causal ? j : 0; i < p.q_panels; ++i) {
    const std::int64_t q = unit * p.q_panels + i;
    const int cols = static_cast<int>(p.n - i * kTile<T> < kTile<T> ? p.n - i * kTile<T> : kTile<T>);
    Tile tile;
    multiply_tile(p.k, k, p.q, q, memory, tile);
    stage_tile(tile, weights);
    change_staged(tile, weights, [&](int r, int c, T& value) {
      const std::int64_t row = j * kTile<T> + r, col = i * kTile<T> + c;
      value = sees(p, unit, col, row)
                  ? static_cast<T>(exp(p.scale * value + bias_of(p.bias, p, unit, row) - p.log_sum[unit * p.n + col]))
                  : T{0};
    });
    multiply_tile(p.v, k, p.g, q, memory, tile);
    GRAMIAN_UNROLL
    for (int c = 0; c < Tile::kCols; ++c) {
      const std::int64_t col = i * kTile<T> + tile.col(c);
      const T mean = col < p.n ? p.mean[unit * p.n + col] : T{0};
      GRAMIAN_UNROLL
      for (int r = 0; r < Tile::kRows; ++r) {
        const int at = tile.row(r) * kStageStride<T> + tile.col(c);
        memory[at] = weights[at] * (tile.v[r][c] - mean);
      }
    }
    keys.add(memory, p.q.panel(q), cols, p.q.depth, first, factors);
    scan_row<T>([&](int l) { total += l < cols ? memory[Sums::row() * kStageStride<T> + l] : T{0}; });
    values.add(weights, p.g.panel(q), cols, p.g.depth, first, factors);
  }
  total = row_total(total, slots);
  const std::int64_t row = j * kTile<T> + Sums::row();
  if (row >= p.m) return;
  GRAMIAN_UNROLL
  for (int o = 0; o < Sums::kOwned; ++o) {
    const std::int64_t feature = first + Sums::first_owned() + o;
    if (feature < d) {
      T value = keys.sum[o];
      if (p.bias != nullptr) value -= total * p.k.panel(k)[feature * kTile<T> + Sums::row()];
      p.gk[(unit * p.m + row) * d + feature] = p.scale * value;
    }
    if (feature < dv) p.gv[(unit * p.m + row) * dv + feature] = values.sum[o];
  }
}

// to[batch, head', i, e'] = sum over (head, e) of x[batch, head, i, e] mix[(head, e), (head', e')].
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads)
    mix_kernel(Packed<T> x, Packed<T> mix, std::int64_t n, std::int64_t features, T* to) {
  T* const ring = shared_memory<T>();
  const std::int64_t i = blockIdx.x / mix.panels(), j = blockIdx.x % mix.panels(), heads = mix.rows / features;
  Tile tile;
  multiply_tile(x, i, mix, j, ring, tile);
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) {
    const std::int64_t row = i * kTile<T> + tile.row(r), col = j * kTile<T> + tile.col(c);
    if (row < x.rows && col < mix.rows)
      to[((row / n * heads + col / features) * n + row % n) * features + col % features] = tile.v[r][c];
  }
}

template <class T>
class Attention {
 public:
  Attention(const AttentionArguments& a, void* memory, Stream stream) : a_(a), walk_(memory, stream) {
    p_.n = a.n, p_.m = a.m, p_.heads = a.heads;
    p_.q_panels = panels(a.n), p_.k_panels = panels(a.m);
    p_.scale = static_cast<T>(a.scale);
    p_.causal = a.causal;
    p_.mask = a.mask;
    std::copy_n(a.mask_strides, 4, p_.mask_strides);
    p_.q = packed(a.q, a.n), p_.k = packed(a.k, a.m);
    if (a.l2) p_.bias = bias(p_.k, -a.scale / 2);
  }

  std::int64_t linearize(T* log_sums) {
    p_.log_sum = log_sums;
    walk_.launch(log_sum_kernel<Tile>, grid(p_.q_panels, 1), kRingValues<T> * sizeof(T), p_);
    return walk_.bytes();
  }

  std::int64_t run() {
    const bool forward = a_.dq.data != nullptr, backward = a_.gq != nullptr;
    const std::int64_t rows = a_.batch * a_.heads * a_.n, dv = a_.v.cols;
    p_.v = packed(a_.v, a_.m);
    p_.mean = walk_.template take<T>(rows);
    p_.log_sum = static_cast<T*>(const_cast<void*>(a_.state));
    if (a_.state == nullptr) linearize(walk_.template take<T>(rows));
    Rows g = a_.g;
    if (forward) {
      p_.dq = packed(a_.dq, a_.n), p_.dk = packed(a_.dk, a_.m), p_.dv = packed(a_.dv, a_.m);
      if (a_.l2) p_.dbias = bias(p_.dk, -a_.scale);
      T* const along = backward ? walk_.template take<T>(rows * dv) : static_cast<T*>(a_.out);
      query_pass<true>(along, dv);
      if (backward) g = contiguous(a_.mix.data == nullptr ? along : mixed(along, dv), dv);
    }
    if (backward) {
      p_.g = packed(g, a_.n);
      query_pass<false>(static_cast<T*>(a_.gq), a_.q.cols);
      p_.gk = static_cast<T*>(a_.gk), p_.gv = static_cast<T*>(a_.gv);
      walk_.launch(key_kernel<Tile>, grid(p_.k_panels, std::max(a_.q.cols, dv)), kAttentionBytes<T>, p_, a_.q.cols, dv);
    }
    return walk_.bytes();
  }

 private:
  using Tile = std::conditional_t<sizeof(T) == 8, DmmaTile, FmaTile>;

  static std::int64_t panels(std::int64_t rows) { return (rows + kTile<T> - 1) / kTile<T>; }

  Packed<T> packed(const Rows& rows, std::int64_t each) { return pack(walk_, rows, {}, Groups<T>{each, each, 0, 1}); }

  const T* bias(const Packed<T>& with, double factor) {
    const std::int64_t size = a_.batch * a_.heads * p_.k_panels * kTile<T>;
    T* const to = walk_.template take<T>(size);
    walk_.launch(bias_kernel<T>, grid_of_threads(size), 0, p_.k, with, static_cast<T>(factor), to);
    return to;
  }

  dim3 grid(std::int64_t each, std::int64_t features) const {
    return grid_of_blocks(a_.batch * a_.heads * each, (features + kFeatures - 1) / kFeatures);
  }

  template <bool kForward>
  void query_pass(T* out, std::int64_t features) {
    p_.out = out, p_.features = features;
    walk_.launch(query_kernel<Tile, kForward>, grid(p_.q_panels, features), kAttentionBytes<T>, p_);
  }

  // [batch, heads, n, features] as rows of (batch, head, i).
  Rows contiguous(const T* x, std::int64_t features) const {
    return {x, a_.batch * a_.heads * a_.n, features, features, 1, sizeof(T) == 8 ? Element::f64 : Element::f32};
  }

  T* mixed(const T* x, std::int64_t features) {
    Rows rows = contiguous(x, a_.heads * features);
    rows.rows = a_.batch * a_.n;
    rows.row_stride = a_.heads * a_.n * features;
    rows.inner = {a_.n, features};
    rows.part = features, rows.part_stride = a_.n * features;
    const Packed<T> left = pack<T>(walk_, rows), right = pack<T>(walk_, a_.mix);
    T* const to = walk_.template take<T>(rows.rows * rows.cols);
    walk_.launch(mix_kernel<Tile>, grid_of_blocks(left.panels() * right.panels()), kTileBytes<T>, left, right, a_.n,
                 features, to);
    return to;
  }

  AttentionArguments a_;
  Walk walk_;
  AttentionProblem<T> p_{};
};

bool is_wide(const AttentionArguments& a) { return a.q.element == Element::f64; }

}  // namespace

std::int64_t attention_bytes(const AttentionArguments& a) {
  return is_wide(a) ? Attention<double>(a, nullptr, nullptr).run() : Attention<float>(a, nullptr, nullptr).run();
}

void attention(const AttentionArguments& a, void* memory, Stream stream) {
  is_wide(a) ? Attention<double>(a, memory, stream).run() : Attention<float>(a, memory, stream).run();
}

std::int64_t linearize_bytes(const AttentionArguments& a) {
  return is_wide(a) ? Attention<double>(a, nullptr, nullptr).linearize(nullptr)
                    : Attention<float>(a, nullptr, nullptr).linearize(nullptr);
}

void linearize(const AttentionArguments& a, void* memory, void* log_sums, Stream stream) {
  if (is_wide(a))
    Attention<double>(a, memory, stream).linearize(static_cast<double*>(log_sums));
  else
    Attention<float>(a, memory, stream).linearize(static_cast<float*>(log_sums));
}

}  // namespace gramian::cuda
