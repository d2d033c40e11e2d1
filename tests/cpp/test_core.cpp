// The per-level headers of csrc/core, compiled for one level: lanes, packing, tile, sweep, bfloat16 panels, vector math.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/bf16.h"
#include "core/sweep.h"
#include "core/vmath.h"

using namespace gramian;
using namespace gramian::GRAMIAN_ISA;

namespace {

std::mt19937_64 generator(0);

template <class T>
std::vector<T> normal(std::int64_t count) {
  std::normal_distribution<double> distribution;
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& v : values) v = static_cast<T>(distribution(generator));
  return values;
}

// Exactly `count` values on the heap: AddressSanitizer sees one read or written too many.
template <class T>
std::unique_ptr<T[]> exact_size(std::int64_t count) {
  return std::make_unique<T[]>(static_cast<std::size_t>(count));
}

template <class T>
constexpr Element kElement = sizeof(T) == 4 ? Element::f32 : Element::f64;

template <class T>
void test_lanes() {
  const auto values = normal<T>(kLanes<T>);
  const Vec<T> v = load(values.data());
  double total = 0;
  for (const T x : values) total += x;
  CHECK(std::abs(sum<T>(v) - total) < 1e-5, sum<T>(v), total);
  const std::uint32_t mask = at_least(v, broadcast(values[1]));
  for (int l = 0; l < kLanes<T>; ++l) CHECK((mask >> l & 1) == (values[l] >= values[1]), l);
  CHECK(std::signbit(broadcast(static_cast<T>(-0.0))[0]), "the sign of zero");
}

template <class T, int kWidth>
void test_pack(std::int64_t rows, std::int64_t cols, std::int64_t row_stride, std::int64_t col_stride, bool affine) {
  const std::int64_t extent = rows == 0 || cols == 0 ? 0 : (rows - 1) * row_stride + (cols - 1) * col_stride + 1;
  const auto data = exact_size<T>(extent), shift = exact_size<T>(cols), scale = exact_size<T>(rows);
  for (std::int64_t e = 0; e < extent; ++e) data[e] = static_cast<T>(e % 1013);
  for (std::int64_t c = 0; c < cols; ++c) shift[c] = static_cast<T>(c % 7);
  for (std::int64_t r = 0; r < rows; ++r) scale[r] = static_cast<T>(1 << r % 4);
  const Rows source{data.get(), rows, cols, row_stride, col_stride, kElement<T>};
  const auto packed = exact_size<T>(packed_size<T, kWidth>(rows, cols));
  pack_block<T, kWidth>(source, 0, rows, affine ? Affine<T>{shift.get(), scale.get()} : Affine<T>{}, packed.get());
  const T* panel = packed.get();
  for (std::int64_t first = 0; first < cols; first += kSlab<T>) {
    const std::int64_t depth = std::min(kSlab<T>, cols - first);
    for (std::int64_t r = 0; r < rows; r += kWidth, panel += depth * kWidth)
      for (std::int64_t k = 0; k < depth; ++k)
        for (int w = 0; w < kWidth; ++w) {
          T expected = 0;
          if (r + w < rows) {
            expected = data[(r + w) * row_stride + (first + k) * col_stride];
            if (affine) expected = (expected - shift[first + k]) * scale[r + w];
          }
          CHECK(panel[k * kWidth + w] == expected, r + w, first + k, panel[k * kWidth + w], expected);
        }
  }
}

template <class T>
void test_pack_shapes() {
  const std::int64_t wide = kSlab<T> + 5;
  for (const bool affine : {false, true})
    for (const std::int64_t rows : {0, 1, kTileRows<T> - 1, kTileRows<T>, kTileCols<T> + 1})
      for (const std::int64_t cols :
           {std::int64_t{0}, std::int64_t{1}, std::int64_t{kLanes<T>}, std::int64_t{19}, wide}) {
        test_pack<T, kTileRows<T>>(rows, cols, cols, 1, affine);
        test_pack<T, kTileCols<T>>(rows, cols, cols + 3, 1, affine);
        test_pack<T, kTileCols<T>>(rows, cols, 1, std::max<std::int64_t>(rows, 1), affine);  // transposed
        test_pack<T, kTileRows<T>>(rows, cols, 2 * cols, 2, affine);                         // every other column
        test_pack<T, kTileRows<T>>(rows, cols, 0, 1, affine);                                // expanded
      }
}

