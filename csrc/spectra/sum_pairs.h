// The pass of kernel_sum and ndft on the CPU: squared norms, values by columns, blocks of rows over threads.
#pragma once
#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "core/workspace.h"
#include "neighbors/moments_kernel.h"
#include "spectra/pair_sum.h"

namespace gramian {

// The order of the sums follows from the sizes alone.
template <class T>
Tensor pair_sum(const PairSumKernels<T>& kernel, const Tensor& x, const Tensor& y, const Tensor& values,
                Profile profile, bool slope) {
  constexpr std::int64_t kBytes = sizeof(T), kEnough = 16, kMostRows = 96;
  const Element element = sizeof(T) == 4 ? Element::f32 : Element::f64;
  const std::int64_t n = x.size(0), m = y.size(0), d = x.size(1), c = values.size(1);
  const std::int64_t outputs = profile == Profile::wave ? 2 : 1, chunks = block_count(m, kSumChunk),
                     padded = chunks * kSumChunk;
  Tensor out = empty_pair_sum(x, values, profile);
  if (n == 0 || m == 0 || c == 0) return out;

  const Workspace shared(1, (chunks * kernel.packed_size(kSumChunk, d) + c * padded + n + padded) * kBytes);
  T* const packed = static_cast<T*>(shared.of(0));
  T* const columns = packed + chunks * kernel.packed_size(kSumChunk, d);
  T* const x_norm = columns + c * padded;
  T* const y_norm = x_norm + n;
  const PairSum<T> p{rows_of(x, element), rows_of(y, element), profile, slope, x_norm, y_norm, columns, c, outputs};
  const Rows v = rows_of(values, element);
  run_pieces(chunks, 1, [&](std::int64_t chunk, std::int64_t, std::int64_t) {
    const std::int64_t begin = chunk * kSumChunk, end = std::min(m, begin + kSumChunk);
    kernel.pack(p, begin, end - begin, packed + begin * d);
    for (std::int64_t column = 0; column < c; ++column) {
      T* const to = columns + column * padded;
      const T* const from = static_cast<const T*>(v.data) + column * v.col_stride;
      for (std::int64_t j = begin; j < end; ++j) to[j] = from[j * v.row_stride];
      std::fill(to + end, to + begin + kSumChunk, T{0});
    }
  });
  if (profile != Profile::wave) {
    const auto measure = [&](const Rows& rows, T* to) {
      std::vector<double> norms(static_cast<std::size_t>(rows.rows));
      run_pieces(rows.rows, kSumChunk, [&](std::int64_t begin, std::int64_t end, std::int64_t) {
        GRAMIAN_KERNELS(moments).squared_norms(rows, begin, end, nullptr, 1.0, norms.data());
      });
      std::transform(norms.begin(), norms.end(), to, [](double norm) { return static_cast<T>(norm); });
    };
    measure(p.x, x_norm);
    measure(p.y, y_norm);
    std::fill(y_norm + m, y_norm + padded, T{0});
  }

  // Few rows of x are not enough for the threads: the rows of y are then cut too, and the parts added in their order.
  const std::int64_t block = c <= 16 ? kMostRows : c <= 64 ? kMostRows / 2 : kMostRows / 8;
  const std::int64_t blocks = block_count(n, block);
  const std::int64_t per_part = block_count(chunks, std::min(chunks, block_count(kEnough, blocks)));
  const std::int64_t parts = block_count(chunks, per_part), size = n * c;
  std::vector<double> totals(static_cast<std::size_t>(parts * outputs * size));
  const Workspace scratch(worker_count(blocks * parts), kernel.scratch(p, std::min(block, n)) * kBytes);
  run_pieces(blocks * parts, 1, [&](std::int64_t at, std::int64_t, std::int64_t worker) {
    const std::int64_t row = at % blocks * block, part = at / blocks;
    kernel.sum(p, packed, row, std::min(block, n - row), part * per_part, std::min(chunks, (part + 1) * per_part),
               static_cast<T*>(scratch.of(worker)), totals.data() + part * outputs * size + row * c, size);
  });
  T* const to = static_cast<T*>(out.mutable_data_ptr());
  for (std::int64_t i = 0; i < outputs * size; ++i) {
    double total = 0;
    for (std::int64_t part = 0; part < parts; ++part)
      total += totals[static_cast<std::size_t>(part * outputs * size + i)];
    to[i] = static_cast<T>(total);
  }
  return out;
}

inline Tensor pair_sum(const Tensor& x, const Tensor& y, const Tensor& values, Profile profile, bool slope) {
  return x.scalar_type() == ScalarType::Double
             ? pair_sum<double>(GRAMIAN_KERNELS(pair_sum_f64), x, y, values, profile, slope)
             : pair_sum<float>(GRAMIAN_KERNELS(pair_sum_f32), x, y, values, profile, slope);
}

}  // namespace gramian
