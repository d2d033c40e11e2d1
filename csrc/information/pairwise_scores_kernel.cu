// The critic of all pairs on the device: the tile's slabs are made in shared memory, from the two halves of the first layer or
// from the mask, instead of being copied from panels of pairs that nobody could store. Rows of a tile are the pairs of one i
// with a panel of j, or, for the gradient by W2, units of the first layer, with pairs as the depth.
#include "information/pairwise_scores_cuda.h"

#include <algorithm>
#include <type_traits>

#include "core/weigh.cuh"

namespace gramian::cuda {
namespace {

template <class T>
using TileOf = std::conditional_t<sizeof(T) == 8, DmmaTile, FmaTile>;

constexpr std::int64_t kMaskBytes = std::int64_t{256} << 20;  // of a mask that is computed again
constexpr std::int64_t kEnough = 256,
                       kMostParts = 64;  // blocks of threads; fixed, so that sums round the same everywhere

template <class T>
struct Critic : CriticProblem<T> {
  Packed<T> second;           // rows u of W2ᵀ, or rows k of W2 diag(w3)
  std::int64_t begin, end;    // rows i of this launch
  std::int64_t parts;         // that the rows are dealt out to, by blockIdx.y
  const std::uint32_t* mask;  // from row `begin` on
  const T* grad;

