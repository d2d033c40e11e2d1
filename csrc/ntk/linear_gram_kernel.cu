// Tangent-kernel Grams on the device, by the CPU's two routes. Hadamard: a block of threads owns a tile of (sample, position)
// pairs, multiplies <a, a'> once, and <g, g'> for one pair of outputs after the other; positions are summed within the tile, whose
// panels are packed so that no sample straddles two. Materialise: pieces of the Jacobian are formed by the same tile and
// multiplied; a small kernel matrix is summed in slices of features, or few blocks would have work.
#include "ntk/linear_gram_cuda.h"

#include <algorithm>
#include <type_traits>

#include "core/sweep.cuh"
#include "core/weigh.cuh"

namespace gramian::cuda {
namespace {

template <class T>
struct GramSide {
  Packed<T> g;   // the panels of one output after those of another
  Packed<T> a;   // of no features where every factor is 1
  Rows numbers;  // class numbers instead of `a`
  std::int64_t samples;
  std::int64_t panels;  // of one output
};

// The first element of row `row` and feature `feature` of x, as rows of their own begin.
Rows moved(Rows x, std::int64_t elements) {
  const std::int64_t size = x.element == Element::f64 ? 8 : x.element == Element::f32 ? 4 : 2;
  x.data = static_cast<const char*>(x.data) + elements * size;
  return x;
}

template <class T>
struct GramProblem {
  GramSide<T> x, y;
  Groups<T> groups;            // of positions
  std::int64_t outputs, each;  // pairs of outputs that one block of threads takes
  bool ones, equal;
  KernelMatrix k;
};

template <class T>
GRAMIAN_DEVICE void put(const KernelMatrix& k, std::int64_t row, std::int64_t col, T value) {
  if (row >= k.rows || col >= k.cols || (k.symmetric && row > col)) return;
  T& to = static_cast<T*>(k.out)[row * k.stride + col];
  if (k.accumulate) value += to;
  to = value;
  if (k.mirror != nullptr) static_cast<T*>(k.mirror)[col * k.stride + row] = value;
}

// <a, a'> (+ 1).
template <class Tile, class T = typename Tile::Value>
GRAMIAN_DEVICE void factor_tile(const GramProblem<T>& p, std::int64_t i, std::int64_t j, T* ring, Tile& factor) {
  const T one = static_cast<T>(p.ones ? 1 : 0);
  if (!p.equal && p.x.a.depth == 0) {
    GRAMIAN_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
    for (int c = 0; c < Tile::kCols; ++c) factor.v[r][c] = one;
    return;
  }
  if (p.equal) {  // the class numbers of the tile's rows, then of its columns
    for (int r = static_cast<int>(threadIdx.x); r < 2 * kTile<T>; r += kThreads) {
      const GramSide<T>& side = r < kTile<T> ? p.x : p.y;
      const std::int64_t row = p.groups.source(r < kTile<T> ? i : j, r % kTile<T>);
      ring[r] = row < 0 || row >= side.numbers.rows ? T{0} : convert<T>(side.numbers, row_offset(side.numbers, row));
    }
    __syncthreads();
    GRAMIAN_UNROLL
    for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
    for (int c = 0; c < Tile::kCols; ++c)
      factor.v[r][c] = one + (ring[factor.row(r)] == ring[kTile<T> + factor.col(c)] ? T{1} : T{0});
    __syncthreads();
    return;
  }
  multiply_tile(p.x.a, i, p.y.a, j, ring, factor);
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) factor.v[r][c] += one;
}

template <class T>
constexpr std::size_t kGramBytes = std::max<std::size_t>(kTileBytes<T>, sizeof(T) * kStagedValues<T>);

// Sums the positions of a staged tile; group (x, y) of the panels is one entry of K. Rows first, in place: a segment has one
// reader.
template <class T>
GRAMIAN_DEVICE void sum_positions(const GramProblem<T>& p, const TilePair& at, std::int64_t c, std::int64_t e,
                                  T* stage) {
  const int positions = static_cast<int>(p.groups.size), per = static_cast<int>(p.groups.per_panel);
  for (int s = static_cast<int>(threadIdx.x); s < per * positions * per; s += kThreads) {
    T* const segment = stage + s / per * kStageStride<T> + s % per * positions;
    T total = 0;
    for (int t = 0; t < positions; ++t) total += segment[t];
    segment[0] = total;
  }
  __syncthreads();
  for (int s = static_cast<int>(threadIdx.x); s < per * per; s += kThreads) {
    const int x = s / per, y = s % per;
    T total = 0;
    for (int t = 0; t < positions; ++t) total += stage[(x * positions + t) * kStageStride<T> + y * positions];
    const std::int64_t n = at.i * per + x, m = at.j * per + y;
    if (n < p.x.samples && m < p.y.samples) put(p.k, n * p.outputs + c, m * p.outputs + e, total);
  }
  __syncthreads();
}

// Tiles by blockIdx.x, pairs of outputs by blockIdx.y. A sample of more positions than a tile has rows takes several
// tiles, whose sums are added in their order.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, 1) hadamard_kernel(GramProblem<T> p) {
  __shared__ T slots[kWarps];
  T* const memory = shared_memory<T>();
  const std::int64_t panels = p.groups.panels_each(), positions = p.groups.size;
  const TilePair at =
      tile_at(p.k.symmetric ? Sweep::symmetric : Sweep::full, blockIdx.x, p.x.panels / panels, p.y.panels / panels);
  const std::int64_t first = blockIdx.y * p.each;
  Tile factor;
  for (std::int64_t pair = first; pair < first + p.each && pair < p.outputs * p.outputs; ++pair) {
    const std::int64_t c = pair / p.outputs, e = pair % p.outputs;
    T total = 0;
    for (std::int64_t part = 0; part < panels * panels; ++part) {
      const std::int64_t i = at.i * panels + part / panels, j = at.j * panels + part % panels;
      if (pair == first || panels > 1) factor_tile(p, i, j, memory, factor);
      Tile tile;
      multiply_tile(p.x.g, c * p.x.panels + i, p.y.g, e * p.y.panels + j, memory, tile);
      GRAMIAN_UNROLL
      for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
      for (int l = 0; l < Tile::kCols; ++l) {
        const T value = tile.v[r][l] * factor.v[r][l];
        const int row = tile.row(r), col = tile.col(l);
        if (panels > 1) {  // past the last position there is padding, which a NaN would reach
          if (part / panels * kTile<T> + row < positions && part % panels * kTile<T> + col < positions) total += value;
        } else {
          memory[row * kStageStride<T> + col] = value;
        }
      }
    }
    if (panels > 1) {
      total = block_sum(total, slots);
      if (threadIdx.x == 0) put(p.k, at.i * p.outputs + c, at.j * p.outputs + e, total);
    } else {
      __syncthreads();
      sum_positions(p, at, c, e, memory);
    }
  }
}

