// Compiled once per instruction set; no standard library here (see lanes.h).
#include "core/probe_kernel.h"

#include "core/sweep.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
double fma(std::int64_t steps) {
  constexpr int kChains = kRegisters == 32 ? 24 : 12;
  Vec<T> chain[kChains];
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) chain[c] = broadcast(static_cast<T>(c));
  const Vec<T> factor = broadcast(static_cast<T>(0.5)), term = broadcast(static_cast<T>(1));
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) {
      chain[c] = chain[c] * factor + term;
#if defined(__aarch64__)
      asm volatile("" : "+w"(chain[c]));
#elif defined(GRAMIAN_WIDE)
      asm volatile("" : "+m"(chain[c]));
#else
      asm volatile("" : "+v"(chain[c]));  // or the loop would be folded away
#endif
    }
  }
  return 2.0 * kChains * kLanes<T> * static_cast<double>(steps);
}

#if defined(__AVX512F__)
double fma_bf16(std::int64_t steps) {
  constexpr int kChains = 24;
  f32xN chain[kChains] = {};
  const f32xN pairs = {};
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(chain[c]) : "v"(pairs));
  }
  return 4.0 * kChains * kLanes<float> * static_cast<double>(steps);
}
#else
constexpr double (*fma_bf16)(std::int64_t) = nullptr;
#endif

template <class T>
double tile(std::int64_t depth, std::int64_t repeats, void* scratch) {
  T* rows = static_cast<T*>(scratch);
  T* cols = rows + depth * kTileRows<T>;
  T* out = cols + depth * kTileCols<T>;
  for (std::int64_t r = 0; r < repeats; ++r) {
    multiply_tile(rows, cols, depth, false, out);
    asm volatile("" ::: "memory");
  }
  return 2.0 * kTileRows<T> * kTileCols<T> * static_cast<double>(depth * repeats);
}

template <class T>
double square_sum_of(const Rows& x, std::int64_t x_row, std::int64_t x_rows, const Rows& y, std::int64_t y_row,
                     std::int64_t y_rows, void* scratch) {
  T* x_packed = static_cast<T*>(scratch);
  T* y_packed = x_packed + packed_size<T, kTileRows<T>>(x_rows, x.cols);
  T* partial = y_packed + packed_size<T, kTileCols<T>>(y_rows, y.cols);
  pack_block<T, kTileRows<T>>(x, x_row, x_rows, {}, x_packed);
  pack_block<T, kTileCols<T>>(y, y_row, y_rows, {}, y_packed);
  f64xN total = {};
  sweep_block(Block<T>{x_packed, x_row, x_rows}, Block<T>{y_packed, y_row, y_rows}, x.cols, Region::full, partial,
              [&](const Tile<T>& t) {
                Vec<T> squares = {};  // padding is zero, so the whole tile counts
#pragma GCC unroll 32
                for (int r = 0; r < 2 * kTileRows<T>; ++r) {
                  const Vec<T> v = load(t.values + r * kLanes<T>);
                  squares += v * v;
                }
                T lane[kLanes<T>];
                store(lane, squares);
                for (int l = 0; l < kLanes<T>; ++l) total[l % kLanes<double>] += lane[l];
              });
  return sum<double>(total);
}

std::int64_t square_sum_scratch(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth, Element element) {
  const auto size = [=](auto zero) {
    using T = decltype(zero);
    return static_cast<std::int64_t>(sizeof(T)) *
           (packed_size<T, kTileRows<T>>(x_rows, depth) + packed_size<T, kTileCols<T>>(y_rows, depth) +
            partial_size<T>(x_rows, y_rows, depth));
  };
  return element == Element::f64 ? size(0.0) : size(0.0F);
}

double square_sum(const Rows& x, std::int64_t x_row, std::int64_t x_rows, const Rows& y, std::int64_t y_row,
                  std::int64_t y_rows, void* scratch) {
  return x.element == Element::f64 ? square_sum_of<double>(x, x_row, x_rows, y, y_row, y_rows, scratch)
                                   : square_sum_of<float>(x, x_row, x_rows, y, y_row, y_rows, scratch);
}

}  // namespace

extern const ProbeKernels probe{fma<float>,   fma<double>,        fma_bf16,  tile<float>,
                                tile<double>, square_sum_scratch, square_sum};

}  // namespace gramian::GRAMIAN_ISA
