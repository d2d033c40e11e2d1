// The engine bare, one JSON line a case: FMA peak, the tile from L1, whole sweeps with a sum as epilogue, on one and two
// threads, peak and sweep in turns. Build: see benchmarks/README.md.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "core/probe_kernel.h"
#include "core/schedule.h"

using namespace gramian;

namespace {

double seconds_of(int threads, const auto& body) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&, t] { body(t); });
  body(0);
  for (auto& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

template <class T>
void bench(const ProbeKernels& probe) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr std::int64_t kRows = 4096;
  constexpr int kRounds = 7;
  const auto fma = kSingle ? probe.fma_f32 : probe.fma_f64;
  const auto tile = kSingle ? probe.tile_f32 : probe.tile_f64;
  for (const int threads : {1, 2})
    for (const std::int64_t d : {128, 512, 784}) {
      std::mt19937 generator(0);
      std::normal_distribution<T> normal;
      std::vector<T> x(static_cast<std::size_t>(kRows * d)), y(x.size());
      for (auto* side : {&x, &y})
        for (T& v : *side) v = normal(generator);
      const Rows a{x.data(), kRows, d, d, 1, kSingle ? Element::f32 : Element::f64};
      Rows b = a;
      b.data = y.data();
      const std::int64_t block = block_rows(kRows), blocks = block_count(kRows, block);
      std::vector<void*> scratch;
      for (int t = 0; t < threads; ++t) {
        const std::int64_t bytes = probe.square_sum_scratch(block, block, d, a.element);
        scratch.push_back(std::aligned_alloc(4096, static_cast<std::size_t>((bytes + 4095) / 4096 * 4096)));
      }
      double sum = 0;
      std::vector<double> peaks, tiles, sweeps;
      for (int round = 0; round < kRounds; ++round) {
        std::vector<double> flops(static_cast<std::size_t>(threads));
        double seconds = seconds_of(threads, [&](int t) { flops[static_cast<std::size_t>(t)] = fma(1 << 22); });
        peaks.push_back(flops[0] * threads / seconds);
        seconds = seconds_of(threads, [&](int t) {
          flops[static_cast<std::size_t>(t)] = tile(128, 1 << 15, scratch[static_cast<std::size_t>(t)]);
        });
        tiles.push_back(flops[0] * threads / seconds);
        Schedule schedule(Sweep::full, blocks, blocks);
        std::vector<double> sums(static_cast<std::size_t>(threads));
        seconds = seconds_of(threads, [&](int t) {
          for (BlockPair p{}; schedule.next(p); schedule.done(p))
            sums[static_cast<std::size_t>(t)] +=
                probe.square_sum(a, p.i * block, std::min(block, kRows - p.i * block), b, p.j * block,
                                 std::min(block, kRows - p.j * block), scratch[static_cast<std::size_t>(t)]);
        });
        for (const double s : sums) sum += s;
        sweeps.push_back(2.0 * kRows * kRows * static_cast<double>(d) / seconds);
      }
      std::printf(
          "{\"dtype\": \"%s\", \"threads\": %d, \"n\": %d, \"d\": %d, \"peak_gflops\": %.1f, \"tile_of_peak\": %.3f, "
          "\"sweep_gflops\": %.1f, \"sweep_of_peak\": %.3f, \"square_sum\": %.6e}\n",
          kSingle ? "float32" : "float64", threads, static_cast<int>(kRows), static_cast<int>(d), median(peaks) / 1e9,
          median(tiles) / median(peaks), median(sweeps) / 1e9, median(sweeps) / median(peaks), sum / kRounds);
      for (void* s : scratch) std::free(s);
    }
}

}  // namespace

int main() {
  const ProbeKernels& probe = GRAMIAN_KERNELS(probe);
  bench<float>(probe);
  bench<double>(probe);
  return 0;
}
