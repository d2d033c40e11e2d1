"""A persistent process of one environment and one thread count; everything that is timed runs in one.

Environment variables of OpenBLAS and OpenMP are read once, when the library loads: hence a process for each setting.
Messages travel over a pipe of their own, because peers print to stdout.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

import torch

import gramian
from benchmarks import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from benchmarks.case import Case, Environment

OURS = 0  # index of our side; the peers follow
REST_SECONDS = 0.01  # idle OpenMP threads spin for some milliseconds; let those of the side before go to sleep
TUNED = "SkylakeX"  # the OpenBLAS kernels of the tuned environment
# glibc then gives no large block back to the system, whose fresh pages can cost more than the arithmetic in them.
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}


class First(TypedDict):
    """The first call of a side."""

    version: str
    seconds: float
    error: float | None


class WorkerError(RuntimeError):
    """A side raised; the message is its traceback, `reason` its type and the first line of its message."""

    def __init__(self, reason: str, trace: str) -> None:
        """Keep both."""
        super().__init__(trace)
        self.reason = reason


def environment_variables(environment: Environment, threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker: `base` without what a user would not have, thread counts equal for all."""
    variables = {key: value for key, value in base.items() if key not in {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}}
    if environment == "tuned":
        variables["OPENBLAS_CORETYPE"] = TUNED
    if environment == "kept":
        variables |= KEPT
    for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[key] = str(threads)
    # The worker imports what the parent can import, by the same names.
    variables["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return variables


@final
class Worker:
    """The parent's end of a worker process."""

    def __init__(self, environment: Environment, threads: int, device: str = "cpu") -> None:
        """Start the process; it answers when it has imported torch."""
        self.device = device
        self._name = f"worker ({environment}, threads={threads})"
        self._pipe, child = multiprocessing.Pipe()
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", str(child.fileno()), str(threads), device],
                env=environment_variables(environment, threads, os.environ),
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what peers print must not mix with the tables
            )

    def ask(self, command: str, *arguments: object, **options: object) -> Any:
        """Run one method of the process's `Session` and return its answer.

        Raises:
            WorkerError: the method raised.
            RuntimeError: the process died, for example for want of memory.
        """
        try:
            self._pipe.send((command, arguments, options))
            failed, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            message = f"{self._name} ended with exit code {self._process.wait()} in {command}{arguments}"
            raise RuntimeError(message) from error
        if failed:
            raise WorkerError(*answer)
        return answer

    def __enter__(self) -> Worker:
        """Return the worker itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pipe, at which the process ends."""
        self._pipe.close()
        self._process.wait()


class Session:
    """The child's end: the open case and its inputs. Every public method is a command."""

    def __init__(self, threads: int, device: str) -> None:
        """Open nothing yet."""
        self._threads = threads
        self._device = torch.device(device)

    def open(self, module: str, index: int, input_sets: int = 2) -> None:
        """Take the case ``module.CASES[index]`` and make its inputs, one set for each seed.

        Cases are found by name and index, not sent, so that they may hold lambdas and closures.
        """
        self._inputs: list[Any] = []  # the last case's inputs go before this one's come
        self._case: Case = importlib.import_module(module).CASES[index]
        self._runs: list[Callable[[Any], Any]] = [self._case.ours, *(peer.run for peer in self._case.peers)]
        self._inputs = [moved(self._case.setup(seed), self._device) for seed in range(input_sets)]

    def first(self, side: int) -> First:
        """Run a side for the first time; its result also gives the error, outside the clock."""
        version = self._version(side)
        start = time.perf_counter()
        result = self._runs[side](self._inputs[0])
        self._wait()
        seconds = time.perf_counter() - start
        error = None
        if not isinstance(self._case.error, str):
            error = float(self._case.error(*(moved(of, torch.device("cpu")) for of in (result, self._inputs[0]))))
            self._inputs[0] = moved(self._inputs[0], self._device)  # a module moves in place
        return {"version": version, "seconds": seconds, "error": error}

    def turn(self, side: int, calls: int, first_input: int, *, warm: bool) -> float:
        """Return the seconds of one call, as the mean of `calls` calls that go round the input sets.

        A warm turn does everything once before the clock starts. A single call before it was tried and is too little:
        on two cores, a two-thread call of 0.4 ms took up to 0.95 ms in turns of 50 ms that followed another process,
        and 0.4 ms again once half a turn or more had run before the clock.
        """
        run = self._runs[side]
        schedule = [self._inputs[(first_input + call) % len(self._inputs)] for call in range(calls)]
        time.sleep(REST_SECONDS)
        if warm:
            for inputs in schedule:
                run(inputs)
        self._wait()
        start = time.perf_counter()
        for inputs in schedule:
            run(inputs)
        self._wait()
        return (time.perf_counter() - start) / calls

    def memory(self, side: int) -> float | None:
        """Return the MiB by which one call raised the peak of this process above its inputs, outputs included.

        For a fresh process: later, what an allocator or a library kept from earlier calls would not count. None where
        the kernel cannot reset a peak.
        """
        self._version(side)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self._runs[side](self._inputs[0])
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        torch.ones(256, 256) @ torch.ones(256, 256)  # thread pool and BLAS buffers of torch, the same for every side
        return growth_of(lambda: self._runs[side](self._inputs[0]))

    def limits(self, seconds: float) -> machine.Limits:
        """Measure the machine's limits at this process's thread count, or those of the GPU."""
        return machine.limits(self._threads, seconds) if self._device.type == "cpu" else machine.gpu_limits()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _version(self, side: int) -> str:
        return gramian.__version__ if side == OURS else self._case.peers[side - 1].version()


def moved(values: Any, device: torch.device) -> Any:
    """Return `values` with every tensor and module in it on `device`, also within tuples, lists and dicts."""
    if isinstance(values, (torch.Tensor, torch.nn.Module)):
        return values.to(device)
    if isinstance(values, dict):
        return {key: moved(value, device) for key, value in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(moved(value, device) for value in values))
    return type(values)(moved(v, device) for v in values) if isinstance(values, (list, tuple)) else values


def serve(pipe: Connection, threads: int, device: str) -> None:
    """Answer commands until the parent closes the pipe."""
    torch.set_num_threads(threads)
    session = Session(threads, device)
    while True:
        try:
            command, arguments, options = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, getattr(session, command)(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - whatever a peer raises becomes its row's text
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            answer = (True, (reason, traceback.format_exc()))
        pipe.send(answer)


def growth_of(call: Callable[[], Any]) -> float | None:
    """Return the MiB by which a call raises the peak of this process, its result included; None where it cannot be told."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that setup freed must not serve the call
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := resident
    except (AttributeError, OSError):
        call()
        return None
    before = _status_mib("VmRSS")
    result = call()
    growth = _status_mib("VmHWM") - before
    del result
    return max(growth, 0.0)


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
