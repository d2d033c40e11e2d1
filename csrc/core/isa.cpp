#include "core/isa.h"

#include <atomic>
#include <cstdlib>

#include "core/refuse.h"

namespace gramian {
namespace {

Isa isa_from_environment() {
  const char* wanted = std::getenv("GRAMIAN_ISA");
  if (wanted == nullptr || *wanted == '\0') return best_isa();
  const Isa isa = isa_from_name(wanted);
  if (isa > best_isa()) refuse("GRAMIAN_ISA must be at most ", isa_name(best_isa()), " on this CPU, got ", wanted);
  return isa;
}

std::atomic<Isa>& slot() {
  static std::atomic<Isa> isa{isa_from_environment()};
  return isa;
}

}  // namespace

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(GRAMIAN_WIDE)
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::avx512;
#else
  if (__builtin_cpu_supports("x86-64-v4")) return Isa::avx512;
#endif
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa active_isa() { return slot().load(std::memory_order_relaxed); }

bool has_bf16_dot() {
#if defined(__x86_64__) && !defined(GRAMIAN_WIDE)
  return active_isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void set_isa(Isa isa) {
  if (isa > best_isa())
    refuse("set_isa: isa must be at most ", isa_name(best_isa()), " on this CPU, got ", isa_name(isa));
  slot().store(isa, std::memory_order_relaxed);
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}

Isa isa_from_name(const std::string& name) {
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (name == isa_name(isa)) return isa;
  refuse("GRAMIAN_ISA must be baseline, avx2 or avx512, got ", name);
}

}  // namespace gramian
