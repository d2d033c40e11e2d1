// gramian._C: reports and sets what the ops run on. Importing it loads the ops. No tensor passes through here.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "core/interrupt.h"
#include "core/isa.h"
#include "core/probe_kernel.h"
#include "core/refuse.h"

namespace py = pybind11;

namespace gramian {
namespace {

double fma_peak(const std::string& dtype, double seconds) {
  const bool bf16 = dtype == "bfloat16";
  if (dtype != "float32" && dtype != "float64" && !bf16)
    refuse("fma_peak: dtype must be float32, float64 or bfloat16, got ", dtype);
  if (bf16 && !has_bf16_dot()) return 0;
  if (!(seconds > 0)) refuse("fma_peak: seconds must be positive, got ", seconds);
  const auto& probe = active_probe();
  const auto run = bf16 ? probe.fma_bf16 : dtype == "float32" ? probe.fma_f32 : probe.fma_f64;
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  double best = 0;
  for (auto now = begin; std::chrono::duration<double>(now - begin).count() < seconds;) {
    const double flops = run(1 << 20);
    const auto then = now;
    now = Clock::now();
    best = std::max(best, flops / std::chrono::duration<double>(now - then).count());
  }
  return best / 1e9;
}

unsigned long main_thread = 0;

// Runs Python's signal handlers if this is the thread that they run on. What one raises stops the op.
void run_signal_handlers() {
  if (PyThread_get_thread_ident() != main_thread) return;
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

py::dict build_info() {
  py::dict info;
  info["version"] = GRAMIAN_VERSION;
  info["compiler"] = "g++ " __VERSION__;
  info["built_with_torch"] = GRAMIAN_TORCH;
  info["oldest_torch"] = "2.10";
  info["cuda"] = GRAMIAN_WITH_CUDA != 0;
  return info;
}

}  // namespace
}  // namespace gramian

PYBIND11_MODULE(_C, m) {
  using namespace gramian;
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  set_interrupt_check(&run_signal_handlers);
  m.def("best_isa", [] { return isa_name(best_isa()); }, "The highest instruction-set level of this CPU.");
  m.def("active_isa", [] { return isa_name(active_isa()); }, "The level that the kernels run on.");
  m.def(
      "set_isa", [](const std::string& isa) { set_isa(isa_from_name(isa)); }, py::arg("isa"),
      "Lower (or raise again) the level that the kernels run on.");
  m.def("build_info", &build_info, "Version, compiler and torch of this build.");
  m.def("fma_peak", &fma_peak, py::arg("dtype"), py::arg("seconds") = 0.2, py::call_guard<py::gil_scoped_release>(),
        "Measured fused multiply-add peak of one core, in GFLOP/s; 0 for bfloat16 where there is no such instruction.");
}
