// Compiled once per instruction set; no standard library here (see lanes.h).
#include "ensemble/accumulate_kernel.h"

#include "core/lanes.h"

namespace gramian::GRAMIAN_ISA {
namespace {

constexpr std::int64_t kChunk = 8192;  // bytes of a model's columns that are read in one run, two pages or less
constexpr std::int64_t kTogether = 4;  // models that are read side by side
constexpr std::int64_t kGroup = 32;    // most models between two visits to the sums in float64, a multiple of kTogether

GRAMIAN_INLINE f64xN widen(const double* from) { return load(from); }

GRAMIAN_INLINE f64xN widen(const float* from) {
  using Half = float __attribute__((vector_size(kVectorBytes / 2)));
  Half v;
  __builtin_memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, f64xN);
}

// sum += e and square += e^2 of kModels models, e = p - r. Their columns lie far apart: those of `next`, which are wanted after
// these, are asked for beside them. One model at a time reads at half the speed, and so does a line of each of 24 in turns.
template <class T, int kModels>
GRAMIAN_INLINE void add_models(const T* reference, const T* from, std::int64_t stride, const T* next,
                               std::int64_t columns, T* sum, T* square) {
  constexpr int kLine = 64 / kVectorBytes;  // vectors of a line of memory
  std::int64_t j = 0;
  for (; j + kLine * kLanes<T> <= columns; j += kLine * kLanes<T>) {
#pragma GCC unroll 4
    for (int m = 0; m < kModels; ++m) __builtin_prefetch(next + m * stride + j, 0, 2);
#pragma GCC unroll 4
    for (std::int64_t at = j; at < j + kLine * kLanes<T>; at += kLanes<T>) {
      const Vec<T> r = load(reference + at);
      Vec<T> s = load(sum + at), q = load(square + at);
#pragma GCC unroll 4
      for (int m = 0; m < kModels; ++m) {
        const Vec<T> e = load(from + m * stride + at) - r;
        s += e;
        q += e * e;
      }
      store(sum + at, s);
      store(square + at, q);
    }
  }
  for (; j < columns; ++j)
    for (int m = 0; m < kModels; ++m) {
      const T e = from[m * stride + j] - reference[j];
      sum[j] += e;
      square[j] += e * e;
    }
}

// The deviations of a group are sums over e = p - r, r the prediction of its first model: e is in the type of the
// predictions, and what touches the target in float64. With b = r - y,
//   sum (p - y) = sum e + models b,   sum (p - y)^2 = sum e^2 + b (2 sum e + models b).
// The error is relative to the models' spread, not to their distance from the target: a rounding of sum e moves both sums
// so that it leaves sum (p - y)^2 - (sum (p - y))^2 / models.
template <class T>
GRAMIAN_INLINE void add_group(const T* predictions, std::int64_t models, std::int64_t stride, const T* next,
                              const T* target, std::int64_t columns, double* sums, double* squares) {
  constexpr std::int64_t kMost = kChunk / sizeof(T);
  T sum[kMost], square[kMost];
  for (std::int64_t j = 0; j < columns; ++j) sum[j] = square[j] = 0;
  std::int64_t m = 0;
  for (; m + kTogether <= models; m += kTogether) {
    const T* const from = predictions + m * stride;
    const bool last = m + 2 * kTogether > models;
    add_models<T, kTogether>(predictions, from, stride, last ? next : from + kTogether * stride, columns, sum, square);
  }
  for (; m < models; ++m) add_models<T, 1>(predictions, predictions + m * stride, stride, next, columns, sum, square);
  const double count = static_cast<double>(models);
  std::int64_t j = 0;
  for (; j + kLanes<double> <= columns; j += kLanes<double>) {
    const f64xN b = widen(predictions + j) - widen(target + j), s = widen(sum + j);
    store(sums + j, load(sums + j) + (s + count * b));
    store(squares + j, load(squares + j) + (widen(square + j) + b * (2 * s + count * b)));
  }
  for (; j < columns; ++j) {
    const double b = static_cast<double>(predictions[j]) - static_cast<double>(target[j]);
    const double s = static_cast<double>(sum[j]);
    sums[j] += s + count * b;
    squares[j] += static_cast<double>(square[j]) + b * (2 * s + count * b);
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
  const std::int64_t groups = (models + kGroup - 1) / kGroup;
  const auto first_of = [&](std::int64_t group) { return group < groups ? group * kGroup : models; };
  constexpr std::int64_t kMost = kChunk / sizeof(T);
  double squares[kMost], square = 0;
  std::int64_t point = begin, left = problem.outputs;  // columns of `point` that are still to come
  for (std::int64_t at = begin * problem.outputs; at < last; at += kMost) {
    const std::int64_t columns = last - at < kMost ? last - at : kMost;
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
      add_group(from + first * stride, first_of(group + 1) - first, stride, next, problem.target + at, columns, sums,
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
