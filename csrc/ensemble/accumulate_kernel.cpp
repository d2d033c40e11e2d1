// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ensemble/accumulate_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kChunk = 2048;  // columns: their sums and squares take 32 KiB, a model's piece two pages or less
constexpr int kGroup = 16;             // models that one visit to a chunk's sums serves

GRAMIAN_INLINE f64xN widen(const double* from) { return load(from); }

GRAMIAN_INLINE f64xN widen(const float* from) {
  using Half = float __attribute__((vector_size(kVectorBytes / 2)));
  Half v;
  __builtin_memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, f64xN);
}

// The deviations of a group are sums over e = p - r, r the prediction of its first model: e is in the type of the
// predictions, and what touches the target in float64. With b = r - y,
//   sum (p - y) = sum e + models b,   sum (p - y)^2 = sum e^2 + b (2 sum e + models b).
// The error is relative to the models' spread, not to their distance from the target: a rounding of sum e moves both sums
// so that it leaves sum (p - y)^2 - (sum (p - y))^2 / models. All in float64 costs twice the time (12 GB/s a core, not 25).
template <int kModels, class T>
GRAMIAN_INLINE void add(const T* predictions, std::int64_t stride, const T* next, const T* target, std::int64_t columns,
                        double* sums, double* squares) {
  constexpr std::int64_t kStep = kLanes<T>, kHalf = kLanes<double>;
  std::int64_t j = 0;
  for (; j + kStep <= columns; j += kStep) {
    const Vec<T> reference = load(predictions + j);
    Vec<T> sum = {}, square = {};
    __builtin_prefetch(next + j, 0, 2);
#pragma GCC unroll 16
    for (int m = 1; m < kModels; ++m) {
      __builtin_prefetch(next + m * stride + j, 0, 2);
      const Vec<T> e = load(predictions + m * stride + j) - reference;
      sum += e;
      square += e * e;
    }
    T apart[2][kLanes<T>];
    store(apart[0], sum);
    store(apart[1], square);
    for (std::int64_t h = 0; h < kStep; h += kHalf) {
      const f64xN b = widen(predictions + j + h) - widen(target + j + h), s = widen(apart[0] + h);
      store(sums + j + h, load(sums + j + h) + (s + kModels * b));
      store(squares + j + h, load(squares + j + h) + (widen(apart[1] + h) + b * (2 * s + kModels * b)));
    }
  }
  for (; j < columns; ++j) {
    const T reference = predictions[j];
    T sum = 0, square = 0;
    for (int m = 1; m < kModels; ++m) {
      const T e = predictions[m * stride + j] - reference;
      sum += e;
      square += e * e;
    }
    const double b = static_cast<double>(reference) - static_cast<double>(target[j]), s = static_cast<double>(sum);
    sums[j] += s + kModels * b;
    squares[j] += static_cast<double>(square) + b * (2 * s + kModels * b);
  }
}

// Sums alone, in float64: log-probabilities may be minus infinity, which has no difference.
template <int kModels, class T>
GRAMIAN_INLINE void add(const T* predictions, std::int64_t stride, std::int64_t columns, double* sums) {
  std::int64_t j = 0;
  for (; j + kLanes<double> <= columns; j += kLanes<double>) {
    f64xN sum = load(sums + j);
#pragma GCC unroll 16
    for (int m = 0; m < kModels; ++m) sum += widen(predictions + m * stride + j);
    store(sums + j, sum);
  }
  for (; j < columns; ++j)
    for (int m = 0; m < kModels; ++m) sums[j] += static_cast<double>(predictions[m * stride + j]);
}

template <class T>
void accumulate(const AccumulateProblem<T>& problem, std::int64_t begin, std::int64_t end) {
  const std::int64_t last = end * problem.outputs, stride = problem.model_stride;
  double squares[kChunk], square = 0;
  std::int64_t point = begin, left = problem.outputs;  // columns of `point` that are still to come
  for (std::int64_t at = begin * problem.outputs; at < last; at += kChunk) {
    const std::int64_t columns = last - at < kChunk ? last - at : kChunk;
    const T* from = problem.predictions + at;
    double* const sums = problem.sums + at;
    std::int64_t m = 0;
    if (problem.target == nullptr) {
      for (; m + kGroup <= problem.models; m += kGroup, from += kGroup * stride)
        add<kGroup>(from, stride, columns, sums);
      for (; m < problem.models; ++m, from += stride) add<1>(from, stride, columns, sums);
      continue;
    }
    const T* const target = problem.target + at;
    for (std::int64_t j = 0; j < columns; ++j) squares[j] = 0;
    const auto following = [&](int models) {  // where the next visit begins
      return m + models < problem.models ? from + models * stride : problem.predictions + at + columns;
    };
    for (; m + kGroup <= problem.models; m += kGroup, from += kGroup * stride)
      add<kGroup>(from, stride, following(kGroup), target, columns, sums, squares);
    for (; m + 8 <= problem.models; m += 8, from += 8 * stride)
      add<8>(from, stride, following(8), target, columns, sums, squares);
    for (; m + 3 <= problem.models; m += 3, from += 3 * stride)
      add<3>(from, stride, following(3), target, columns, sums, squares);
    for (; m < problem.models; ++m, from += stride) add<1>(from, stride, following(1), target, columns, sums, squares);
    for (std::int64_t j = 0; j < columns; ++j) {
      square += squares[j];
      if (--left == 0) {
        problem.squares[point++] += square;
        square = 0;
        left = problem.outputs;
      }
    }
  }
}

}  // namespace

extern const AccumulateKernels<float> accumulate_f32{accumulate<float>};
extern const AccumulateKernels<double> accumulate_f64{accumulate<double>};

}  // namespace gramian::GRAMIAN_ISA