// K (+)= X Yᵀ, tiles by blockIdx.x; or each slice of the features, by blockIdx.y, into a matrix of its own.
template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads, std::is_same_v<Tile, Tf32Tile> ? 1 : 2)
    product_kernel(Packed<T> x, Packed<T> y, KernelMatrix k) {
  T* const ring = shared_memory<T>();
  const TilePair at = tile_at(k.symmetric ? Sweep::symmetric : Sweep::full, blockIdx.x, x.panels(), y.panels());
  const int slabs = static_cast<int>(x.depth / kSlab),
            per_slice = (slabs + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);
  const int begin = static_cast<int>(blockIdx.y) * per_slice,
            end = begin + per_slice < slabs ? begin + per_slice : slabs;
  const std::int64_t skipped = static_cast<std::int64_t>(begin) * kSlab * kTile<T>;
  Tile tile;
  clear_tile(tile);
  add_slabs(x.panel(at.i) + skipped, y.panel(at.j) + skipped, end - begin, ring, tile);
  stage_tile(tile, ring);
  __syncthreads();
  k.out = static_cast<T*>(k.out) + static_cast<std::int64_t>(blockIdx.y) * k.rows * k.stride;
  for (int e = static_cast<int>(threadIdx.x); e < kTile<T> * kTile<T>; e += kThreads) {
    const int row = e / kTile<T>, col = e % kTile<T>;
    put(k, at.i * kTile<T> + row, at.j * kTile<T> + col, ring[row * kStageStride<T> + col]);
  }
}

