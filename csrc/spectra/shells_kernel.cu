// Sums over shells on the device. A warp owns a histogram and walks its modes 32 at a time; lanes of one shell are added
// in a fixed order, so no addition waits for chance. A second pass adds the histograms in their order.
#include "spectra/shells_cuda.h"

#include <algorithm>

#include "core/walk.cuh"

namespace gramian::cuda {
namespace {

// A warp takes 2^13 modes or more, and few enough warps share the work that their histograms stay small.
constexpr std::int64_t kModesEach = 1 << 13, kMostWarps = 1 << 12, kRangeBlocks = 1 << 10;

__global__ void __launch_bounds__(kThreads)
    range_kernel(const std::int32_t* shell, std::int64_t count, ShellRange* range) {
  ShellRange mine{0, 0};
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    mine.least = shell[i] < mine.least ? shell[i] : mine.least;
    mine.most = shell[i] > mine.most ? shell[i] : mine.most;
  }
  mine = {warp_min(mine.least), warp_max(mine.most)};
  if (lane_index() != 0) return;
  atomicMin(&range->least, mine.least);
  atomicMax(&range->most, mine.most);
}

GRAMIAN_DEVICE bool within(const ShellRange& range, std::int64_t shells) {
  return range.least >= 0 && range.most < shells;
}

// Where the table has the shell of a mode, counted through all axes.
template <class T>
GRAMIAN_DEVICE std::int64_t table_index(const ShellSum<T>& p, std::int64_t mode) {
  std::int64_t at = 0, stride = 1;
  GRAMIAN_UNROLL  // an index that varies would put the sizes into local memory
      for (int a = kMostAxes - 1; a >= 0; --a) {
    if (a >= p.axes) continue;
    const std::int64_t n = p.n[a], k = mode % n;
    const bool folded = a == p.axes - 1 && p.modes.fold != Fold::none;
    mode /= n;
    at += (folded || 2 * k <= n ? k : n - k) * stride;
    stride *= folded ? n : n / 2 + 1;
  }
  return at;
}

// How often a mode counts: its conjugate, where that is not kept, is a second one.
GRAMIAN_DEVICE int weight_of(Fold fold, std::int64_t last, std::int64_t at) {
  if (fold == Fold::none || at == 0) return 1;
  return fold == Fold::even && at == last - 1 ? 1 : 2;
}

// Warps by item and part. sums [items, parts, shells, kParts].
template <class T, bool kCross>
__global__ void __launch_bounds__(kThreads) shells_kernel(ShellSum<T> p, const ShellRange* range, std::int64_t modes,
                                                          std::int64_t items, std::int64_t parts, double* sums) {
  constexpr int kParts = kCross ? 2 : 1;
  const std::int64_t warp = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_index();
  if (warp >= items * parts || !within(*range, p.shells)) return;
  const std::int64_t item = warp / parts, part = warp % parts;
  const std::int64_t begin = part * modes / parts, end = (part + 1) * modes / parts;
  double* const histogram = sums + warp * p.shells * kParts;
  for (std::int64_t s = lane_index(); s < p.shells * kParts; s += 32) histogram[s] = 0;
  __syncwarp();
  for (std::int64_t first = begin; first < end; first += 32) {
    const std::int64_t k = first + lane_index(), at = item * modes + k;
    bool waiting = k < end;
    std::int32_t shell = 0;
    double power[kParts] = {};
    if (waiting) {
      shell = p.shell[table_index(p, k)];
      const T weight = static_cast<T>(weight_of(p.modes.fold, p.modes.last, k % p.modes.last));
      const T re = p.modes.x[2 * at], im = p.modes.x[2 * at + 1];
      if constexpr (kCross) {
        const T other_re = p.modes.y[2 * at], other_im = p.modes.y[2 * at + 1];
        power[0] = static_cast<double>(weight * (re * other_re + im * other_im));
        power[1] = static_cast<double>(weight * (im * other_re - re * other_im));
      } else {
        power[0] = static_cast<double>(weight * (re * re + im * im));
      }
    }
    for (unsigned lanes = __ballot_sync(kAllLanes, waiting); lanes != 0; lanes = __ballot_sync(kAllLanes, waiting)) {
      const std::int32_t current = __shfl_sync(kAllLanes, shell, __ffs(static_cast<int>(lanes)) - 1);
      const bool mine = waiting && shell == current;
      GRAMIAN_UNROLL
      for (int i = 0; i < kParts; ++i) {
        const double total = warp_sum(mine ? power[i] : 0.0);
        if (lane_index() == 0) histogram[current * kParts + i] += total;
      }
      waiting = waiting && !mine;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_shells_kernel(const double* sums, const ShellRange* range, std::int64_t shells, std::int64_t items,
                       std::int64_t parts, std::int64_t size, T* out) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= items * size) return;
  const double* const from = sums + at / size * parts * size + at % size;
  double total = 0;
  for (std::int64_t part = 0; part < parts; ++part) total += from[part * size];
  out[at] = within(*range, shells) ? static_cast<T>(total) : kNaN<T>;
}

template <class T>
std::int64_t run(const ShellSum<T>& p, const ShellRange* range, std::int64_t modes, std::int64_t batch, void* memory,
                 T* out, Stream stream) {
  Walk walk(memory, stream);
  const std::int64_t size = p.shells * (p.modes.y == nullptr ? 1 : 2);
  const std::int64_t parts =
      std::clamp<std::int64_t>(modes / kModesEach, 1, std::max<std::int64_t>(1, kMostWarps / batch));
  double* const sums = walk.take<double>(batch * parts * size);
  walk.launch(p.modes.y == nullptr ? shells_kernel<T, false> : shells_kernel<T, true>,
              grid_of_blocks((batch * parts + kWarps - 1) / kWarps), 0, p, range, modes, batch, parts, sums);
  walk.launch(join_shells_kernel<T>, grid_of_threads(batch * size), 0, sums, range, p.shells, batch, parts, size, out);
  return walk.bytes();
}

}  // namespace

void find_shell_range(const std::int32_t* shell, std::int64_t count, ShellRange* range, Stream stream) {
  set_zero(range, sizeof *range, stream);
  launch(range_kernel, grid_of_blocks(std::min((count + kThreads - 1) / kThreads, kRangeBlocks)), 0, stream, shell,
         count, range);
}

template <class T>
std::int64_t shells_bytes(const ShellSum<T>& p, std::int64_t modes, std::int64_t batch) {
  return run<T>(p, nullptr, modes, batch, nullptr, nullptr, nullptr);
}

template <class T>
void shells(const ShellSum<T>& p, const ShellRange* range, std::int64_t modes, std::int64_t batch, void* memory, T* out,
            Stream stream) {
  run(p, range, modes, batch, memory, out, stream);
}

template std::int64_t shells_bytes<float>(const ShellSum<float>&, std::int64_t, std::int64_t);
template std::int64_t shells_bytes<double>(const ShellSum<double>&, std::int64_t, std::int64_t);
template void shells<float>(const ShellSum<float>&, const ShellRange*, std::int64_t, std::int64_t, void*, float*,
                            Stream);
template void shells<double>(const ShellSum<double>&, const ShellRange*, std::int64_t, std::int64_t, void*, double*,
                             Stream);

}  // namespace gramian::cuda
