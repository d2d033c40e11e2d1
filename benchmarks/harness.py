"""Measures cases: sides take turns, round by round, and the rounds become rows.

Never one side in a block after the other: on a shared machine a drift between two blocks is as large as a result.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.report import SPREAD_LIMIT
from benchmarks.worker import OURS, TUNED, Worker, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from benchmarks.case import Case, Environment, Peer
    from benchmarks.report import Null, PeerRow, Row
    from benchmarks.worker import First


# A fair coin shows the same side in all of 10 rounds once in 512 runs; in 4 rounds, once in 8.
NULL_ROUNDS = 10
# A call this long outlasts what the side before it left behind; calling it twice a turn would buy nothing.
LONG_SECONDS = 1.0
# A call this long is made once: a second one, and a third for its memory, would cost minutes and tell the same.
ONCE_SECONDS = 10.0


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        turn_seconds: a turn repeats a short call until it lasts this long.
        max_rounds: an upper bound on every case's rounds, even.
        limit_seconds: length of one try at the FMA peak.
    """

    turn_seconds: float = 0.05
    max_rounds: int = 100
    limit_seconds: float = 0.2


QUICK = Effort(turn_seconds=0.01, max_rounds=4, limit_seconds=0.05)


@dataclass(frozen=True)
class Found:
    """A case and where a worker finds it: ``module.CASES[index]``."""

    module: str
    index: int
    case: Case


class Side:
    """A side that is ready to take turns: called once, and its turns sized."""

    def __init__(self, worker: Worker, index: int, effort: Effort, *, long: bool = False) -> None:
        """Make the first call, which is reported on its own, and a second one, which sizes the turns; of long calls the first is a turn."""
        self._worker = worker
        self._index = index
        self.first: First = worker.ask("first", index)
        # Not from the first call: that may have compiled for seconds what then runs in microseconds.
        self._first_turn = self.first["seconds"] if long else None
        self.once = long and self.first["seconds"] > ONCE_SECONDS
        seconds = LONG_SECONDS if long else worker.ask("turn", index, 1, 0, warm=False)
        self._short = seconds < LONG_SECONDS
        self._calls = min(max(1, math.ceil(effort.turn_seconds / max(seconds, 1e-9))), 10_000)

    def turn(self, first_input: int) -> float:
        """Return the seconds of one call."""
        if self._first_turn is not None:
            seconds = self._first_turn
            if not self.once:
                self._first_turn = None
            return seconds
        found: float = self._worker.ask("turn", self._index, self._calls, first_input, warm=self._short)
        return found


@dataclass(frozen=True)
class Contest:
    """A case whose sides are ready, by index, ours first; and for every peer that is not, why."""

    found: Found
    sides: dict[int, Side]
    failures: dict[int, str]
    device: str = "cpu"


@contextlib.contextmanager
def start_workers(
    threads: int, device: str = "cpu", environments: Collection[Environment] = ()
) -> Iterator[dict[Environment, Worker]]:
    """Start a worker for users, and for each environment that this machine offers; on a GPU those of the CPU make no difference."""
    with contextlib.ExitStack() as stack:
        workers: dict[Environment, Worker] = {"user": stack.enter_context(Worker("user", threads, device))}
        for environment in sorted({*environments} - {"user"}) if device == "cpu" else ():
            if environment != "tuned" or machine.has_avx512():
                workers[environment] = stack.enter_context(Worker(environment, threads))
        yield workers