  GRAMIAN_BOTH std::int64_t panels() const { return (this->m + kTile<T> - 1) / kTile<T>; }
  GRAMIAN_BOTH std::int64_t words() const {
    return (this->m + kPairs - 1) / kPairs;
  }  // of the mask, for a row and unit
  GRAMIAN_BOTH std::int64_t first(std::int64_t part) const { return begin + (end - begin) * part / parts; }
};

template <class T>
GRAMIAN_DEVICE T relu(T v) {
  return v <= 0 ? T{0} : v;  // NaN stays NaN
}

template <class T>
GRAMIAN_DEVICE T before_relu(const Critic<T>& p, std::int64_t i, std::int64_t j, std::int64_t k) {
  return p.a[i * p.h + k] + p.b[j * p.h + k];
}

// grad_ij where unit u is at work, else zero.
template <class T>
GRAMIAN_DEVICE T masked(const Critic<T>& p, std::int64_t i, std::int64_t j, std::int64_t u) {
  if (j >= p.m || u >= p.h2) return 0;
  const std::uint32_t word = p.mask[((i - p.begin) * p.words() + j / kPairs) * p.h2 + u];
  return (word >> (j % kPairs) & 1U) != 0 ? p.grad[i * p.m + j] : T{0};
}

// Adds the products of slabs that left(s, k, r) and right(s, k, r) make, values k and r of slab s; a null panel is made, the other
// copied. All threads of the block; `ring` is two stages.
template <class Tile, class Left, class Right, class T = typename Tile::Value>
GRAMIAN_DEVICE void add_made_slabs(std::int64_t slabs, const Left& left, const Right& right, T* ring, Tile& tile) {
  constexpr int kCells = kSlab * kTile<T>;
  const auto make = [&](std::int64_t s) {
    T* const stage = ring + s % 2 * kStageValues<T>;
    for (int e = static_cast<int>(threadIdx.x); e < kCells; e += kThreads) {
      const int k = e / kTile<T>, r = e % kTile<T>;
      stage[k * kRowStride<T> + r] = left(s, k, r);
      stage[(kSlab + k) * kRowStride<T> + r] = right(s, k, r);
    }
  };
  if (slabs > 0) make(0);
  for (std::int64_t s = 0; s < slabs; ++s) {
    __syncthreads();  // slab s is there for all, and all are done with slab s - 1, whose place the next one takes
    if (s + 1 < slabs) make(s + 1);
    const T* stage = ring + s % 2 * kStageValues<T>;
    tile.add_slab(stage, stage + kSlab * kRowStride<T>);
  }
  __syncthreads();
}

// Over the threads that share a row or a column of a staged tile; `slots` is kThreads of shared memory.
template <class T>
GRAMIAN_DEVICE T total_of_sides(T mine, T* slots) {
  __syncthreads();
  slots[threadIdx.x] = mine;
  __syncthreads();
  T total = 0;
  for (int side = 0; side < kSides<T>; ++side)
    total += slots[side * kTile<T> + static_cast<int>(threadIdx.x) % kTile<T>];
  return total;
}

// Scores and, unless null, mask words of the pairs of row i with a panel of j.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) score_kernel(Critic<T> p, T* scores, std::uint32_t* mask) {
  __shared__ T slots[kThreads];
  T* const stage = shared_memory<T>();
  const std::int64_t i = p.begin + blockIdx.x / p.panels(), first = blockIdx.x % p.panels() * kTile<T>;
  const int mine = static_cast<int>(threadIdx.x) % kTile<T>;
  T score = 0;
  for (std::int64_t panel = 0; panel < p.second.panels(); ++panel) {
    Tile tile;
    clear_tile(tile);
    add_made_slabs(
        p.second.depth / kSlab,
        [&](std::int64_t s, int k, int r) {
          const std::int64_t unit = s * kSlab + k, j = first + r;
          return unit < p.h && j < p.m ? relu(before_relu(p, i, j, unit)) : T{0};
        },
        [&](std::int64_t s, int k, int r) { return p.second.panel(panel)[(s * kSlab + k) * kTile<T> + r]; }, stage,
        tile);
    stage_tile(tile, stage);
    __syncthreads();
    const std::int64_t unit = panel * kTile<T>;
    const int units = static_cast<int>(p.h2 - unit < kTile<T> ? p.h2 - unit : kTile<T>);
    scan_row<T>([&](int l) {
      if (l < units) score += p.w3[unit + l] * relu(stage[mine * kStageStride<T> + l] + p.b2[unit + l]);
    });
    for (int e = static_cast<int>(threadIdx.x); mask != nullptr && e < kTile<T> / kPairs * kTile<T>; e += kThreads) {
      const int l = e % kTile<T>, group = e / kTile<T>;
      const std::int64_t block = first / kPairs + group;
      if (l >= units || block >= p.words()) continue;
      std::uint32_t word = 0;
      for (int pair = 0; pair < kPairs; ++pair) {
        const bool idle = stage[(group * kPairs + pair) * kStageStride<T> + l] + p.b2[unit + l] <= 0;
        if (!idle && block * kPairs + pair < p.m) word |= 1U << pair;
      }
      mask[((i - p.begin) * p.words() + block) * p.h2 + unit + l] = word;
    }
    __syncthreads();
  }
  score = total_of_sides(score, slots);
  const std::int64_t j = first + threadIdx.x;
  if (scores != nullptr && static_cast<int>(threadIdx.x) < kTile<T> && j < p.m) scores[i * p.m + j] = score;
}

// The gradient of the first layer for a panel of j and one of units k: summed over its pairs for a_i, over the rows of a part for b.
// by_a [panels, n, h]; by_b [parts, m, h] is added to.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) first_layer_kernel(Critic<T> p, T* by_a, T* by_b) {
  __shared__ T slots[kThreads];
  T* const stage = shared_memory<T>();
  const std::int64_t panel = blockIdx.x / p.second.panels(), units = blockIdx.x % p.second.panels();
  const std::int64_t first = panel * kTile<T>, unit = units * kTile<T>, part = blockIdx.y;
  const int mine = static_cast<int>(threadIdx.x) % kTile<T>;
  Tile total;
  clear_tile(total);
  for (std::int64_t i = p.first(part); i < p.first(part + 1); ++i) {
    Tile tile;
    clear_tile(tile);
    add_made_slabs(
        p.second.depth / kSlab, [&](std::int64_t s, int k, int r) { return masked(p, i, first + r, s * kSlab + k); },
        [&](std::int64_t s, int k, int r) { return p.second.panel(units)[(s * kSlab + k) * kTile<T> + r]; }, stage,
        tile);
    GRAMIAN_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
    for (int c = 0; c < Tile::kCols; ++c) {
      const std::int64_t j = first + tile.row(r), k = unit + tile.col(c);
      if (j >= p.m || k >= p.h || before_relu(p, i, j, k) <= 0) tile.v[r][c] = 0;
      total.v[r][c] += tile.v[r][c];
    }
    stage_tile(tile, stage);
    __syncthreads();
    T sum = 0;
    scan_row<T>([&](int l) { sum += stage[l * kStageStride<T> + mine]; });  // down a column
    sum = total_of_sides(sum, slots);
    if (static_cast<int>(threadIdx.x) < kTile<T> && unit + mine < p.h)
      by_a[(panel * p.n + i) * p.h + unit + mine] = sum;
    __syncthreads();
  }
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) {
    const std::int64_t j = first + total.row(r), k = unit + total.col(c);
    if (j < p.m && k < p.h) by_b[(part * p.m + j) * p.h + k] += total.v[r][c];
  }
}

