// Tangent-kernel Grams of layers whose weight gradient is a sum of outer products, J = sum_t g_t a_tᵀ.
#pragma once
#include "core/isa.h"
#include "core/rows.h"

namespace gramian {

// One layer, both sides. Rows of `a`: (sample, position); rows of `g`: (sample, output, position). With no features in
// `a` and `ones` set, the rows of `g` are the Jacobian itself.
struct LinearLayer {
  Rows a1, g1, a2, g2;
  std::int64_t positions;
  bool ones;   // `a` has one more feature, constantly 1: the bias
  bool equal;  // `a` has one feature, a class number that stands for a one-hot vector
};

// How a layer's Gram is computed; python/gramian/ntk.py chooses.
enum class Route : std::int64_t { hadamard = 0, materialise = 1 };

struct Layer {
  LinearLayer views;
  Route route;
};

// The kernel matrix of one call: [n, c] rows, [m, c] columns, `stride` values a row.
struct KernelMatrix {
  std::int64_t rows, cols, outputs, stride;
  bool symmetric, accumulate;
  void* out;
  void* mirror;  // where the transpose goes, or null
};

// Rows and columns of the kernel matrix are (sample, output) pairs.
struct GramBlock {
  std::int64_t outputs;
  std::int64_t row, rows, col, cols;
  bool upper;       // only pairs with col >= row are wanted (a block on the diagonal of a symmetric kernel)
  bool same_rows;   // the last call with this scratch memory had these rows and layers: they are packed already
  bool accumulate;  // add to what `out` holds
  void* out;        // the whole matrix, in the compute type
  void* mirror;     // the whole transposed matrix, or null
  std::int64_t stride;
};

struct LinearGramKernels {
  std::int64_t (*block_scratch)(const LinearLayer* layers, std::int64_t count, std::int64_t outputs, std::int64_t rows,
                                std::int64_t cols, bool wide);
  void (*block)(const LinearLayer* layers, std::int64_t count, const GramBlock& block, bool wide, void* scratch);
};

GRAMIAN_DECLARE_KERNELS(LinearGramKernels, linear_gram)

}  // namespace gramian
