// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ensemble/accumulate_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kChunk = 2048;  // columns: their sums and squares take 32 KiB, a model's piece two pages or less
constexpr std::int64_t kGroup = 24;    // most models that one visit to a chunk's sums serves

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
template <class T>
GRAMIAN_INLINE void add(const T* predictions, std::int64_t models, std::int64_t stride, const T* next, const T* target,
                        std::int64_t columns, double* sums, double* squares) {
  constexpr int kVectors = 64 / kVectorBytes;  // of a line of memory
  constexpr std::int64_t kStep = kVectors * kLanes<T>, kHalf = kLanes<double>;
  const double count = static_cast<double>(models);
  std::int64_t j = 0;
  for (; j + kStep <= columns; j += kStep) {
    Vec<T> reference[kVectors], sum[kVectors] = {}, square[kVectors] = {};
    for (int v = 0; v < kVectors; ++v) reference[v] = load(predictions + j + v * kLanes<T>);
    const T *from = predictions + j, *ahead = next + j;
    __builtin_prefetch(ahead, 0, 2);
    for (std::int64_t m = 1; m < models; ++m) {
      from += stride;
      ahead += stride;
      __builtin_prefetch(ahead, 0, 2);
      for (int v = 0; v < kVectors; ++v) {
        const Vec<T> e = load(from + v * kLanes<T>) - reference[v];
        sum[v] += e;
        square[v] += e * e;
      }
    }
    T apart[2][kStep];
    for (int v = 0; v < kVectors; ++v) {
      store(apart[0] + v * kLanes<T>, sum[v]);
      store(apart[1] + v * kLanes<T>, square[v]);
    }
    for (std::int64_t h = 0; h < kStep; h += kHalf) {
      const f64xN b = widen(predictions + j + h) - widen(target + j + h), s = widen(apart[0] + h);
      store(sums + j + h, load(sums + j + h) + (s + count * b));
      store(squares + j + h, load(squares + j + h) + (widen(apart[1] + h) + b * (2 * s + count * b)));
    }
  }
  for (; j < columns; ++j) {
    const T reference = predictions[j];
    T sum = 0, square = 0;
    for (std::int64_t m = 1; m < models; ++m) {
      const T e = predictions[m * stride + j] - reference;
      sum += e;
      square += e * e;
    }
    const double b = static_cast<double>(reference) - static_cast<double>(target[j]), s = static_cast<double>(sum);
    sums[j] += s + count * b;
    squares[j] += static_cast<double>(square) + b * (2 * s + count * b);
  }
}

// Sums alone, in float64: log-probabilities may be minus infinity, which has no difference.
template <class T>
GRAMIAN_INLINE void add(const T* predictions, std::int64_t models, std::int64_t stride, std::int64_t columns,
                        double* sums) {
  std::int64_t j = 0;
  for (; j + kLanes<double> <= columns; j += kLanes<double>) {
    f64xN sum = load(sums + j);
    for (std::int64_t m = 0; m < models; ++m) sum += widen(predictions + m * stride + j);
    store(sums + j, sum);
  }
  for (; j < columns; ++j)
    for (std::int64_t m = 0; m < models; ++m) sums[j] += static_cast<double>(predictions[m * stride + j]);
}

template <class T>
void accumulate(const AccumulateProblem<T>& problem, std::int64_t begin, std::int64_t end) {
  const std::int64_t last = end * problem.outputs, models = problem.models, stride = problem.model_stride;
  const std::int64_t groups = (models + kGroup - 1) / kGroup;  // of nearly equal size
  const auto first_of = [&](std::int64_t group) { return group * models / groups; };
  double squares[kChunk], square = 0;
  std::int64_t point = begin, left = problem.outputs;  // columns of `point` that are still to come
  for (std::int64_t at = begin * problem.outputs; at < last; at += kChunk) {
    const std::int64_t columns = last - at < kChunk ? last - at : kChunk;
    const T* const from = problem.predictions + at;
    double* const sums = problem.sums + at;
    if (problem.target == nullptr) {
      for (std::int64_t group = 0; group < groups; ++group)
        add(from + first_of(group) * stride, first_of(group + 1) - first_of(group), stride, columns, sums);
      continue;
    }
    for (std::int64_t j = 0; j < columns; ++j) squares[j] = 0;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t first = first_of(group), following = (group + 1) % groups;
      // The next visit: more models of these columns, or the first ones of the columns that follow.
      const T* const next = from + first_of(following) * stride + (following == 0 ? columns : 0);
      add(from + first * stride, first_of(group + 1) - first, stride, next, problem.target + at, columns, sums,
          squares);
    }
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
