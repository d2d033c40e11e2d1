"""Ranks that stay alive between calls: processes of one thread each, joined by gloo over the loopback."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from benchmarks.worker import growth_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from torch import Tensor


class Team:
    """As many processes as ranks. Each keeps its rows of the data sets that it was given."""

    def __init__(self, size: int) -> None:
        """Start them and wait until they have met."""
        self.size = size
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._pipes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, rank, size, self._folder.name), daemon=True).start()
            self._pipes.append(ours)
        self.ask(_barrier)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Let every rank call ``function(rows, *arguments)`` and return what each gives; ``rows`` keeps what it wants to keep."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [pipe.recv() for pipe in self._pipes]
        for failed, answer in answers:
            if failed:
                raise RuntimeError(answer)
        return [answer for _, answer in answers]


def share(x: Tensor) -> Tensor:
    """Return this rank's part of rows that every rank can make."""
    return x.tensor_split(dist.get_world_size())[dist.get_rank()].clone()


def timed(rows: dict[Any, Any], function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds of a call that all ranks begin together."""
    dist.barrier()
    start = time.perf_counter()
    function(rows, *arguments)
    return time.perf_counter() - start


def grown(rows: dict[Any, Any], function: Callable[..., Any], *arguments: Any) -> float | None:
    """Return the MiB by which a call raises this rank's peak."""
    return growth_of(lambda: function(rows, *arguments))


def _barrier(_: dict[Any, Any]) -> None:
    dist.barrier()


def _serve(pipe: Connection, rank: int, size: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), size), rank=rank, world_size=size)
    rows: dict[Any, Any] = {}
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send((False, function(rows, *arguments)))
        except Exception:  # noqa: BLE001 - whatever it is, the parent raises it
            pipe.send((True, traceback.format_exc()))
