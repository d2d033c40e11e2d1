// gramian::ntk_linear_gram: the tangent-kernel Gram of one layer, K[n, c, m, e] = <sum_t g a, sum_s g' a'>.
#include "ntk/linear_gram.h"

#include "ntk/add_grams.h"

namespace gramian {
namespace {

Tensor ntk_linear_gram_cpu(const Tensor& a1, const Tensor& g1, const std::optional<Tensor>& a2,
                           const std::optional<Tensor>& g2, bool bias, bool trace, bool materialise) {
  const LinearGramCall call(a1, g1, a2, g2, bias, trace, materialise);
  Tensor out = allocate(a1, call.shape, compute_dtype(call.element));
  for (std::int64_t batch = 0; batch < call.batches; ++batch)
    add_grams({call.layer(batch)}, call.matrix(out, batch), out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gramian, m) { m.def(kLinearGramSchema); }
STABLE_TORCH_LIBRARY_IMPL(gramian, CPU, m) { m.impl("ntk_linear_gram", GRAMIAN_BOX(&ntk_linear_gram_cpu)); }

}  // namespace gramian
