// Exact k nearest neighbours. The scores of a sweep leave a few candidates a row; their distances are then computed from
// the rows themselves, and those alone decide (pairs.h).
#pragma once
#include <cstdint>

#include "core/isa.h"
#include "neighbors/pairs.h"

namespace gramian {

template <class T>
struct KnnProblem : Pairs<T> {
  std::int64_t k, capacity;
  const bool* train;  // [n] the rows that held-out ones may learn from, or null
  const KnnProblem*
      turned;  // the same pairs seen from y, if the columns of a tile have lists: in a symmetric sweep itself
};

// The candidates so far, a list a row.
template <class T>
struct KnnLists {
  T* score;              // [lists, capacity]
  std::uint32_t* index;  // [lists, capacity]
  std::int32_t* count;   // [lists]
  T* threshold;          // [lists + 64, infinite past the end]: lower scores cannot be among the k nearest
};

// The lists that a tile feeds: those of its rows, those of its columns (in a symmetric sweep the same, unless what comes before
// a row is kept apart from what comes after), and with `train` those of held-out rows (for others the threshold is infinite).
template <class T>
struct KnnTargets {
  KnnLists<T> rows, cols, held_out;
};

template <class T>
struct KnnKernels {
  // Bytes of scratch that a block needs.
  std::int64_t (*scratch)(std::int64_t x_rows, std::int64_t y_rows, std::int64_t depth);
  // Rows [i, i + x_rows) of x against rows [j, j + y_rows) of y.
  void (*block)(const KnnProblem<T>& problem, const KnnTargets<T>& lists, std::int64_t i, std::int64_t x_rows,
                std::int64_t j, std::int64_t y_rows, void* scratch);
  // The same with the product in bfloat16; null where the level has none. The slack must then cover the rounding of the
  // rows, which rounding_norms measures: |packed row - packed row in bfloat16|.
  void (*block_bf16)(const KnnProblem<T>& problem, const KnnTargets<T>& lists, std::int64_t i, std::int64_t x_rows,
                     std::int64_t j, std::int64_t y_rows, void* scratch);
  void (*rounding_norms)(const Rows& rows, std::int64_t begin, std::int64_t end, const T* shift, const T* scale,
                         double* norm);
  // Row i's neighbours from its lists in `parts` sets that lie `part_stride` lists apart.
  std::int64_t (*finish_scratch)(std::int64_t parts, std::int64_t capacity);
  void (*finish)(const KnnProblem<T>& problem, const KnnLists<T>& lists, std::int64_t i, std::int64_t parts,
                 std::int64_t part_stride, void* scratch, T* distances, std::int64_t* indices);

  // Few queries: rows [begin, end) of y against all of x, straight from memory. score [x rows, y rows]: minus the squared
  // distance, or the product (cosine: over |y|), and then also square [y rows]: |y|^2. `scratch` holds scan_scratch values.
  std::int64_t (*scan_scratch)(std::int64_t x_rows, std::int64_t depth);
  void (*scan)(const KnnProblem<T>& problem, std::int64_t begin, std::int64_t end, T* scratch, T* score, T* square);
  // Keeps the scores of a row that reach the k-th highest less relative * its size + absolute, with their indices. Returns
  // how many, or -1 if one is not finite.
  std::int64_t (*keep)(std::int64_t k, double relative, double absolute, T* score, std::uint32_t* index,
                       std::int64_t count);
  // Row i's neighbours among `count` candidates, whose scores are overwritten. False if rounding to subnormals of T made up
  // ties among them.
  bool (*decide)(const KnnProblem<T>& problem, std::int64_t i, T* score, std::uint32_t* index, std::int64_t count,
                 T* distances, std::int64_t* indices);
};

GRAMIAN_DECLARE_KERNELS(KnnKernels<float>, knn_f32)
GRAMIAN_DECLARE_KERNELS(KnnKernels<double>, knn_f64)

}  // namespace gramian
