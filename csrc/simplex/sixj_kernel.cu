// 6j and 3j symbols on the device: a thread a family, by the CPU's recursions. Steps are made as they are needed; what is kept of the
// entries is the one asked for and its neighbours, or all of them, where the result has them.
#include "simplex/sixj_cuda.h"

#include <cmath>

#include "core/device.cuh"
#include "simplex/sixj_formulas.h"

namespace gramian::cuda {
namespace {

struct Scalars {
  using Value = double;
  using Integer = std::int64_t;
  GRAMIAN_DEVICE static double root(double v) { return sqrt(v); }
  GRAMIAN_DEVICE static double number(double v) { return v; }
  GRAMIAN_DEVICE static double product(double a, double b) { return rounded_product(a, b); }
  GRAMIAN_DEVICE static double product_error(double a, double b, double product) {
    return __builtin_fma(a, b, -product);
  }
};

constexpr double kBig = 0x1p300;  // one step multiplies by much less than 2^200, and the square is still a number

// One entry of a family, `value`, and those before and behind it.
struct Kept {
  std::int32_t target;
  double below = 0, value = 0, above = 0;

  GRAMIAN_DEVICE void put(std::int32_t k, double v) {
    if (k == target - 1) below = v;
    if (k == target) value = v;
    if (k == target + 1) above = v;
  }
  GRAMIAN_DEVICE void scale(std::int32_t begin, std::int32_t end, double factor) {
    if (target - 1 >= begin && target - 1 < end) below *= factor;
    if (target >= begin && target < end) value *= factor;
    if (target + 1 >= begin && target + 1 < end) above *= factor;
  }
};

// The first `rows` entries, `stride` apart, and the one behind them.
struct Column {
  double* to;
  std::int64_t rows, stride;
  double behind = 0;