// K (+)= the slices' matrices, in their order.
template <class T>
__global__ void __launch_bounds__(kThreads) join_slices_kernel(const T* slices, std::int64_t count, KernelMatrix k) {
  for (std::int64_t row = blockIdx.x; row < k.rows; row += gridDim.x)
    for (std::int64_t col = threadIdx.x; col < k.cols; col += kThreads) {
      T total = 0;
      for (std::int64_t slice = 0; slice < count; ++slice) total += slices[(slice * k.rows + row) * k.cols + col];
      put(k, row, col, total);
    }
}

// ---- Pieces of the Jacobian: J[row, (p, q)] = sum_t g[row, t, p] a[sample, t, q] for features p of a piece ----

template <class T>
struct Piece {
  Packed<T> g, a;                           // rows (row, p) and (sample, q), a group's panels its own
  std::int64_t g_panels, a_panels;          // of one group
  Rows gradients;                           // (row, p) by positions
  std::int64_t of, first, count, features;  // features p of a row, and which of them; features q
  std::int64_t outputs;                     // rows of a sample
  bool ones;
  T* jacobian;
  std::int64_t stride;
};

template <class Tile, class T = typename Tile::Value>
__global__ void __launch_bounds__(kThreads) jacobian_kernel(Piece<T> piece) {
  T* const ring = shared_memory<T>();
  const std::int64_t tiles = piece.g_panels * piece.a_panels;
  const std::int64_t row = blockIdx.x / tiles, i = blockIdx.x % tiles / piece.a_panels, j = blockIdx.x % piece.a_panels;
  Tile tile;
  multiply_tile(piece.g, row * piece.g_panels + i, piece.a, row / piece.outputs * piece.a_panels + j, ring, tile);
  T* const to = piece.jacobian + row * piece.stride;
  GRAMIAN_UNROLL
  for (int r = 0; r < Tile::kRows; ++r) GRAMIAN_UNROLL
  for (int c = 0; c < Tile::kCols; ++c) {
    const std::int64_t p = i * kTile<T> + tile.row(r), q = j * kTile<T> + tile.col(c);
    if (p < piece.count && q < piece.features) to[p * piece.features + q] = tile.v[r][c];
  }
}

// The bias's features: sum_t g[row, t, p]. A block of threads a row.
template <class T>
__global__ void __launch_bounds__(kThreads) bias_kernel(Piece<T> piece) {
  const std::int64_t row = blockIdx.x;
  T* const to = piece.jacobian + row * piece.stride + piece.count * piece.features;
  for (std::int64_t p = threadIdx.x; p < piece.count; p += kThreads) {
    const std::int64_t from = row_offset(piece.gradients, row * piece.of + piece.first + p);
    T total = 0;
    for (std::int64_t t = 0; t < piece.gradients.cols; ++t)
      total += convert<T>(piece.gradients, from + t * piece.gradients.col_stride);
    to[p] = total;
  }
}

// ---- The passes ----

template <class T>
class Grams {
 public:
  Grams(const KernelMatrix& k, bool tf32, void* memory, Stream stream)
      : k_(k), rounding_{nullptr, nullptr, tf32}, walk_(memory, stream) {}

  std::int64_t bytes() const { return most_; }

  template <class Tile>
  void add(const Layer& layer) {
    const Walk before = walk_;  // each layer has the memory to itself
    if (layer.route == Route::hadamard)
      hadamard<Tile>(layer.views);
    else
      materialise<Tile>(layer.views);
    most_ = std::max(most_, walk_.bytes());
    walk_ = before;
    k_.accumulate = true;
  }

