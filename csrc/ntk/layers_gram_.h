// gramian::ntk_layers_gram_, on every device: its schema, what it asks of its arguments, and the layers.
#pragma once
#include "ntk/layers.h"

namespace gramian {

constexpr const char* kLayersGramSchema =
    "ntk_layers_gram_(Tensor(a!) out, Tensor[] a1, Tensor[] g1, Tensor[] a2, Tensor[] g2, int[] bias, int[] route, "
    "bool trace, bool accumulate, int row, int col, bool mirror) -> ()";

// In the trace form layers may differ in the number of outputs, which are features. An a is [n, t, d_in], or on the CPU the images that its patches are read from (layers.h).
// `bias` has bit 0 for a constant feature and bit 1 where a holds class numbers for one-hot vectors.
// out is the whole kernel, [N, c, M, c] or in the trace form [N, 1, M, 1]; the block begins at samples (row, col). Without
// a second side the block is symmetric; with one, `mirror` writes its transpose at (col, row) too.
struct LayersGramCall {
  std::vector<Layer> layers;
  KernelMatrix matrix;

  LayersGramCall(const Tensor& out, const std::vector<Tensor>& a1, const std::vector<Tensor>& g1,
                 const std::vector<Tensor>& a2, const std::vector<Tensor>& g2, const std::vector<std::int64_t>& bias,
                 const std::vector<std::int64_t>& route, bool trace, bool accumulate, std::int64_t row,
                 std::int64_t col, bool mirror) {
    const std::size_t count = a1.size();
    const bool symmetric = a2.empty();
    if (count == 0) refuse(kOp, ": a1 must have at least one layer, got none");
    if (g1.size() != count || bias.size() != count || route.size() != count ||
        (!symmetric && (a2.size() != count || g2.size() != count)))
      refuse(kOp, ": g1, a2, g2, bias and route must have one entry for each of the ", count, " layers of a1");
    for (std::size_t l = 0; l < count; ++l) {
      check_layer(kOp, item("a1", l), a1[l], item("g1", l), g1[l], false);
      if (bias[l] < 0 || bias[l] > 3 || route[l] < 0 || route[l] > 1)
        refuse(kOp, ": bias must be 0 to 3 and route 0 or 1, got ", bias[l], " and ", route[l], " for layer ", l);
      if (features_of(a1[l], false) == 0 && bias[l] == 0)
        refuse(kOp, ": ", item("a1", l), " must have features unless bias is set, got shape ", shape_text(a1[l]));
      if ((bias[l] & 2) != 0 && (features_of(a1[l], false) != 1 || route[l] != 0))
        refuse(kOp, ": ", item("a1", l), " must have 1 feature and route 0 where it holds class numbers, got shape ",
               shape_text(a1[l]), " and route ", route[l]);
      if (symmetric) continue;
      check_layer(kOp, item("a2", l), a2[l], item("g2", l), g2[l], false);
      check_other_side(kOp, item("a2", l), a2[l], a1[l], item("g2", l), g2[l], g1[l], false);
    }
    const std::int64_t n = a1[0].size(0), m = symmetric ? n : a2[0].size(0), c = g1[0].size(1), kept = trace ? 1 : c;
    const ScalarType dtype = compute_dtype(element_of(kOp, "a1[0]", a1[0]));
    for (std::size_t l = 0; l < count; ++l) {
      if (a1[l].size(0) != n || (!trace && g1[l].size(1) != c) || (!symmetric && a2[l].size(0) != m))
        refuse(kOp, ": ", item("g1", l), " must have the samples and outputs of g1[0] ", shape_text(g1[0]),
               ", got shape ", shape_text(g1[l]));
      if (compute_dtype(element_of(kOp, "a1", a1[l])) != dtype)
        refuse(kOp, ": ", item("a1", l), " must have the precision of a1[0], got ", dtype_text(a1[l].scalar_type()));
    }
    if (out.dim() != 4 || out.size(1) != kept || out.size(3) != kept)
      refuse(kOp, ": out must be [N, ", kept, ", M, ", kept, "], got shape ", shape_text(out));
    if (out.scalar_type() != dtype)
      refuse(kOp, ": out must be ", dtype_text(dtype), ", got ", dtype_text(out.scalar_type()));
    if (!out.is_contiguous())
      refuse(kOp, ": out must be contiguous, got shape ", shape_text(out), " with other strides");
    if (row < 0 || col < 0 || row > out.size(0) - n || col > out.size(2) - m ||
        ((symmetric || mirror) && (col > out.size(0) - m || row > out.size(2) - n)) || (symmetric && row != col))
      refuse(kOp, ": row and col must place the ", n, " by ", m, " samples within out ", shape_text(out), ", got ", row,
             " and ", col);
    if (out.device() != a1[0].device()) refuse(kOp, ": out must be on the device of a1[0]");

    for (std::size_t l = 0; l < count; ++l)
      layers.push_back(layer_of(a1[l], g1[l], symmetric ? a1[l] : a2[l], symmetric ? g1[l] : g2[l], false, 0, trace,
                                (bias[l] & 1) != 0, (bias[l] & 2) != 0, static_cast<Route>(route[l])));
    const std::int64_t stride = out.size(2) * kept, value_bytes = dtype == ScalarType::Double ? 8 : 4;
    const auto at = [&](std::int64_t i, std::int64_t j) {
      return static_cast<char*>(out.mutable_data_ptr()) + (i * kept * stride + j * kept) * value_bytes;
    };
    matrix = {n * kept,  m * kept,   kept,         stride,
              symmetric, accumulate, at(row, col), symmetric || mirror ? at(col, row) : nullptr};
  }

 private:
  static constexpr const char* kOp = "layers_gram_";
  static std::string item(const char* name, std::size_t l) { return std::string(name) + "[" + std::to_string(l) + "]"; }
};

}  // namespace gramian