  GRAMIAN_DEVICE void put(std::int32_t k, double v) {
    if (k < rows) to[k * stride] = v;
    if (k == rows) behind = v;
  }
  GRAMIAN_DEVICE void scale(std::int32_t begin, std::int32_t end, double factor) {
    for (std::int64_t k = begin; k < end && k < rows; ++k) to[k * stride] *= factor;
    if (begin <= rows && rows < end) behind *= factor;
  }
  GRAMIAN_DEVICE double at(std::int64_t k) const { return k < rows ? to[k * stride] : behind; }
};

// The index, of `count`, that is nearest to x and not the last.
GRAMIAN_DEVICE std::int32_t nearest(double x, const Family& f) {
  double k = 0.5 * (x - f.first);
  k = k > 0 ? k : 0;
  const std::int32_t at = k < 1e6 ? static_cast<std::int32_t>(rint(k)) : 1000000, last = f.count - 2;
  const std::int32_t inside = at < last ? at : last;
  return inside > 0 ? inside : 0;
}

// The eigenvector, into `entries`. Forward from the first entry to `join`, backward from the last, each in the direction in which
// entries grow where the recursion is unstable the other way. They are joined by two entries: neighbours are never both
// small where solutions oscillate.
template <class Basis, class Entries>
GRAMIAN_DEVICE void solve(const Family& f, Entries& entries) {
  const Basis basis{static_cast<double>(f.spin[0]), static_cast<double>(f.spin[1]), static_cast<double>(f.spin[2]),
                    static_cast<double>(f.spin[3])};
  const double column = f.column, eigenvalue = Basis::eigenvalue(column);
  const std::int32_t last = f.count - 1, join = nearest(basis.centre(column), f);
  const auto x_at = [&](std::int32_t k) { return static_cast<double>(f.first + 2 * k); };
  double low = 0, low_next = 0, high = 0, high_next = 0;  // entries join and join + 1, by either way

  double up = 1, before = 0, beside_before = 0, low_sum = 0;
  for (std::int32_t k = 0;; ++k) {
    if (k == join) low = up;
    if (k > join) low_next = up;
    if (k <= join) {
      entries.put(k, up);
      low_sum += up * up;
    }
    if (k > join || k == last) break;
    const double beside = basis.beside(x_at(k) + 2), inverse = 1 / beside;
    const double next = (eigenvalue - basis.diagonal(x_at(k))) * inverse * up - (beside_before * inverse) * before;
    beside_before = beside;
    before = up;
    up = next;
    if (fabs(up) > kBig && k < join) {
      up /= kBig, before /= kBig, low_sum /= kBig * kBig;
      entries.scale(0, k + 1, 1 / kBig);
    }
  }
  double down = 1, high_sum = 0, beside = 0;
  before = 0;
  for (std::int32_t k = last;; --k) {
    if (k == join) high = down;
    if (k == join + 1) high_next = down;
    if (k > join) {
      entries.put(k, down);
      high_sum += down * down;
    }
    if (k == join) break;
    const double beside_next = basis.beside(x_at(k - 1) + 2), inverse = 1 / beside_next;
    const double next = (eigenvalue - basis.diagonal(x_at(k))) * inverse * down - (beside * inverse) * before;
    beside = beside_next;
    before = down;
    down = next;
    if (fabs(down) > kBig && k > join + 1) {
      down /= kBig, before /= kBig, high_sum /= kBig * kBig;
      entries.scale(k, last + 1, 1 / kBig);
    }
  }
  const double ratio = (low * high + low_next * high_next) / (high * high + high_next * high_next);
  const double sign = f.sign * Basis::sign(f) / sqrt(column + 1);
  const double scale = (ratio < 0 ? -sign : sign) / sqrt(low_sum + ratio * (ratio * high_sum));
  entries.scale(0, join + 1, scale);
  entries.scale(join + 1, last + 1, scale * ratio);
}

// The symbol, which is `value` where its sum does no better.
GRAMIAN_DEVICE double refined(const Family& f, std::int32_t x, double value, Factorials tables) {
  if (!is_short(f, x)) return value;
  const RacahSum s(f, x);
  const RacahScale scale(f, x, s, tables.scaled);
  const auto number = [](std::int64_t n) { return static_cast<double>(n); };
  const double sum = added_up<Scalars>({number(s.begin),
                                        {number(s.low[0]), number(s.low[1]), number(s.low[2]), number(s.low[3])},
                                        {number(s.high[0]), number(s.high[1]), number(s.high[2])},
                                        s.end - s.begin},
                                       s.end - s.begin);
  return sum != 0 && scale.power != 0 ? sum * scale.root * scale.power : value;
}

// The symbol that entry k of the eigenvector is, which is `value` between `below` and `above`; digits and zeroes that rounding has
// hidden come back.
template <class Basis>
GRAMIAN_DEVICE double finished(const Family& f, std::int32_t k, double below, double value, double above,
                               Factorials tables) {
  const std::int32_t x = f.first + 2 * k;
  const double symbol = Basis::kRowFactor ? value / sqrt(static_cast<double>(x + 1)) : value;
  if (k == 0 || k + 1 == f.count || !lost_digits(below, value, above, f.count)) return symbol;
  if (fabs(value) < kSuspect * fabs(below) && Basis::is_zero(f, x, tables)) return 0;
  if constexpr (Basis::kRefined)
    return refined(f, x, symbol, tables);
  else
    return symbol;
}

template <class Basis>
GRAMIAN_DEVICE void solve_column(const Family& f, Column column, Factorials tables) {
  solve<Basis>(f, column);
  double below = 0, value = column.at(0);
  for (std::int32_t k = 0; k < f.count && k < column.rows; ++k) {
    const double above = k + 1 < f.count ? column.at(k + 1) : 0;
    column.to[k * column.stride] = finished<Basis>(f, k, below, value, above, tables);
    below = value;
    value = above;
  }
}

GRAMIAN_DEVICE std::int64_t thread_number() { return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// *most = the largest of the values of all threads.
GRAMIAN_DEVICE void keep_largest(unsigned long long* most, std::int64_t value) {
  value = warp_max(value);
  if (lane_index() == 0 && value > 0) atomicMax(most, static_cast<unsigned long long>(value));
}

__global__ void __launch_bounds__(kThreads)
    measure_kernel(const std::int64_t* spins, std::int64_t n, std::int64_t limit, SpinFacts* facts) {
  const std::int64_t i = thread_number(), spin = i < n ? spins[i] : 0;
  const bool fits = spin >= 0 && spin <= limit;
  keep_largest(&facts->largest, fits ? spin : 0);
  keep_largest(&facts->bad_from_end, fits ? 0 : n - i);
}

template <class Basis>
GRAMIAN_DEVICE Family family_at(const std::int64_t* spins, std::int64_t n, std::int64_t i) {
  const auto spin = [=](int k) { return spins[k * n + i]; };
  if constexpr (Basis::kRowFactor)
    return shortest_recoupling(spin);
  else
    return coupling(spin);
}

template <class Basis>
__global__ void __launch_bounds__(kThreads, 1)
    symbols_kernel(const std::int64_t* spins, std::int64_t n, Factorials tables, double* values) {
  const std::int64_t i = thread_number();
  if (i >= n) return;
  const Family family = family_at<Basis>(spins, n, i);
  double value = 0;
  if (family.count > 0) {
    Kept kept{family.target};
    solve<Basis>(family, kept);
    value = finished<Basis>(family, family.target, kept.below, kept.value, kept.above, tables);
  }
  values[i] = value;
}

// j2, j3, l1, l2, l3
GRAMIAN_DEVICE Family whole_family(const std::int64_t* spins, std::int64_t n, std::int64_t i) {
  return recoupling(spins[i], spins[n + i], spins[3 * n + i], spins[4 * n + i], spins[2 * n + i]);
}

__global__ void __launch_bounds__(kThreads)
    sizes_kernel(const std::int64_t* spins, std::int64_t n, std::int64_t* first, unsigned long long* longest) {
  const std::int64_t i = thread_number();
  const Family family = i < n ? whole_family(spins, n, i) : Family{};
  if (i < n) first[i] = family.first;
  keep_largest(longest, family.count);
}

__global__ void __launch_bounds__(kThreads, 1)
    families_kernel(const std::int64_t* spins, std::int64_t n, std::int64_t width, Factorials tables, double* values) {
  const std::int64_t i = thread_number();
  if (i >= n) return;
  const Family family = whole_family(spins, n, i);
  if (family.count > 0) solve_column<Recoupling<Scalars>>(family, {values + i * width, width, 1}, tables);
}

// A thread a column: neighbours write neighbouring values.
__global__ void __launch_bounds__(kThreads, 1)
    blocks_kernel(const BlockWork* work, std::int64_t count, std::int64_t columns, Factorials tables, double* values) {
  const std::int64_t number = thread_number();
  if (number >= columns) return;
  std::int64_t low = 0, high = count;  // the last block that begins at `number` or before
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (work[middle].column <= number ? low : high) = middle;
  }
  const BlockWork own = work[low];
  const std::int64_t column = number - own.column;
  Family family = own.family;
  family.column += static_cast<std::int32_t>(2 * column);
  solve_column<Recoupling<Scalars>>(family, {values + own.offset + column, own.rows, own.cols}, tables);
}

// A block of threads an image.
__global__ void __launch_bounds__(kThreads, 1) images_kernel(const ImageWork* work, double* values) {
  const ImageWork own = work[blockIdx.x];
  const double* const from = values + own.from;
  double* const to = values + own.to;
  for (std::int64_t e = threadIdx.x; e < own.rows * own.cols; e += kThreads)
    to[e] = from[own.transposed ? e % own.rows * own.cols + e / own.rows : e];
}

}  // namespace

void measure_spins(const std::int64_t* spins, std::int64_t n, std::int64_t limit, SpinFacts* facts, Stream stream) {
  launch(measure_kernel, grid_of_threads(n), 0, stream, spins, n, limit, facts);
}

void sixj(const std::int64_t* spins, std::int64_t n, Factorials tables, double* values, Stream stream) {
  launch(symbols_kernel<Recoupling<Scalars>>, grid_of_threads(n), 0, stream, spins, n, tables, values);
}

void threej(const std::int64_t* spins, std::int64_t n, Factorials tables, double* values, Stream stream) {
  launch(symbols_kernel<Coupling<Scalars>>, grid_of_threads(n), 0, stream, spins, n, tables, values);
}

void family_sizes(const std::int64_t* spins, std::int64_t n, std::int64_t* first, unsigned long long* longest,
                  Stream stream) {
  launch(sizes_kernel, grid_of_threads(n), 0, stream, spins, n, first, longest);
}

void families(const std::int64_t* spins, std::int64_t n, std::int64_t width, Factorials tables, double* values,
              Stream stream) {
  launch(families_kernel, grid_of_threads(n), 0, stream, spins, n, width, tables, values);
}

void blocks(const BlockWork* work, std::int64_t count, std::int64_t columns, Factorials tables, double* values,
            Stream stream) {
  launch(blocks_kernel, grid_of_threads(columns), 0, stream, work, count, columns, tables, values);
}

void images(const ImageWork* work, std::int64_t count, double* values, Stream stream) {
  launch(images_kernel, grid_of_blocks(count), 0, stream, work, values);
}

}  // namespace gramian::cuda
