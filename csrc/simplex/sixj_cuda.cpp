// The ops on 6j and 3j symbols on CUDA. Spins are looked at on the device; one look back refuses what is out of range and gives
// the size of the tables.
#include "simplex/sixj_cuda.h"

#include <tuple>

#include "core/cuda.h"
#include "simplex/sixj_table.h"

namespace gramian {
namespace {

const std::int64_t* spins_of(const Tensor& t) { return static_cast<const std::int64_t*>(t.const_data_ptr()); }
double* doubles_of(Tensor& t) { return static_cast<double*>(t.mutable_data_ptr()); }

// `values` in device memory of their own.
template <class V>
Tensor uploaded(const char* op, const Tensor& like, const std::vector<V>& values, cuda::Stream stream) {
  const std::size_t bytes = values.size() * sizeof(V);
  Tensor memory = cuda::device_memory(op, like, static_cast<std::int64_t>(bytes));
  if (bytes > 0) cuda::write_over(memory.mutable_data_ptr(), values.data(), bytes, stream);
  return memory;
}

// The largest of `n` doubled spins; refuses negative ones and those beyond kLargestSpin. Waits for the device.
std::int64_t largest_on_device(const char* op, const char* name, const Tensor& spins, std::int64_t n,
                               cuda::Stream stream) {
  Tensor memory = cuda::device_memory(op, spins, sizeof(cuda::SpinFacts));
  auto* const at = static_cast<cuda::SpinFacts*>(memory.mutable_data_ptr());
  cuda::set_zero(at, sizeof *at, stream);
  cuda::measure_spins(spins_of(spins), n, kLargestSpin, at, stream);
  cuda::SpinFacts facts{};
  cuda::read_back(&facts, at, sizeof facts, stream);
  if (facts.bad_from_end > 0) {
    std::int64_t bad = 0;
    cuda::read_back(&bad, spins_of(spins) + n - static_cast<std::int64_t>(facts.bad_from_end), sizeof bad, stream);
    bound_of_spins(op, name, &bad, 1);
  }
  return static_cast<std::int64_t>(facts.largest);
}

// FactorialTables in device memory.
class DeviceTables {
 public:
  DeviceTables(const char* op, const Tensor& like, std::int64_t largest, cuda::Stream stream) {
    const std::size_t entries = FactorialTables::entries(largest), each = entries * sizeof(std::uint64_t);
    memory_ = cuda::device_memory(op, like, static_cast<std::int64_t>(entries * sizeof(Scaled) + 2 * each));
    auto* const scaled = static_cast<Scaled*>(memory_.mutable_data_ptr());
    auto *const value = reinterpret_cast<std::uint64_t*>(scaled + entries), *const inverse = value + entries;
    const auto tables = factorials_up_to(largest);
    cuda::write_over(scaled, tables->view().scaled, entries * sizeof(Scaled), stream);
    cuda::write_over(value, tables->view().value, each, stream);
    cuda::write_over(inverse, tables->view().inverse, each, stream);
    view_ = {scaled, value, inverse};
  }
  Factorials view() const { return view_; }