// Sum of h1 Qᵀ over the pairs of a part, and of Q: added to products [parts, h, h2] and sums [parts, h2].
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) product_kernel(Critic<T> p, T* products, double* sums) {
  T* const ring = shared_memory<T>();
  const std::int64_t across = (p.h2 + kTile<T> - 1) / kTile<T>, part = blockIdx.y;
  const std::int64_t unit = blockIdx.x / across * kTile<T>, second = blockIdx.x % across * kTile<T>;
  const std::int64_t slabs = (p.m + kSlab - 1) / kSlab;
  Tile tile;
  clear_tile(tile);
  double sum = 0;
  for (std::int64_t i = p.first(part); i < p.first(part + 1); ++i) {
    add_made_slabs(
        slabs,
        [&](std::int64_t s, int k, int r) {
          const std::int64_t j = s * kSlab + k;
          return j < p.m && unit + r < p.h ? relu(before_relu(p, i, j, unit + r)) : T{0};
        },
        [&](std::int64_t s, int k, int r) { return masked(p, i, s * kSlab + k, second + r); }, ring, tile);
    if (unit == 0 && static_cast<int>(threadIdx.x) < kTile<T>)
      for (std::int64_t j = 0; j < p.m; ++j) sum += static_cast<double>(masked(p, i, j, second + threadIdx.x));
  }
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) {
    const std::int64_t k = unit + tile.row(r), u = second + tile.col(c);
    if (k < p.h && u < p.h2) products[(part * p.h + k) * p.h2 + u] += tile.v[r][c];
  }
  const std::int64_t u = second + threadIdx.x;
  if (unit == 0 && static_cast<int>(threadIdx.x) < kTile<T> && u < p.h2) sums[part * p.h2 + u] += sum;
}

// to[e] = the sum over parts of from[part, e], in their order.
template <class T>
__global__ void __launch_bounds__(kThreads) join_kernel(const T* from, std::int64_t parts, std::int64_t size, T* to) {
  const std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= size) return;
  double total = 0;
  for (std::int64_t part = 0; part < parts; ++part) total += static_cast<double>(from[part * size + e]);
  to[e] = static_cast<T>(total);
}

// S = w3 . z at work: with the products P = sum of h1 Qᵀ, dW2 = P w3 and dw3 = sum over k of W2 P + b2 sum of Q. A thread takes a
// unit u of the second layer.
template <class T>
__global__ void __launch_bounds__(kThreads)
    second_layer_kernel(CriticProblem<T> p, const T* products, const double* sums, std::int64_t parts,
                        CriticGradients<T> to) {
  const std::int64_t u = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (u >= p.h2) return;
  double by_w3 = 0, q = 0;
  for (std::int64_t k = 0; k < p.h; ++k) {
    double product = 0;
    for (std::int64_t part = 0; part < parts; ++part)
      product += static_cast<double>(products[(part * p.h + k) * p.h2 + u]);
    to.w2[k * p.h2 + u] = static_cast<T>(product * static_cast<double>(p.w3[u]));
    by_w3 += product * static_cast<double>(p.w2[k * p.h2 + u]);
  }
  for (std::int64_t part = 0; part < parts; ++part) q += sums[part * p.h2 + u];
  to.b2[u] = static_cast<T>(q * static_cast<double>(p.w3[u]));
  to.w3[u] = static_cast<T>(by_w3 + q * static_cast<double>(p.b2[u]));
}

// W2 diag(w3), as it lies.
template <class T>
__global__ void __launch_bounds__(kThreads) weigh_kernel(CriticProblem<T> p, T* weighted) {
  const std::int64_t e = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (e < p.h * p.h2) weighted[e] = p.w2[e] * p.w3[e % p.h2];
}

template <class T>
class CriticWalk {
 public:
  CriticWalk(const CriticProblem<T>& p, void* memory, Stream stream) : walk_(memory, stream) {
    static_cast<CriticProblem<T>&>(p_) = p;
    p_.begin = 0, p_.end = p.n, p_.parts = 1;
    second_ = pack<T>(walk_, Rows{p.w2, p.h2, p.h, 1, p.h2, kElement});  // W2ᵀ
  }

  std::int64_t forward(T* scores, std::uint32_t* mask) {
    p_.second = second_;
    walk_.launch(score_kernel<TileOf<T>>, grid_of_blocks((p_.end - p_.begin) * p_.panels()), kBytes, p_, scores, mask);
    return walk_.bytes();
  }

