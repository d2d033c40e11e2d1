"""Ranks against one process: two of one thread each against the local op, and what one rank costs beside it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.case import Case, Peer
from benchmarks.team import Team, share
from gramian import distributed, neighbors

if TYPE_CHECKING:
    from collections.abc import Callable

Digest = tuple[float, float]  # of a result: what two results of the same work agree on


def points(n: int, d: int, seed: int, spread: float) -> Tensor:
    """Return a hundred clouds, as the representations of a data set of classes are."""
    generator = torch.Generator().manual_seed(seed)
    centers = spread * torch.randn(100, d, generator=generator)
    return centers[torch.randint(100, (n,), generator=generator)] + torch.randn(n, d, generator=generator)


def _digest(first: Tensor, second: Tensor) -> Digest:
    return float(first.double().sum()), float(second.double().sum())


def _keep(rows: dict[Any, Any], n: int, d: int, seed: int, spread: float) -> None:
    rows[n, d, seed] = share(points(n, d, seed, spread))


def run_knn(rows: dict[Any, Any], key: tuple[int, int, int], k: int) -> Digest:
    return _digest(*distributed.knn(rows[key], k, exclude_self=True))


def run_kmeans(rows: dict[Any, Any], key: tuple[int, int, int], start: Tensor, rounds: int) -> Digest:
    found = distributed.kmeans(rows[key], len(start), init=start, max_iter=rounds)
    return found.inertia, float(found.labels.double().sum())


@functools.cache
def _team(size: int) -> Team:
    return Team(size)


def _gramian_version() -> str:
    import gramian

    return gramian.__version__


def _case(
    op: str,
    name: str,
    shape: tuple[int, int, float],
    ranks: int,
    *,
    over_ranks: Callable[[Tensor, tuple[int, int, int]], Digest],
    alone: Callable[[Tensor], Digest],
    flops: float,
) -> Case:
    n, d, spread = shape

    def setup(seed: int) -> tuple[Tensor, tuple[int, int, int]]:
        if ranks > 1:
            _team(ranks).ask(_keep, n, d, seed, spread)
        return points(n, d, seed, spread), (n, d, seed)

    def error(result: Digest, inputs: tuple[Tensor, tuple[int, int, int]]) -> float:
        expected = alone(inputs[0])
        return max(abs(a - b) / max(abs(b), 1.0) for a, b in zip(result, expected, strict=True))

    return Case(
        op=op,
        name=f"{name}, {ranks} rank{'s' if ranks > 1 else ''}",
        dtype="float32",
        setup=setup,
        ours=lambda inputs: over_ranks(*inputs),
        peers=[
            Peer(name="gramian, local op", version=_gramian_version, call=name, run=lambda inputs: alone(inputs[0]))
        ],
        flops=flops / ranks,  # of each rank, as the limit is that of one core
        bytes=4.0 * n * d / ranks,
        error=error,
        bf16_filter=op.endswith("knn"),
        rounds=4,
    )


def _knn(n: int, d: int, k: int, ranks: int) -> Case:
    def over_ranks(x: Tensor, key: tuple[int, int, int]) -> Digest:
        if ranks == 1:
            return run_knn({key: x}, key, k)
        parts = _team(ranks).ask(run_knn, key, k)
        return sum(first for first, _ in parts), sum(second for _, second in parts)

    return _case(
        "distributed.knn",
        f"self n={n} d={d} k={k}",
        (n, d, 0.3),
        ranks,
        over_ranks=over_ranks,
        alone=lambda x: _digest(*neighbors.knn(x, k, exclude_self=True)),
        flops=1.0 * n * n * d,
    )


def _kmeans(n: int, d: int, clusters: int, rounds: int, ranks: int) -> Case:
    def over_ranks(x: Tensor, key: tuple[int, int, int]) -> Digest:
        start = x[:clusters]
        if ranks == 1:
            return run_kmeans({key: x}, key, start, rounds)
        parts = _team(ranks).ask(run_kmeans, key, start, rounds)
        return parts[0][0], sum(labels for _, labels in parts)

    def alone(x: Tensor) -> Digest:
        found = neighbors.kmeans(x, clusters, init=x[:clusters], max_iter=rounds)
        return found.inertia, float(found.labels.double().sum())

    return _case(
        "distributed.kmeans",
        f"n={n} d={d} k={clusters} {rounds} rounds",
        (n, d, 0.3),
        ranks,
        over_ranks=over_ranks,
        alone=alone,
        flops=2.0 * n * d * clusters * rounds,
    )


CASES = [
    _kmeans(20_000, 32, 20, 10, 1),
    _knn(20_000, 128, 10, 1),
    _knn(50_000, 128, 10, 2),
    _kmeans(50_000, 128, 100, 50, 2),
    _kmeans(50_000, 128, 1000, 20, 2),
    _knn(4_000, 32, 10, 2),
]