 private:
  template <class Tile>
  void hadamard(const LinearLayer& layer) {
    GramProblem<T> p{};
    p.groups = Groups<T>::together(layer.positions);
    p.outputs = k_.outputs;
    p.ones = layer.ones, p.equal = layer.equal;
    p.x = side(layer.a1, layer.g1, p);
    p.y = k_.symmetric ? p.x : side(layer.a2, layer.g2, p);
    p.k = k_;
    const std::int64_t each = p.groups.panels_each(), pairs = p.outputs * p.outputs;
    const std::int64_t tiles = tile_count(sweep(), p.x.panels / each, p.y.panels / each);
    p.each = (pairs + splits(tiles, pairs) - 1) / splits(tiles, pairs);
    walk_.launch(hadamard_kernel<Tile>, grid_of_blocks(tiles, (pairs + p.each - 1) / p.each), kGramBytes<T>, p);
  }

  GramSide<T> side(const Rows& a, const Rows& g, const GramProblem<T>& p) {
    const std::int64_t positions = p.groups.size, samples = a.rows / positions;
    const std::int64_t panels = p.groups.panels(samples), depth = packed_depth(g.cols);
    GramSide<T> side{};
    side.samples = samples;
    side.panels = panels;
    T* const memory = walk_.template take<T>(p.outputs * panels * kTile<T> * depth);
    side.g = {memory, p.outputs * panels * kTile<T>, depth};
    for (std::int64_t c = 0; c < p.outputs && !walk_.counting(); ++c) {
      Rows one = moved(g, c * g.middle.stride);
      one.rows = samples * positions;
      one.middle = {};
      pack(one, rounding_, memory + c * panels * kTile<T> * depth, walk_.stream(), p.groups);
    }
    side.numbers = a;
    if (a.cols > 0 && !p.equal) side.a = pack(walk_, a, rounding_, p.groups);
    return side;
  }

  void multiply(const Packed<T>& x, const Packed<T>& y) {
    using Tile = std::conditional_t<sizeof(T) == 8, DmmaTile, FmaTile>;  // of halves the Jacobian is not rounded
    const std::int64_t tiles = tile_count(sweep(), x.panels(), y.panels());
    const std::int64_t slices =
        splits(tiles, std::clamp<std::int64_t>(x.depth / kSlab / kSlabsOfSlice, 1, kMostSlices));
    KernelMatrix to = k_;
    if (slices > 1) {
      to.out = walk_.template take<T>(slices * k_.rows * k_.cols);
      to.mirror = nullptr, to.accumulate = false, to.stride = k_.cols;
    }
    auto* kernel = product_kernel<Tile>;
    if constexpr (sizeof(T) == 4)
      if (rounding_.tf32) kernel = product_kernel<Tf32Tile>;
    walk_.launch(kernel, grid_of_blocks(tiles, slices), kGramBytes<T>, x, y, to);
    if (slices > 1)
      walk_.launch(join_slices_kernel<T>, grid_of_blocks(std::min<std::int64_t>(k_.rows, 4096)), 0,
                   static_cast<const T*>(to.out), slices, k_);
  }

  Sweep sweep() const { return k_.symmetric ? Sweep::symmetric : Sweep::full; }

  // Parts of a tile's work that keep the multiprocessors busy.
  std::int64_t splits(std::int64_t tiles, std::int64_t most) const {
    return std::clamp<std::int64_t>(2 * multiprocessors() / tiles, 1, most);
  }

  template <class Tile>
  void materialise(const LinearLayer& layer) {
    const std::int64_t features = layer.a1.cols + (layer.ones ? 1 : 0), all = layer.g1.cols;
    const std::int64_t sides = k_.symmetric ? 1 : 2, rows = k_.rows + (sides - 1) * k_.cols;
    const std::int64_t wanted = kPieceBytes / (static_cast<std::int64_t>(sizeof(T)) * rows * features);
    const std::int64_t count = std::min(all, std::max<std::int64_t>(1, wanted));
    Piece<T> piece[2];
    T* jacobian[2] = {};
    for (std::int64_t s = 0; s < sides; ++s) {
      piece[s] = piece_of(s == 0 ? layer.a1 : layer.a2, s == 0 ? layer.g1 : layer.g2, layer);
      piece[s].jacobian = jacobian[s] = walk_.template take<T>((s == 0 ? k_.rows : k_.cols) * count * features);
    }
    const Walk before = walk_;
    std::int64_t first = 0;
    do {
      Packed<T> packed[2];
      for (std::int64_t s = 0; s < sides; ++s) {
        form<Tile>(piece[s], first, std::min(count, all - first));
        const Rows formed{jacobian[s],
                          s == 0 ? k_.rows : k_.cols,
                          piece[s].stride,
                          piece[s].stride,
                          1,
                          sizeof(T) == 8 ? Element::f64 : Element::f32};
        packed[s] = pack<T>(walk_, formed, rounding_);
      }
      multiply(packed[0], packed[sides - 1]);
      k_.accumulate = true;
      most_ = std::max(most_, walk_.bytes());
      walk_ = before;
    } while ((first += count) < all && !walk_.counting());
  }