void test_half_types() {
  const std::uint16_t bf16[] = {0x3F80, 0xC000, 0x4049, 0x0001};  // 1, -2, 3.140625, the smallest subnormal
  const std::uint16_t f16[] = {0x3C00, 0xC000, 0x4248, 0x0001};   // 1, -2, 3.140625, 2^-24
  const float expected[2][4] = {{1, -2, 3.140625F, 0x1p-133F}, {1, -2, 3.140625F, 0x1p-24F}};
  for (int type = 0; type < 2; ++type) {
    const Rows source{type == 0 ? bf16 : f16, 1, 4, 4, 1, type == 0 ? Element::bf16 : Element::f16};
    const Vec<float> v = load_features<float>(source, 0, 0, 4);
    for (int l = 0; l < 4; ++l) CHECK(v[l] == expected[type][l], type, l, v[l]);
  }
}

// Every pair of the region once, none twice, and its product right; packed with exact sizes.
template <class T>
void test_sweep(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth, Region region, std::int64_t x_first,
                std::int64_t y_first) {
  const auto x = normal<T>(x_rows * depth), y = normal<T>(y_rows * depth);
  const auto x_packed = exact_size<T>(packed_size<T, kTileRows<T>>(x_rows, depth));
  const auto y_packed = exact_size<T>(packed_size<T, kTileCols<T>>(y_rows, depth));
  const auto partial = exact_size<T>(partial_size<T>(x_rows, y_rows, depth));
  pack_block<T, kTileRows<T>>({x.data(), x_rows, depth, depth, 1, kElement<T>}, 0, x_rows, {}, x_packed.get());
  pack_block<T, kTileCols<T>>({y.data(), y_rows, depth, depth, 1, kElement<T>}, 0, y_rows, {}, y_packed.get());
  std::vector<int> visits(static_cast<std::size_t>(x_rows * y_rows));
  sweep_block(Block<T>{x_packed.get(), x_first, x_rows}, Block<T>{y_packed.get(), y_first, y_rows}, depth, region,
              partial.get(), [&](const Tile<T>& t) {
                for (int r = 0; r < t.rows; ++r)
                  for (int c = 0; c < t.cols; ++c) {
                    const std::int64_t i = t.row - x_first + r, j = t.col - y_first + c;
                    ++visits[static_cast<std::size_t>(i * y_rows + j)];
                    long double exact = 0, size = 0;
                    for (std::int64_t k = 0; k < depth; ++k) {
                      const long double term = static_cast<long double>(x[i * depth + k]) * y[j * depth + k];
                      exact += term;
                      size += std::abs(term);
                    }
                    const T value = t.values[r * kTileCols<T> + c];
                    const long double bound = (depth + 1) * std::numeric_limits<T>::epsilon() * size / 2;
                    CHECK(std::abs(value - exact) <= bound, i, j, value, exact);
                  }
              });
  for (std::int64_t i = 0; i < x_rows; ++i)
    for (std::int64_t j = 0; j < y_rows; ++j) {
      const int seen = visits[static_cast<std::size_t>(i * y_rows + j)];
      const std::int64_t row = x_first + i, col = y_first + j;
      const bool wanted = region == Region::full || (region == Region::upper ? col >= row : col < row);
      CHECK(seen == 1 || (!wanted && seen == 0), row, col, seen);
    }
}

template <class T>
void test_sweeps() {
  for (const Region region : {Region::full, Region::upper, Region::lower})
    for (const std::int64_t depth : {std::int64_t{0}, std::int64_t{1}, std::int64_t{37}, kSlab<T> + 3}) {
      test_sweep<T>(0, 5, depth, region, 0, 0);
      test_sweep<T>(1, 1, depth, region, 0, 0);
      test_sweep<T>(kTileRows<T> + 1, kTileCols<T> - 1, depth, region, 0, 0);
      test_sweep<T>(101, 67, depth, region, 0, 0);
      test_sweep<T>(30, 70, depth, region, 96, 0);
      test_sweep<T>(30, 70, depth, region, 0, 96);
    }
}