  std::int64_t backward(const CriticGradients<T>& to) {
    const std::int64_t n = p_.n, m = p_.m, h = p_.h, h2 = p_.h2, words = p_.words() * h2;
    T* const weighted = walk_.template take<T>(h * h2);
    walk_.launch(weigh_kernel<T>, grid_of_threads(h * h2), 0, p_, weighted);
    const Packed<T> by_unit = pack<T>(walk_, Rows{weighted, h, h2, h2, 1, kElement});
    const std::int64_t first_tiles = p_.panels() * tiles(h),
                       second_tiles = std::max<std::int64_t>(tiles(h), 1) * tiles(h2);
    const std::int64_t first_parts = parts(first_tiles), second_parts = parts(second_tiles);
    const std::int64_t band =
        to.mask != nullptr ? n : std::clamp<std::int64_t>(kMaskBytes / 4 / std::max<std::int64_t>(words, 1), 1, n);
    std::uint32_t* const again = walk_.template take<std::uint32_t>(to.mask != nullptr ? 0 : band * words);
    T* const by_a = walk_.template take<T>(p_.panels() * n * h);
    T* const by_b = zeros<T>(first_parts * m * h);
    T* const products = zeros<T>(second_parts * h * h2);
    double* const sums = zeros<double>(second_parts * h2);
    p_.grad = to.grad;
    for (std::int64_t begin = 0; begin < n; begin += band) {
      p_.begin = begin, p_.end = std::min(n, begin + band);
      if (to.mask == nullptr) forward(nullptr, again);
      p_.mask = to.mask != nullptr ? to.mask : again;
      p_.second = by_unit, p_.parts = first_parts;
      walk_.launch(first_layer_kernel<TileOf<T>>, grid_of_blocks(first_tiles, first_parts), kBytes, p_, by_a, by_b);
      p_.parts = second_parts;
      walk_.launch(product_kernel<TileOf<T>>, grid_of_blocks(second_tiles, second_parts), kBytes, p_, products, sums);
    }
    walk_.launch(join_kernel<T>, grid_of_threads(n * h), 0, by_a, p_.panels(), n * h, to.a);
    walk_.launch(join_kernel<T>, grid_of_threads(m * h), 0, by_b, first_parts, m * h, to.b);
    walk_.launch(second_layer_kernel<T>, grid_of_threads(h2), 0, p_, products, sums, second_parts, to);
    return walk_.bytes();
  }

 private:
  static constexpr Element kElement = sizeof(T) == 8 ? Element::f64 : Element::f32;
  static constexpr std::size_t kBytes = kRingValues<T> * sizeof(T);

  static std::int64_t tiles(std::int64_t rows) { return (rows + kTile<T> - 1) / kTile<T>; }
  std::int64_t parts(std::int64_t tiles) const {
    return std::clamp<std::int64_t>(kEnough / std::max<std::int64_t>(tiles, 1), 1, std::min(kMostParts, p_.n));
  }

  template <class V>
  V* zeros(std::int64_t count) {
    V* const taken = walk_.template take<V>(count);
    if (!walk_.counting()) set_zero(taken, static_cast<std::size_t>(count) * sizeof(V), walk_.stream());
    return taken;
  }

  Walk walk_;
  Critic<T> p_{};
  Packed<T> second_;
};

}  // namespace

template <class T>
std::int64_t critic_bytes(const CriticProblem<T>& problem) {
  return CriticWalk<T>(problem, nullptr, nullptr).forward(nullptr, nullptr);
}

template <class T>
std::int64_t critic_backward_bytes(const CriticProblem<T>& problem, const CriticGradients<T>& gradients) {
  return CriticWalk<T>(problem, nullptr, nullptr).backward(gradients);
}

template <class T>
void critic(const CriticProblem<T>& problem, T* scores, std::uint32_t* mask, void* memory, Stream stream) {
  CriticWalk<T>(problem, memory, stream).forward(scores, mask);
}

template <class T>
void critic_backward(const CriticProblem<T>& problem, const CriticGradients<T>& gradients, void* memory,
                     Stream stream) {
  CriticWalk<T>(problem, memory, stream).backward(gradients);
}

template std::int64_t critic_bytes(const CriticProblem<float>&);
template std::int64_t critic_bytes(const CriticProblem<double>&);
template std::int64_t critic_backward_bytes(const CriticProblem<float>&, const CriticGradients<float>&);
template std::int64_t critic_backward_bytes(const CriticProblem<double>&, const CriticGradients<double>&);
template void critic(const CriticProblem<float>&, float*, std::uint32_t*, void*, Stream);
template void critic(const CriticProblem<double>&, double*, std::uint32_t*, void*, Stream);
template void critic_backward(const CriticProblem<float>&, const CriticGradients<float>&, void*, Stream);
template void critic_backward(const CriticProblem<double>&, const CriticGradients<double>&, void*, Stream);

}  // namespace gramian::cuda