def interleave(turns: Sequence[Callable[[int], float]], rounds: int) -> list[list[float]]:
    """Let every side take one turn in each round and return the seconds, ``[side][round]``.

    The order of the sides turns round from one round to the next. The input set, which a turn is given, changes every
    second round, so that each set meets both orders.
    """
    seconds = [[0.0] * rounds for _ in turns]
    for index in range(rounds):
        sides = range(len(turns)) if index % 2 == 0 else reversed(range(len(turns)))
        for side in sides:
            seconds[side][index] = turns[side](index // 2)
    return seconds


def compare(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, list[float]]:
    """Return the ratio of the median rounds, peer over ours, and the smallest and largest ratio of a round."""
    ratios = [theirs / mine for mine, theirs in zip(ours, peer, strict=True)]
    return statistics.median(peer) / statistics.median(ours), [min(ratios), max(ratios)]


def interquartile_range(seconds: Sequence[float]) -> float:
    """Return the distance between the quartiles."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return high - low


def start(found: Found, workers: Mapping[Environment, Worker], effort: Effort) -> Contest:
    """Open a case in its workers and call every side once.

    Raises:
        WorkerError: our side raised. A peer that raises is left out, and its row says why.
    """
    for environment, worker in workers.items():
        if environment == "user" or any(peer.environment == environment for peer in found.case.peers):
            worker.ask("open", found.module, found.index)
    sides = {OURS: Side(workers["user"], OURS, effort, long=found.case.long)}
    failures = {}
    for index, peer in enumerate(found.case.peers, start=1):
        if peer.environment not in workers:
            cpu = workers["user"].device == "cpu"
            failures[index] = f"this CPU cannot run OpenBLAS's {TUNED} kernels" if cpu else "runs on the CPU"
            continue
        try:
            sides[index] = Side(workers[peer.environment], index, effort, long=found.case.long)
        except WorkerError as error:
            failures[index] = error.reason
    return Contest(found, sides, failures, workers["user"].device)


def measure_null(contest: Contest, threads: int) -> Null:
    """Measure ours against ours: a band that excludes 1.00 shows what this machine makes up.

    Ours is the first and the last side of every round and the peers take their turns between, as they do in the
    measurement: what a peer leaves behind for the side after it must show here. It does not in calls of seconds.
    """
    ours = contest.sides[OURS]
    turns = [side.turn for side in ([ours] if contest.found.case.long else contest.sides.values())]
    seconds = interleave([*turns, ours.turn], NULL_ROUNDS)
    _, band = compare(seconds[0], seconds[-1])
    return {"case": contest.found.case.label, "threads": threads, "band": band}


def measure(contest: Contest, limit: machine.Limits, cache_bytes: int, effort: Effort) -> Row:
    """Measure one case: its rounds and, where asked for, the memory of each side."""
    found, sides = contest.found, contest.sides
    case, threads = found.case, limit["threads"]
    rounds = min(case.rounds, effort.max_rounds)
    seconds = dict(zip(sides, interleave([side.turn for side in sides.values()], rounds), strict=True))
    _warn_of_spread(case, seconds)
    median = statistics.median(seconds[OURS])
    share, binding = machine.fraction_of_limit(case, median, limit, cache_bytes)
    peers: list[PeerRow] = []
    for index, peer in enumerate(case.peers, start=1):
        row = _empty_row(peer, threads)
        if index in sides:
            row["version"] = sides[index].first["version"]
            row["seconds"] = statistics.median(seconds[index])
            row["iqr"] = interquartile_range(seconds[index])
            row["first_call"] = sides[index].first["seconds"]
            row["ratio"], row["band"] = compare(seconds[OURS], seconds[index])
            row["error"] = sides[index].first["error"]
            row["memory_mib"] = None if sides[index].once else _memory(contest, index, peer.environment, threads)
        row["failure"] = contest.failures.get(index)
        peers.append(row)
    return {
        "op": case.op,
        "case": case.name,
        "dtype": case.dtype,
        "threads": threads,
        "rounds": rounds,
        "seconds": median,
        "iqr": interquartile_range(seconds[OURS]),
        "first_call": sides[OURS].first["seconds"],
        "flops": case.flops,
        "bytes": case.bytes,
        "of_peak": share,
        "limit": binding,
        "error": sides[OURS].first["error"],
        "error_note": case.error if isinstance(case.error, str) else None,
        "memory_mib": _memory(contest, OURS, "user", threads),
        "peers": peers,
    }


def _warn_of_spread(case: Case, seconds: Mapping[int, Sequence[float]]) -> None:
    for index, rounds in seconds.items():
        spread = interquartile_range(rounds) / statistics.median(rounds)
        if spread > SPREAD_LIMIT:
            name = "ours" if index == OURS else case.peers[index - 1].name
            sys.stderr.write(f"warning: {case.label}: {name}: the quartiles lie {spread:.0%} of the median apart\n")


def _memory(contest: Contest, index: int, environment: Environment, threads: int) -> float | None:
    found = contest.found
    if not found.case.memory:
        return None
    with Worker(environment, threads, contest.device) as fresh:
        fresh.ask("open", found.module, found.index, 1)
        growth: float | None = fresh.ask("memory", index)
    return growth


def _empty_row(peer: Peer, threads: int) -> PeerRow:
    return {
        "name": peer.name,
        "version": None,
        "call": peer.call,
        "environment": peer.environment,
        "threads": threads,
        "seconds": None,
        "iqr": None,
        "first_call": None,
        "ratio": None,
        "band": None,
        "error": None,
        "memory_mib": None,
        "failure": None,
    }
