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

// Two columns of blocks: the real and the imaginary parts of what is transformed.
template <class T>
struct Strip {
  Column<T> a, b;
};

template <class T, bool kWhole>
GRAMIAN_INLINE Complex<T> samples(const GridShells<T>& p, const Strip<T>& strip, std::int64_t j, std::int64_t step) {
  const T *const a = strip.a.x + j * step, *const b = strip.b.x + j * step;
  if constexpr (kWhole) return {load(a), load(b)};
  Complex<T> z = {load_some(a, strip.a.count), load_some(b, strip.b.count)};
  if (p.other_window != nullptr)
    z = {z.re * load_some(strip.a.window, strip.a.count), z.im * load_some(strip.b.window, strip.b.count)};
  return p.first_window == nullptr ? z : p.first_window[j] * z;
}

// Memory is read and written in runs of 256 bytes. Single lines, each in a page of its own, took twice as long for 192^3.
constexpr int kStrips = 256 / (2 * kVectorBytes);

template <class T, bool kWhole>
GRAMIAN_INLINE void gather(const GridShells<T>& p, const Strip<T>* strips, int count, T* scratch) {
  const std::int64_t n = p.axis[0].size, step = p.rows * p.axis[p.axes - 1].size;
  for (std::int64_t j = 0; j < n; ++j)
    for (int s = 0; s < count; ++s)
      store_complex(scratch + (s * n + j) * kBlock<T>, samples<T, kWhole>(p, strips[s], j, step));
}

// Z = X + iY of two real columns gives X(k) = (Z(k) + conj Z(-k)) / 2 and Y(k) = (Z(k) - conj Z(-k)) / 2i. The halves are left
// out: powers are divided by four at last.
template <class T>
GRAMIAN_INLINE void scatter(const GridShells<T>& p, const Strip<T>* strips, int count, const T* scratch) {
  const FourierAxis<T>& axis = p.axis[0];
  const std::int64_t n = axis.size, plane = p.rows * p.blocks * kBlock<T>;
  for (std::int64_t k = 0; k <= n / 2; ++k) {
    const T *const at = scratch + axis.place[k] * kBlock<T>, *const opposite =
                                                                 scratch + axis.place[k == 0 ? 0 : n - k] * kBlock<T>;
    for (int s = 0; s < count; ++s) {
      const Complex<T> z = load_complex(at + s * n * kBlock<T>), mirror = load_complex(opposite + s * n * kBlock<T>);
      store_complex<T>(strips[s].a.modes + k * plane, {z.re + mirror.re, z.im - mirror.im});
      if (strips[s].b.count > 0) store_complex<T>(strips[s].b.modes + k * plane, {z.im + mirror.im, mirror.re - z.re});
    }
  }
}

