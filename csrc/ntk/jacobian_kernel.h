// Gradients of samples, formed from their factors into panels, and the products of all pairs of them.
//
// A panel holds some parameters' gradients of as many rows, (sample, output), as a vector has lanes: a vector for each
// parameter. The same panels are rows and columns of the product, so what is formed is never packed.
#pragma once
#include "ntk/linear_gram_kernel.h"

namespace gramian {

// Some features of g times some of a, of which the one after the last is 1, the bias. They begin at vector `at` of every panel.
struct JacobianPiece {
  Rows a, g;
  std::int64_t outputs, positions;
  std::int64_t g_first, g_count, a_first, a_count;
  std::int64_t at;
};

struct JacobianPanels {
  void* values;
  std::int64_t stride;  // vectors from one panel to the next
};

// How a piece of so many features of a lies in a panel: `inner` vectors for each feature of g, of which `group` are formed at once.
struct PanelLayout {
  std::int64_t inner, group;
};

struct JacobianKernels {
  std::int64_t (*panel_rows)(bool wide);
  std::int64_t (*panel_stride)(std::int64_t depth);  // for panels of so many vectors
  PanelLayout (*layout)(std::int64_t a_count, bool wide);
  std::int64_t (*form_scratch)(const JacobianPiece& piece, bool wide);
  void (*form)(const JacobianPiece& piece, std::int64_t panel, const JacobianPanels& panels, bool wide, void* scratch);
  std::int64_t (*product_scratch)(std::int64_t rows, std::int64_t cols, bool wide);
  // Vectors [first, first + count) of all panels; block.row and block.col begin panels.
  void (*product)(const JacobianPanels& x, const JacobianPanels& y, std::int64_t first, std::int64_t count,
                  const GramBlock& block, bool wide, void* scratch);
};

GRAMIAN_DECLARE_KERNELS(JacobianKernels, jacobian)

}  // namespace gramian