  Piece<T> piece_of(const Rows& a, const Rows& g, const LinearLayer& layer) {
    const std::int64_t positions = layer.positions, samples = a.rows / positions;
    Piece<T> piece{};
    piece.outputs = k_.outputs;
    piece.of = g.cols;
    piece.features = a.cols;
    piece.ones = layer.ones;
    piece.gradients = g;
    piece.gradients.rows = samples * k_.outputs * g.cols;
    piece.gradients.cols = positions;
    piece.gradients.col_stride = g.inner.stride;
    piece.gradients.middle = g.middle;
    piece.gradients.inner = {g.cols, g.col_stride};
    piece.gradients.part = 0;
    if (g.part != 0) piece.gradients.middle = {g.cols / g.part, g.part_stride}, piece.gradients.inner.size = g.part;
    if (a.cols == 0) return piece;
    const Rows turned{a.data,         samples * a.cols, positions, a.row_stride,
                      a.inner.stride, a.element,        {},        {a.cols, a.col_stride}};
    const Groups<T> groups{a.cols, a.cols, 0, 1};
    piece.a_panels = groups.panels_each();
    piece.a = pack(walk_, turned, rounding_, groups);
    return piece;
  }

  template <class Tile>
  void form(Piece<T>& piece, std::int64_t first, std::int64_t count) {
    piece.first = first, piece.count = count;
    piece.stride = count * (piece.features + (piece.ones ? 1 : 0));
    if (count == 0) return;
    const std::int64_t rows = piece.gradients.rows / piece.of;
    const Groups<T> groups{count, piece.of, first, 1};
    piece.g_panels = groups.panels_each();
    if (piece.features > 0) {
      piece.g = pack(walk_, piece.gradients, rounding_, groups);
      const std::int64_t tiles = rows * piece.g_panels * piece.a_panels;
      walk_.launch(jacobian_kernel<Tile>, grid_of_blocks(tiles), kTileBytes<T>, piece);
    }
    if (piece.ones) walk_.launch(bias_kernel<T>, grid_of_blocks(rows), 0, piece);
  }

  static constexpr std::int64_t kPieceBytes = std::int64_t{1} << 28;
  static constexpr std::int64_t kMostSlices = 64, kSlabsOfSlice = 16;

  KernelMatrix k_;
  Affine<T> rounding_;
  Walk walk_;
  std::int64_t most_ = 0;
};

template <class T>
std::int64_t run(const std::vector<Layer>& layers, const KernelMatrix& k, void* memory, Stream stream) {
  const bool tf32 =
      sizeof(T) == 4 && !layers.empty() && allow_tf32() && layers.front().views.g1.element == Element::f32;
  Grams<T> grams(k, tf32, memory, stream);
  for (const Layer& layer : layers) {
    if constexpr (sizeof(T) == 8)
      grams.template add<DmmaTile>(layer);
    else if (layer.views.g1.element == Element::f32 && !tf32)
      grams.template add<FmaTile>(layer);
    else
      grams.template add<Tf32Tile>(layer);
  }
  return grams.bytes();
}

}  // namespace

std::int64_t layers_gram_bytes(const std::vector<Layer>& layers, const KernelMatrix& k, bool wide) {
  return wide ? run<double>(layers, k, nullptr, nullptr) : run<float>(layers, k, nullptr, nullptr);
}

void layers_gram(const std::vector<Layer>& layers, const KernelMatrix& k, bool wide, void* memory, Stream stream) {
  wide ? run<double>(layers, k, memory, stream) : run<float>(layers, k, memory, stream);
}

}  // namespace gramian::cuda
