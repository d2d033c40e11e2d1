// gramian::ntk_layers_gram_: the Grams of many layers, summed into one block of a kernel matrix that is written once.
#include "ntk/layers_gram_.h"

#include "ntk/add_grams.h"

namespace gramian {
namespace {

void ntk_layers_gram_cpu(Tensor out, const std::vector<Tensor>& a1, const std::vector<Tensor>& g1,
                         const std::vector<Tensor>& a2, const std::vector<Tensor>& g2,
                         const std::vector<std::int64_t>& bias, const std::vector<std::int64_t>& route, bool trace,
                         bool accumulate, std::int64_t row, std::int64_t col, bool mirror) {
  const LayersGramCall call(out, a1, g1, a2, g2, bias, route, trace, accumulate, row, col, mirror);
  add_grams(call.layers, call.matrix, out);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kLayersGramSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("ntk_layers_gram_", GRAMIAN_BOX(&ntk_layers_gram_cpu)); }

}  // namespace gramian
