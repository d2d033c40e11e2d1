// gramian::gram_square_sum on CUDA.
#include "core/gram_square_sum_cuda.h"

#include "core/cuda.h"
#include "core/gram_square_sum.h"

namespace gramian {
namespace {

Tensor gram_square_sum_cuda(const Tensor& x, const Tensor& y) {
  const Element element = check_gram_square_sum(x, y);
  const cuda::OnDevice device(x);
  const Rows a = rows_of(x, element), b = rows_of(y, element);
  Tensor total = allocate(x, {}, compute_dtype(element));
  const Tensor memory = cuda::device_memory("gram_square_sum", x, cuda::gram_square_sum_bytes(a, b));
  cuda::gram_square_sum(a, b, memory.mutable_data_ptr(), total.mutable_data_ptr(), device.stream);
  return total;
}

}  // namespace

GRAMIAN_CUDA_OP(kGramSquareSumSchema, "gram_square_sum", &gram_square_sum_cuda)

}  // namespace gramian
