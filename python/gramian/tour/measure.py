"""Runs a function in a process of its own, and says how long it took and how much memory it needed at its peak."""

from __future__ import annotations

import io
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

_MOST_RUNS, _MOST_SECONDS = 5, 2.0


@dataclass(frozen=True)
class Measured:
    """What a function returned, its fastest run in seconds, and the peak memory of its first in bytes."""

    result: Any
    seconds: float
    peak_bytes: int | None


class Measure:
    """A server that has the imports done and forks a fresh process for each measurement.

    Peak memory needs that: in a process that has computed before, freed memory and kept workspaces hide what is used.
    """

    def __init__(self, preload: list[str]) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(preload)
        forkserver.ensure_running()  # its imports take seconds: let them run while the caller prepares

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Measured:
        """Call `function(*arguments)`, a function at module level, up to five times within about two seconds."""
        here, there = self._context.Pipe()
        given = (there, function, _pack(arguments), torch.get_num_threads())
        process = self._context.Process(target=_measure, args=given)
        process.start()
        there.close()
        try:
            answer = _unpack(here.recv_bytes())
        except EOFError:
            process.join()
            raise RuntimeError(f"{function.__name__} ended its process with status {process.exitcode}") from None
        process.join()
        if isinstance(answer, Exception):
            raise answer
        return Measured(*answer)


def _measure(connection: Connection, function: Callable[..., Any], packed: bytes, threads: int) -> None:
    torch.set_num_threads(threads)
    arguments = _unpack(packed)
    try:
        before = _memory()
        result, seconds = _timed(function, arguments)
        after = _memory()
        runs = [seconds]
        while len(runs) < _MOST_RUNS and sum(runs) < _MOST_SECONDS:
            runs.append(_timed(function, arguments)[1])
        # Pages of libraries become resident when first touched; they are no memory that the function took.
        peak = after["VmHWM"] - after["RssFile"] - before["RssAnon"] if "RssAnon" in before else None
        connection.send_bytes(_pack((result, min(runs), peak)))
    except Exception as error:  # noqa: BLE001  (whatever it was, it is raised again in the parent)
        connection.send_bytes(_pack(error))


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begin


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = (line.partition(":") for line in lines if line.endswith("kB"))
    return {name: int(size.split()[0]) * 1024 for name, _, size in sizes}


# torch's own way of sending tensors shares memory through file descriptors, of which containers have few.
def _pack(value: Any) -> bytes:
    packed = io.BytesIO()
    torch.save(value, packed)
    return packed.getvalue()


def _unpack(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)
