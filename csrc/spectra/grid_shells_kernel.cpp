// Compiled once per instruction set; no standard library here (see lanes.h).
#include "spectra/grid_shells_kernel.h"

#include "core/pack.h"
#include "spectra/fourier_kernel.h"

namespace gramian::GRAMIAN_ISA {
namespace {

template <class T>
constexpr std::int64_t kBlock = 2 * kLanes<T>;  // values of a block of modes

// ---- The first axis ----

// A column of blocks of samples: `count` of its lanes exist.
template <class T>
struct Column {
  const T *x, *window;
  T* modes;
  int count;
};

template <class T>
GRAMIAN_INLINE Vec<T> load_some(const T* from, int count) {
  if (count == kLanes<T>) return load(from);
  T lane[kLanes<T>] = {};
  for (int l = 0; l < count; ++l) lane[l] = from[l];
  return load(lane);
}

template <class T>
GRAMIAN_INLINE Column<T> column_of(const GridShells<T>& p, std::int64_t item, std::int64_t block) {
  const std::int64_t last = p.axis[p.axes - 1].size, samples = p.rows * last,
                     in_row = (last + kLanes<T> - 1) / kLanes<T>;
  const std::int64_t row = block / in_row, at = block % in_row, first = row * last + at * kLanes<T>;
  const std::int64_t row_size = p.blocks * kBlock<T>, frequencies = p.axis[0].size / 2 + 1;
  if (row >= p.rows) return {p.x, nullptr, nullptr, 0};
  const std::int64_t left = last - at * kLanes<T>;
  return {p.x + item * p.axis[0].size * samples + first, p.other_window == nullptr ? nullptr : p.other_window + first,
          p.modes + item * frequencies * p.rows * row_size + row * row_size + at * kBlock<T>,
          left < kLanes<T> ? static_cast<int>(left) : kLanes<T>};
}

// Two real columns are one complex: Z = X + iY, so that X(k) = (Z(k) + conj Z(-k)) / 2 and Y(k) = (Z(k) - conj Z(-k)) / 2i. The
// halves are left out: powers are divided by four at last.
template <class T>
void first_axis(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch) {
  const FourierAxis<T>& axis = p.axis[0];
  const std::int64_t n = axis.size, last = p.axis[p.axes - 1].size, step = p.rows * last;
  const std::int64_t columns = p.rows * ((last + kLanes<T> - 1) / kLanes<T>), strips = (columns + 1) / 2;
  const std::int64_t frequency = p.rows * p.blocks * kBlock<T>;
  for (std::int64_t at = begin; at < end; ++at) {
    const Column<T> a = column_of(p, at / strips, at % strips * 2), b = column_of(p, at / strips, at % strips * 2 + 1);
    if (a.count == kLanes<T> && b.count == kLanes<T> && p.first_window == nullptr && p.other_window == nullptr) {
      for (std::int64_t j = 0; j < n; ++j)
        store_complex<T>(scratch + j * kBlock<T>, {load(a.x + j * step), load(b.x + j * step)});
    } else {
      Complex<T> weight = {broadcast<T>(1), broadcast<T>(1)};
      if (p.other_window != nullptr) weight = {load_some(a.window, a.count), load_some(b.window, b.count)};
      for (std::int64_t j = 0; j < n; ++j) {
        const Complex<T> z = {load_some(a.x + j * step, a.count) * weight.re,
                              load_some(b.x + j * step, b.count) * weight.im};
        store_complex(scratch + j * kBlock<T>, p.first_window == nullptr ? z : p.first_window[j] * z);
      }
    }
    transform(axis, scratch, kBlock<T>);
    for (std::int64_t k = 0; k <= n / 2; ++k) {
      const Complex<T> z = load_complex(scratch + axis.place[k] * kBlock<T>);
      const Complex<T> mirror = load_complex(scratch + axis.place[k == 0 ? 0 : n - k] * kBlock<T>);
      store_complex<T>(a.modes + k * frequency, {z.re + mirror.re, z.im - mirror.im});
      if (b.count > 0) store_complex<T>(b.modes + k * frequency, {z.im + mirror.im, mirror.re - z.re});
    }
  }
}

// ---- The other axes ----

template <class T>
void middle_axes(const GridShells<T>& p, T* modes) {
  const std::int64_t row_size = p.blocks * kBlock<T>, in_row = (p.axis[p.axes - 1].size + kLanes<T> - 1) / kLanes<T>;
  std::int64_t inner = p.rows;
  for (int a = 1; a < p.axes - 1; ++a) {
    const std::int64_t size = p.axis[a].size;
    inner /= size;
    for (std::int64_t outer = 0; outer < p.rows; outer += size * inner)
      for (std::int64_t row = outer; row < outer + inner; ++row)
        for (std::int64_t block = 0; block < in_row; ++block)
          transform(p.axis[a], modes + row * row_size + block * kBlock<T>, inner * row_size);
  }
}

// What a row of the last axis counts towards.
template <class T>
struct Lane {
  const std::int32_t* shell;
  double* sums;
};

// Frequencies k and -k of the last axis belong to one shell: they are added before they are sent there.
template <class T>
GRAMIAN_INLINE void add_powers(const FourierAxis<T>& axis, const T* scratch, Vec<T> weight, const Lane<T>* lanes,
                               int count) {
  const std::int64_t n = axis.size;
  for (std::int64_t k = 0; k <= n / 2; ++k) {
    const Complex<T> z = load_complex(scratch + axis.place[k] * kBlock<T>);
    Vec<T> power = z.re * z.re + z.im * z.im;
    if (k != 0 && 2 * k != n) {
      const Complex<T> mirror = load_complex(scratch + axis.place[n - k] * kBlock<T>);
      power += mirror.re * mirror.re + mirror.im * mirror.im;
    }
    T of_lane[kLanes<T>];
    store(of_lane, power * weight);
    for (int l = 0; l < count; ++l) lanes[l].sums[lanes[l].shell[k]] += static_cast<double>(of_lane[l]);
  }
}

template <class T>
void other_axes(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch) {
  const FourierAxis<T>& last = p.axis[p.axes - 1];
  const std::int64_t frequencies = p.axis[0].size / 2 + 1, row_size = p.blocks * kBlock<T>, half = last.size / 2 + 1;
  if (p.axes > 2)
    for (std::int64_t f = begin; f < end; ++f) middle_axes(p, p.modes + f * p.rows * row_size);
  for (std::int64_t row = begin * p.rows; row < end * p.rows; row += kLanes<T>) {
    const int count = end * p.rows - row < kLanes<T> ? static_cast<int>(end * p.rows - row) : kLanes<T>;
    const T* from[kLanes<T>];
    Lane<T> lanes[kLanes<T>];
    T weights[kLanes<T>] = {};
    for (int l = 0; l < kLanes<T>; ++l) {
      const std::int64_t r = l < count ? row + l : row;
      from[l] = p.modes + r * row_size;
      const std::int64_t first = r / p.rows % frequencies, item = r / p.rows / frequencies;
      std::int64_t at = first, within = r % p.rows, inner = p.rows;
      for (int a = 1; a < p.axes - 1; ++a) {
        const std::int64_t n = p.axis[a].size;
        inner /= n;
        const std::int64_t k = p.axis[a].frequency[within / inner];
        at = at * (n / 2 + 1) + (2 * k > n ? n - k : k);
        within %= inner;
      }
      lanes[l] = {p.shell + at * half, p.sums + (item * kGridCopies + l % kGridCopies) * p.shells};
      weights[l] = first == 0 || 2 * first == p.axis[0].size ? static_cast<T>(0.25) : static_cast<T>(0.5);
    }
    for (std::int64_t block = 0; block * kLanes<T> < last.size; ++block) {
      Vec<T> re[kLanes<T>], im[kLanes<T>];
      for (int l = 0; l < kLanes<T>; ++l) re[l] = load(from[l] + block * kBlock<T>);
      transpose<T>(re);
      for (int l = 0; l < kLanes<T>; ++l) im[l] = load(from[l] + block * kBlock<T> + kLanes<T>);
      transpose<T>(im);
      for (int l = 0; l < kLanes<T>; ++l)
        store_complex<T>(scratch + (block * kLanes<T> + l) * kBlock<T>, {re[l], im[l]});
    }
    transform(last, scratch, kBlock<T>);
    if (count == kLanes<T>)
      add_powers(last, scratch, load(weights), lanes, kLanes<T>);
    else
      add_powers(last, scratch, load(weights), lanes, count);
  }
}

}  // namespace

extern const GridShellsKernels<float> grid_shells_f32{kLanes<float>, first_axis<float>, other_axes<float>};
extern const GridShellsKernels<double> grid_shells_f64{kLanes<double>, first_axis<double>, other_axes<double>};

}  // namespace gramian::GRAMIAN_ISA