void test_bf16() {
  for (int n = 0; n < 100000; ++n) {
    std::uint32_t word = static_cast<std::uint32_t>(generator());
    if ((word >> 23 & 0xFF) == 0xFF) word ^= 1U << 30;  // no infinities or NaN
    float value;
    std::memcpy(&value, &word, sizeof value);
    const float rounded = bf16_round(broadcast(value))[0];
    std::uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    CHECK((bits & 0xFFFF) == 0, value, rounded);
    const std::uint32_t low = word & 0xFFFF0000, up = low + 0x10000;
    float below, above;
    std::memcpy(&below, &low, sizeof below);
    std::memcpy(&above, &up, sizeof above);
    if (std::isinf(above)) continue;
    const long double down = std::abs(static_cast<long double>(value) - below),
                      high = std::abs(above - static_cast<long double>(value));
    CHECK(rounded == (down < high || (down == high && (low >> 16 & 1) == 0) ? below : above), value, rounded);
  }
  constexpr int kWidth = kTileRows<float>;
  const std::int64_t rows = kWidth + 1, cols = 2 * kSlab<float> + 3;
  const auto x = normal<float>(rows * cols);
  const auto packed = exact_size<Bf16Pair>(round_up(rows, kWidth) * (cols + 1) / 2);
  const auto unrounded = exact_size<float>(kSlab<float> * kWidth);
  pack_block_bf16<kWidth>({x.data(), rows, cols, cols, 1, Element::f32}, 0, rows, {}, unrounded.get(), packed.get());
  const std::int64_t slab = kSlab<float>;  // pairs
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t k = 0; k < cols; ++k) {
      const std::int64_t pair = k / 2, first = pair / slab * slab, depth = std::min(slab, (cols + 1) / 2 - first);
      const std::uint32_t word =
          packed[first * round_up(rows, kWidth) + r / kWidth * depth * kWidth + (pair - first) * kWidth + r % kWidth]
              .word;
      const std::uint32_t bits = k % 2 == 0 ? word << 16 : word & 0xFFFF0000;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      CHECK(value == bf16_round(broadcast(x[r * cols + k]))[0], r, k, value);
    }
#if defined(__AVX512F__)
  if (!__builtin_cpu_supports("avx512bf16")) return;
  constexpr int kRows = kTileRows<float>, kCols = kTileCols<float>;
  std::vector<Bf16Pair> a(33 * kRows), b(33 * kCols);
  for (auto* side : {&a, &b})
    for (Bf16Pair& p : *side)
      p.word = static_cast<std::uint32_t>(generator()) % 2 ? 0x3F804000 : 0xC0003F80;  // (2, 1), (1, -2)
  alignas(64) float tile[kRows * kCols] = {};
  multiply_tile(a.data(), b.data(), 33, false, tile);
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) {
      float exact = 0;
      for (int k = 0; k < 33; ++k) {
        const bool same = a[k * kRows + r].word == b[k * kCols + c].word;
        exact += same ? 5 : 0;
      }
      CHECK(tile[r * kCols + c] == exact, r, c, tile[r * kCols + c], exact);
    }
#endif
}

// |got - exact| in units in the last place of exact (of the smallest normal for subnormal results).
template <class T>
double ulps(T got, long double exact) {
  const T rounded = static_cast<T>(exact);
  if (std::isnan(rounded)) return std::isnan(got) ? 0 : 1e30;
  if (got == rounded) return 0;
  if (std::isinf(rounded) || std::isinf(got)) {
    const T largest = std::numeric_limits<T>::max();
    return std::abs(got) >= largest && std::abs(rounded) >= largest ? 1 : 1e30;
  }
  const T size = std::max(std::abs(rounded), std::numeric_limits<T>::min());
  const T ulp = std::nextafter(size, std::numeric_limits<T>::infinity()) - size;
  return static_cast<double>(std::abs(got - exact) / ulp);
}

template <class T, class Function, class Exact, class Draw>
void test_function(const char* name, double most, Function function, Exact exact, Draw draw) {
  double worst = 0;
  T at = 0;
  for (int n = 0; n < 200000; n += kLanes<T>) {
    T x[kLanes<T>], y[kLanes<T>];
    for (T& v : x) v = draw();
    store(y, function(load(x)));
    for (int l = 0; l < kLanes<T>; ++l) {
      const double error = ulps<T>(y[l], exact(static_cast<long double>(x[l])));
      if (!(error <= worst)) worst = error, at = x[l];
    }
  }
  CHECK(worst <= most, name, sizeof(T), worst, at);
  std::printf("%s f%d: %.2f ulp\n", name, static_cast<int>(8 * sizeof(T)), worst);
}

