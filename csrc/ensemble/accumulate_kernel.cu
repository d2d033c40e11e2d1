// Sums over models on the device, in float64: bound by reading the predictions once. A point is a group of lanes, as many as its
// outputs take, at most a warp; a lane owns columns of the sums.
#include "core/device.cuh"
#include "ensemble/accumulate_cuda.h"

namespace gramian::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(AccumulateProblem<T> p, std::int64_t points, int lanes_each) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t point = thread / lanes_each;
  double square = 0;
  if (point < points)
    for (std::int64_t output = thread % lanes_each; output < p.outputs; output += lanes_each) {
      const std::int64_t at = point * p.outputs + output;
      const double target = p.target == nullptr ? 0 : static_cast<double>(p.target[at]);
      double sum = p.sums[at];
      for (std::int64_t model = 0; model < p.models; ++model) {
        const double deviation = static_cast<double>(p.predictions[model * p.model_stride + at]) - target;
        sum += deviation;
        square += deviation * deviation;
      }
      p.sums[at] = sum;
    }
  if (p.squares == nullptr) return;
  for (int half = lanes_each / 2; half > 0; half /= 2) square += __shfl_xor_sync(kAllLanes, square, half);
  if (point < points && thread % lanes_each == 0) p.squares[point] += square;
}

template <class T>
void run(const AccumulateProblem<T>& problem, std::int64_t points, Stream stream) {
  int lanes_each = 1;
  while (lanes_each < 32 && lanes_each < problem.outputs) lanes_each *= 2;
  const std::int64_t blocks = (points * lanes_each + kThreads - 1) / kThreads;
  launch(accumulate_kernel<T>, grid_of_blocks(blocks), 0, stream, problem, points, lanes_each);
}

}  // namespace

void accumulate(const AccumulateProblem<float>& problem, std::int64_t points, Stream stream) {
  run(problem, points, stream);
}
void accumulate(const AccumulateProblem<double>& problem, std::int64_t points, Stream stream) {
  run(problem, points, stream);
}

}  // namespace gramian::cuda