template <class T>
void first_axis(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch) {
  const std::int64_t n = p.axis[0].size, in_row = (p.axis[p.axes - 1].size + kLanes<T> - 1) / kLanes<T>;
  const std::int64_t of_item = (p.rows * in_row + 1) / 2;
  for (std::int64_t at = begin; at < end; at += kStrips) {
    const int count = end - at < kStrips ? static_cast<int>(end - at) : kStrips;
    Strip<T> strips[kStrips];
    bool whole = count == kStrips && p.first_window == nullptr && p.other_window == nullptr;
    for (int s = 0; s < count; ++s) {
      const std::int64_t item = (at + s) / of_item, block = (at + s) % of_item * 2;
      strips[s] = {column_of(p, item, block), column_of(p, item, block + 1)};
      whole = whole && strips[s].a.count == kLanes<T> && strips[s].b.count == kLanes<T>;
    }
    whole ? gather<T, true>(p, strips, kStrips, scratch) : gather<T, false>(p, strips, count, scratch);
    for (int s = 0; s < count; ++s) transform(p.axis[0], scratch + s * n * kBlock<T>, kBlock<T>);
    scatter(p, strips, count, scratch);
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

// The row of the table of shells for frequency `first` of the first axis and row `within` of the middle axes.
template <class T>
std::int64_t octant_row(const GridShells<T>& p, std::int64_t first, std::int64_t within) {
  std::int64_t row = first, inner = p.rows;
  for (int a = 1; a < p.axes - 1; ++a) {
    const std::int64_t n = p.axis[a].size;
    inner /= n;
    const std::int64_t k = p.axis[a].frequency[within / inner];
    within %= inner;
    row = row * (n / 2 + 1) + (2 * k > n ? n - k : k);
  }
  return row;
}

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

// As many rows of the last axis as there are lanes, from `row` on, `count` of which exist, at `modes`.
template <class T>
void last_axis(const GridShells<T>& p, const T* modes, std::int64_t row, int count, T* scratch) {
  const FourierAxis<T>& last = p.axis[p.axes - 1];
  const std::int64_t frequencies = p.axis[0].size / 2 + 1, row_size = p.blocks * kBlock<T>, half = last.size / 2 + 1;
  const T* from[kLanes<T>];
  Lane<T> lanes[kLanes<T>];
  T weights[kLanes<T>];
  for (int l = 0; l < kLanes<T>; ++l) {
    const std::int64_t r = l < count ? row + l : row;
    const std::int64_t first = r / p.rows % frequencies, item = r / p.rows / frequencies;
    from[l] = modes + (r - row) * row_size;
    lanes[l] = {p.shell + octant_row(p, first, r % p.rows) * half,
                p.sums + (item * kShellCopies + l % kShellCopies) * p.shells};
    weights[l] = static_cast<T>(first == 0 || 2 * first == p.axis[0].size ? 0.25 : 0.5);
  }
  for (std::int64_t k = 0; k < last.size; k += kLanes<T>) {
    Vec<T> re[kLanes<T>], im[kLanes<T>];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<T>; ++l) re[l] = load(from[l] + 2 * k);
    transpose<T>(re);
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<T>; ++l) store(scratch + (k + l) * kBlock<T>, re[l]);
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<T>; ++l) im[l] = load(from[l] + 2 * k + kLanes<T>);
    transpose<T>(im);
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<T>; ++l) store(scratch + (k + l) * kBlock<T> + kLanes<T>, im[l]);
  }
  transform(last, scratch, kBlock<T>);
  if (count == kLanes<T>)
    add_powers(last, scratch, load(weights), lanes, kLanes<T>);
  else
    add_powers(last, scratch, load(weights), lanes, count);
}

template <class T>
void other_axes(const GridShells<T>& p, std::int64_t begin, std::int64_t end, T* scratch) {
  const std::int64_t row_size = p.blocks * kBlock<T>, plane = p.rows * row_size;
  T* const planes = scratch + p.blocks * kLanes<T> * kBlock<T>;
  for (std::int64_t f = begin; f < end; f += p.together) {
    const std::int64_t stop = end - f < p.together ? end : f + p.together;
    const T* modes = p.modes + f * plane;
    if (p.axes > 2) {
      // In a copy, so that memory is read in its own order, and nothing that has changed must be written back to it.
      for (std::int64_t at = 0; at < (stop - f) * plane; at += kLanes<T>) store(planes + at, load(modes + at));
      for (std::int64_t at = 0; at < stop - f; ++at) middle_axes(p, planes + at * plane);
      modes = planes;
    }
    for (std::int64_t row = f * p.rows; row < stop * p.rows; row += kLanes<T>, modes += kLanes<T> * row_size) {
      const std::int64_t left = stop * p.rows - row;
      last_axis(p, modes, row, left < kLanes<T> ? static_cast<int>(left) : kLanes<T>, scratch);
    }
  }
}

}  // namespace

extern const GridShellsKernels<float> grid_shells_f32{kLanes<float>, kStrips, first_axis<float>, other_axes<float>};
extern const GridShellsKernels<double> grid_shells_f64{kLanes<double>, kStrips, first_axis<double>, other_axes<double>};

}  // namespace gramian::GRAMIAN_ISA