template <class T>
void test_math() {
  constexpr bool kSingle = sizeof(T) == 4;
  const auto uniform = [](double low, double high) {
    return [=] { return static_cast<T>(std::uniform_real_distribution<double>(low, high)(generator)); };
  };
  const auto any_bits = [] {
    const std::uint64_t bits = generator();
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  const auto exp_exact = [](long double x) { return std::exp(x); };
  const auto log_exact = [](long double x) { return std::log(x); };
  const auto vector_exp = [](Vec<T> x) { return GRAMIAN_ISA::exp<T>(x); };
  const auto vector_log = [](Vec<T> x) { return GRAMIAN_ISA::log<T>(x); };
  test_function<T>("exp", 2, vector_exp, exp_exact, uniform(-2, 2));
  test_function<T>("exp, all normal results", 2, vector_exp, exp_exact,
                   kSingle ? uniform(-87, 88.7) : uniform(-708, 709.7));
  test_function<T>("exp, subnormal results", 2, vector_exp, exp_exact,
                   kSingle ? uniform(-110, -87) : uniform(-760, -708));
  test_function<T>("exp, any bits", 2, vector_exp, exp_exact, any_bits);
  test_function<T>("log", 2, vector_log, log_exact, uniform(0.25, 4));
  test_function<T>("log, any bits", 2, vector_log, log_exact, any_bits);
  const T specials[] = {0,
                        static_cast<T>(-0.0),
                        1,
                        -1,
                        std::numeric_limits<T>::infinity(),
                        -std::numeric_limits<T>::infinity(),
                        std::numeric_limits<T>::quiet_NaN(),
                        std::numeric_limits<T>::denorm_min(),
                        std::numeric_limits<T>::max(),
                        std::numeric_limits<T>::min()};
  for (const T x : specials) {
    CHECK(ulps<T>(vector_exp(broadcast(x))[0], exp_exact(x)) <= 2, "exp", x);
    CHECK(ulps<T>(vector_log(broadcast(x))[0], log_exact(x)) <= 2, "log", x);
  }
  // Near a zero an absolute error of one unit of 1.0 is allowed: count in those units there.
  double worst = 0;
  for (const double range : {1.0, 100.0, static_cast<double>(kSincosLimit<T>)})
    for (int n = 0; n < 200000; n += kLanes<T>) {
      T x[kLanes<T>];
      for (T& v : x) v = uniform(-range, range)();
      const SinCos<T> got = sincos<T>(load(x));
      for (int l = 0; l < kLanes<T>; ++l) {
        const long double exact[] = {std::sin(static_cast<long double>(x[l])),
                                     std::cos(static_cast<long double>(x[l]))};
        const T value[] = {got.sin[l], got.cos[l]};
        for (int f = 0; f < 2; ++f) {
          const double absolute =
              static_cast<double>(std::abs(value[f] - exact[f])) / std::numeric_limits<T>::epsilon();
          const double relative = ulps<T>(value[f], exact[f]);
          worst = std::max(worst, std::abs(exact[f]) < 0.01L ? std::min(relative, 2 * absolute) : relative);
        }
      }
    }
  CHECK(worst <= 3, "sincos", sizeof(T), worst);
  std::printf("sincos f%d: %.2f ulp\n", static_cast<int>(8 * sizeof(T)), worst);
  const SinCos<T> zero = sincos<T>(broadcast(static_cast<T>(0)));
  CHECK(zero.sin[0] == 0 && zero.cos[0] == 1, zero.sin[0], zero.cos[0]);
}

bool has_level() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("x86-64-v4");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("x86-64-v3");
#else
  return true;
#endif
}

// Not inlined: a sanitizer would prepare its stack with this level's instructions before main has asked for the level.
[[gnu::noinline]] void test_all() {
  test_lanes<float>();
  test_lanes<double>();
  test_pack_shapes<float>();
  test_pack_shapes<double>();
  test_half_types();
  test_sweeps<float>();
  test_sweeps<double>();
  test_bf16();
  test_math<float>();
  test_math<double>();
}

}  // namespace

int main() {
  if (!has_level()) return 77;
  test_all();
  return failures != 0;
}
