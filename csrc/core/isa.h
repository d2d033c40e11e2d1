// Which instruction set the kernels run on. Levels are ordered: a CPU that has one has all below it.
#pragma once
#include <string>

namespace gramian {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// What gramian._C sees of the ops library.
#define GRAMIAN_EXPORT __attribute__((visibility("default")))

GRAMIAN_EXPORT Isa best_isa();       // the highest level that this CPU has
GRAMIAN_EXPORT Isa active_isa();     // what dispatch uses: best_isa(), or what GRAMIAN_ISA or set_isa lowered it to
GRAMIAN_EXPORT bool has_bf16_dot();  // on the active level
GRAMIAN_EXPORT void set_isa(Isa isa);
GRAMIAN_EXPORT const char* isa_name(Isa isa);
GRAMIAN_EXPORT Isa isa_from_name(const std::string& name);

// Each kernel source is compiled once per level into namespaces baseline, avx2 and avx512, and exports one table of
// functions in each. DECLARE announces the three tables; KERNELS picks the one to run.
#define GRAMIAN_DECLARE_KERNELS(Table, name) \
  namespace baseline {                       \
  extern const Table name;                   \
  }                                          \
  namespace avx2 {                           \
  extern const Table name;                   \
  }                                          \
  namespace avx512 {                         \
  extern const Table name;                   \
  }

#if defined(__x86_64__)
#define GRAMIAN_KERNELS(name)                                                  \
  (::gramian::active_isa() == ::gramian::Isa::avx512 ? ::gramian::avx512::name \
   : ::gramian::active_isa() == ::gramian::Isa::avx2 ? ::gramian::avx2::name   \
                                                     : ::gramian::baseline::name)
#else
#define GRAMIAN_KERNELS(name) (::gramian::baseline::name)
#endif

}  // namespace gramian
