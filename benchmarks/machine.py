"""Facts and measured limits of the machine. A limit is measured in the run that it judges, never taken from a sheet."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import torch

import gramian._C

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.case import Case


class Limits(TypedDict):
    """What `threads` cores reach together."""

    threads: int
    peak_gflops_f32: float
    peak_gflops_f64: float
    peak_gflops_bf16: float
    memory_gbs: float


class Machine(TypedDict):
    """Facts of the machine and of the build, and its limits for each thread count of the run."""

    cpu: str
    isa: str
    cores: int
    caches: dict[str, int]
    governor: str | None
    load: float
    os: str
    python: str
    torch: str
    blas: str
    build: dict[str, str]
    commit: str
    date: str
    tuned: str | None
    gpu: str | None
    limits: list[Limits]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def facts() -> Machine:
    """Return everything but the limits, which the workers measure."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor(),
        "isa": _isa(),
        "cores": cores(),
        "caches": _caches(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load": os.getloadavg()[0],
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": _blas(),
        "build": {key: str(value) for key, value in gramian._C.build_info().items()},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tuned": None,
        "gpu": None,
        "limits": [],
    }


def has_avx512() -> bool:
    """Return whether OpenBLAS can be told to take its SkylakeX kernels here."""
    return "avx512f" in _cpuinfo("flags").split()


def limits(threads: int, seconds: float = 0.2) -> Limits:
    """Measure the FMA peaks and the memory bandwidth of `threads` cores.

    A limit is an upper bound, so each is the best of several short tries: a neighbour on a shared machine can only take
    away. It runs in a worker, whose thread count is already `threads`.
    """
    # Several times the last cache, or the copy would measure the cache.
    buffer_bytes = max(128 << 20, 4 * last_cache_bytes(_caches()))
    source = torch.ones(buffer_bytes // 4)
    target = torch.zeros_like(source)
    copy = 2 * buffer_bytes / _best_seconds(lambda: target.copy_(source))
    # Plain stores read the line that they fill, so a kernel that only reads may pass the copy.
    read = buffer_bytes / _best_seconds(source.amax)
    return {
        "threads": threads,
        "peak_gflops_f32": _fma_peak("float32", threads, seconds),
        "peak_gflops_f64": _fma_peak("float64", threads, seconds),
        "peak_gflops_bf16": _fma_peak("bfloat16", threads, seconds),
        "memory_gbs": max(copy, read) / 1e9,
    }


def gpu() -> str:
    """Return name, memory, driver and CUDA of the current GPU."""
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver = _text("/sys/module/nvidia/version") or "unknown"
    return f"{card.name}, {card.total_memory >> 30} GiB, driver {driver}, CUDA {torch.version.cuda}"


def gpu_limits() -> Limits:
    """Measure what the current GPU's matrix products and copies reach by torch, TF32 left out: a GPU has no `threads`."""
    n = 8192

    def product(dtype: torch.dtype) -> float:
        x = torch.ones(n, n, dtype=dtype, device="cuda")
        return 2.0 * n**3 / _best_seconds(lambda: (x @ x, torch.cuda.synchronize())) / 1e9

    source = torch.ones(1 << 28, device="cuda")
    target = torch.zeros_like(source)
    copy = 8 * source.numel() / _best_seconds(lambda: (target.copy_(source), torch.cuda.synchronize()))
    return {
        "threads": torch.get_num_threads(),
        "peak_gflops_f32": product(torch.float32),
        "peak_gflops_f64": product(torch.float64),
        "peak_gflops_bf16": product(torch.bfloat16),
        "memory_gbs": copy / 1e9,
    }


def gpu_cache_bytes() -> int:
    """Return the size of the current GPU's second-level cache."""
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


def last_cache_bytes(caches: dict[str, int]) -> int:
    """Return the size of the last cache, 0 where the machine does not tell."""
    return caches[max(caches)] if caches else 0


def fraction_of_limit(
    case: Case, seconds: float, limit: Limits, cache_bytes: int
) -> tuple[float, Literal["flops", "bytes"]]:
    """Return the share of the binding limit that a call reached, and which limit that is.

    Traffic that fits the last cache can stay there from call to call, so memory is then no limit. Twice the cache,
    because two sets of inputs take turns. Anything but float64 is held against the float32 peak, in which 16-bit types
    accumulate, or the bfloat16 peak if the case says that such a filter may do the work.
    """
    peak = limit["peak_gflops_f64" if case.dtype == "float64" else "peak_gflops_f32"]
    if case.bf16_filter:
        peak = max(peak, limit["peak_gflops_bf16"])
    flops_seconds = case.flops / (peak * 1e9)
    bytes_seconds = case.bytes / (limit["memory_gbs"] * 1e9) if case.bytes > 2 * cache_bytes else 0.0
    if bytes_seconds > flops_seconds:
        return bytes_seconds / seconds, "bytes"
    return flops_seconds / seconds, "flops"


def _fma_peak(dtype: str, threads: int, seconds: float) -> float:
    # All cores at once: under such a load clocks drop, and N times one core would be a peak that nobody reaches.
    with ThreadPoolExecutor(threads) as pool:
        tries = [sum(pool.map(gramian._C.fma_peak, [dtype] * threads, [seconds] * threads)) for _ in range(5)]
    return max(tries)


def _best_seconds(call: Callable[[], object]) -> float:
    tries = []
    for _ in range(6):
        start = time.perf_counter()
        call()
        tries.append(time.perf_counter() - start)
    return min(tries)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpuinfo(key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1) if found else ""


def _isa() -> str:
    flags = _cpuinfo("flags").split()
    levels = {"avx512f": "AVX-512", "avx2": "AVX2", "sse4_2": "SSE4.2"}
    return next((name for flag, name in levels.items() if flag in flags), platform.machine())


def _caches() -> dict[str, int]:
    sizes = {}
    for cache in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size = re.fullmatch(r"(\d+)K", _text(cache / "size"))
        if size and _text(cache / "type") != "Instruction":
            sizes["L" + _text(cache / "level")] = int(size.group(1)) << 10
    return dict(sorted(sizes.items()))


def _blas() -> str:
    """Return torch's BLAS; a peer that brings its own says so by its version."""
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    return next((line for line in lines if "Math Kernel Library" in line or line.startswith("OpenBLAS")), "unknown")


def _commit() -> str:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