 private:
  Tensor memory_;
  Factorials view_{};
};

using Symbols = void (*)(const std::int64_t*, std::int64_t, Factorials, double*, cuda::Stream);

// spins [6, n], the first `bounded` rows of which say how large all are.
Tensor symbols(const char* op, const Tensor& spins, std::int64_t bounded, std::int64_t reach, Symbols kernel) {
  check_spins(op, "spins", spins, 6);
  const cuda::OnDevice device(spins);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  Tensor values = allocate(held, {n}, ScalarType::Double);
  const DeviceTables tables(op, held, reach * largest_on_device(op, "spins", held, bounded * n, device.stream),
                            device.stream);
  kernel(spins_of(held), n, tables.view(), doubles_of(values), device.stream);
  return values;
}

Tensor simplex_sixj_cuda(const Tensor& spins) { return symbols("sixj", spins, 6, 1, &cuda::sixj); }
Tensor simplex_threej_cuda(const Tensor& spins) { return symbols("threej", spins, 3, 2, &cuda::threej); }

std::tuple<Tensor, Tensor> simplex_sixj_family_cuda(const Tensor& spins, std::int64_t width) {
  constexpr const char* kOp = "sixj_family";
  check_spins(kOp, "spins", spins, 5);
  if (width < 1) refuse(kOp, ": width must be at least 1, got ", width);
  const cuda::OnDevice device(spins);
  const Tensor held = torch::stable::contiguous(spins);
  const std::int64_t n = held.size(1);
  const DeviceTables tables(kOp, held, 2 * largest_on_device(kOp, "spins", held, 5 * n, device.stream), device.stream);
  Tensor first = allocate(held, {n}, ScalarType::Long), values = allocate_zeros(held, {n, width}, ScalarType::Double);
  Tensor memory = cuda::device_memory(kOp, held, sizeof(unsigned long long));
  auto* const at = static_cast<unsigned long long*>(memory.mutable_data_ptr());
  cuda::set_zero(at, sizeof *at, device.stream);
  cuda::family_sizes(spins_of(held), n, static_cast<std::int64_t*>(first.mutable_data_ptr()), at, device.stream);
  unsigned long long longest = 0;
  cuda::read_back(&longest, at, sizeof longest, device.stream);
  if (longest > static_cast<unsigned long long>(width))
    refuse(kOp, ": width must be at least ", longest, ", got ", width);
  cuda::families(spins_of(held), n, width, tables.view(), doubles_of(values), device.stream);
  return {first, values};
}

// Computes all blocks of `work`, whose places are known.
void compute_blocks(const char* op, const Tensor& like, std::int64_t largest, std::vector<cuda::BlockWork>& work,
                    Tensor& values, cuda::Stream stream) {
  std::int64_t columns = 0;
  for (cuda::BlockWork& block : work) {
    block.column = columns;
    columns += block.cols;
  }
  if (columns == 0) return;
  const DeviceTables tables(op, like, 2 * largest, stream);  // j1 and l1 reach the sums of two
  const Tensor given = uploaded(op, like, work, stream);
  cuda::blocks(static_cast<const cuda::BlockWork*>(given.const_data_ptr()), static_cast<std::int64_t>(work.size()),
               columns, tables.view(), doubles_of(values), stream);
}

std::tuple<Tensor, Tensor> simplex_sixj_blocks_cuda(const Tensor& blocks, std::int64_t limit) {
  constexpr const char* kOp = "sixj_blocks";
  check_spins(kOp, "blocks", blocks, 4);
  if (limit < 0) refuse(kOp, ": limit must not be negative, got ", limit);
  const cuda::OnDevice device(blocks);
  const Tensor held = torch::stable::contiguous(blocks);
  const std::int64_t n = held.size(1);
  std::vector<std::int64_t> spin(static_cast<std::size_t>(4 * n)), offset{0};
  if (n > 0) cuda::read_back(spin.data(), held.const_data_ptr(), spin.size() * sizeof(std::int64_t), device.stream);
  const std::int64_t largest = bound_of_spins(kOp, "blocks", spin.data(), 4 * n);
  std::vector<cuda::BlockWork> work;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = [&](std::int64_t row) { return spin[static_cast<std::size_t>(row * n + i)]; };
    const Block block(at(0), at(1), at(2), at(3), limit);
    if (block.size() > 0) work.push_back({block.family, block.rows, block.cols, 0, offset.back()});
    offset.push_back(offset.back() + block.size());
  }
  Tensor offsets = allocate(held, {n + 1}, ScalarType::Long);
  cuda::write_over(offsets.mutable_data_ptr(), offset.data(), offset.size() * sizeof(std::int64_t), device.stream);
  Tensor values = allocate(held, {offset.back()}, ScalarType::Double);
  compute_blocks(kOp, held, largest, work, values, device.stream);
  return {values, offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> simplex_sixj_table_cuda(const Tensor& cursor, std::int64_t largest,
                                                                   std::int64_t room) {
  constexpr const char* kOp = "sixj_table";
  TableCall::check(cursor, largest, room);
  const cuda::OnDevice device(cursor);
  std::int64_t begin = 0;
  cuda::read_back(&begin, cursor.const_data_ptr(), sizeof begin, device.stream);
  TableCall call(cursor, begin, largest, room);
  const auto count = static_cast<std::size_t>(call.count);
  std::vector<std::int64_t> spin(4 * count), offset(count + 1);
  std::vector<cuda::BlockWork> work;
  std::vector<cuda::ImageWork> images;
  offset[count] = call.total;
  for (const TableCall::Work& own : call.work) {
    const auto at_corner = [&](int k) { return corner(own.square, k); };
    const Block block(at_corner(0), at_corner(1), at_corner(2), at_corner(3), largest);
    const Orbit orbit(own.square);
    work.push_back({block.family, block.rows, block.cols, 0, own.offset});
    for (int k = 0; k < orbit.size; ++k) {
      const auto image = static_cast<std::size_t>(k), number = static_cast<std::size_t>(own.block) + image;
      for (int i = 0; i < 4; ++i) spin[static_cast<std::size_t>(i) * count + number] = corner(orbit.images[image], i);
      offset[number] = own.offset + k * block.size();
      if (k > 0) images.push_back({own.offset, offset[number], block.rows, block.cols, orbit.transposed[image]});
    }
  }
  const auto put = [&](Tensor& to, const std::vector<std::int64_t>& from) {
    if (!from.empty())
      cuda::write_over(to.mutable_data_ptr(), from.data(), from.size() * sizeof(std::int64_t), device.stream);
  };
  put(call.blocks, spin);
  put(call.offsets, offset);
  put(call.cursor_after, {call.next});
  compute_blocks(kOp, cursor, largest, work, call.values, device.stream);
  const Tensor given = uploaded(kOp, cursor, images, device.stream);
  cuda::images(static_cast<const cuda::ImageWork*>(given.const_data_ptr()), static_cast<std::int64_t>(images.size()),
               doubles_of(call.values), device.stream);
  return {call.blocks, call.offsets, call.values, call.cursor_after};
}

}  // namespace

GRAMIAN_CUDA_OP(kSixjSchema, "simplex_sixj", &simplex_sixj_cuda)
GRAMIAN_CUDA_OP(kThreejSchema, "simplex_threej", &simplex_threej_cuda)
GRAMIAN_CUDA_OP(kSixjFamilySchema, "simplex_sixj_family", &simplex_sixj_family_cuda)
GRAMIAN_CUDA_OP(kSixjBlocksSchema, "simplex_sixj_blocks", &simplex_sixj_blocks_cuda)
GRAMIAN_CUDA_OP(kSixjTableSchema, "simplex_sixj_table", &simplex_sixj_table_cuda)

}  // namespace gramian
