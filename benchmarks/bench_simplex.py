"""6j symbols against calls of wigxjpf, and weights of 4-simplices with gradients against torch.linalg and its autograd."""

from __future__ import annotations

import itertools
import math
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import Case, Peer
from gramian import simplex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAIRS = list(itertools.combinations(range(5), 2))


# ---- 6j symbols ----


def _wigxjpf(spins: list[list[int]]) -> list[float]:
    import pywigxjpf as wig

    return [wig.wig6jj(*six) for six in spins]


def _wigxjpf_version() -> str:
    import pywigxjpf as wig

    wig.wig_table_init(2 * 200, 6)
    wig.wig_temp_init(2 * 200)
    return version("pywigxjpf")


def _peer(run: Callable[[Any], Any]) -> list[Peer]:
    return [Peer(name="pywigxjpf", version=_wigxjpf_version, call="[wig6jj(*spins) for spins in ...]", run=run)]


class Symbols(NamedTuple):
    """Spins as both sides want them."""

    spins: Tensor  # [6, n]
    rows: list[list[int]]


def _random(n: int, two_j_max: int, seed: int) -> Symbols:
    """Admissible spins: triples are completed within the triangle inequalities."""
    generator = torch.Generator().manual_seed(seed)
    kept, found = [], 0
    while found < n:
        spins = torch.randint(0, two_j_max + 1, (6, 8 * n), generator=generator)
        fits = torch.ones(8 * n, dtype=torch.bool)
        for a, b, c in ((0, 1, 2), (0, 4, 5), (3, 1, 5), (3, 4, 2)):
            x, y, z = spins[a], spins[b], spins[c]
            fits &= ((x + y + z) % 2 == 0) & (z <= x + y) & (z >= (x - y).abs())
        kept.append(spins[:, fits])
        found += kept[-1].shape[1]
    spins = torch.cat(kept, 1)[:, :n].contiguous()
    return Symbols(spins, spins.T.tolist())


def _error(result: Tensor, inputs: Symbols) -> float:
    some = range(0, len(inputs.rows), max(1, len(inputs.rows) // 200))
    exact = [float(simplex.sixj_exact(*inputs.rows[i])) for i in some]
    return max(abs(float(result[i]) - value) for i, value in zip(some, exact, strict=True))


def _sixj_case(n: int, two_j_max: int, *, rounds: int) -> Case:
    return Case(
        op="simplex.sixj",
        name=f"{n} random, 2j <= {two_j_max}",
        dtype="float64",
        setup=partial(_random, n, two_j_max),
        ours=lambda inputs: simplex.sixj(*inputs.spins),
        flops=10.0 * n,
        bytes=56.0 * n,
        error=_error,
        peers=_peer(lambda inputs: torch.tensor(_wigxjpf(inputs.rows), dtype=torch.float64)),
        rounds=rounds,
    )


def _spins_of(two_j_max: int) -> list[list[int]]:
    rows = []
    for chunk in simplex.sixj_table(two_j_max):
        for (a, b, c, d), begin, end in zip(
            chunk.blocks.T.tolist(), chunk.offsets[:-1], chunk.offsets[1:], strict=True
        ):
            if begin == end:
                continue
            first, last = max(abs(a - d), abs(c - b)), min(a + d, c + b, two_j_max)
            cols = (last - first) // 2 + 1
            for at in range(int(end - begin)):
                x, y = max(abs(a - b), abs(c - d)) + 2 * (at // cols), first + 2 * (at % cols)
                rows.append([x, a, b, y, c, d])
    return rows


def _table_case(two_j_max: int, *, against: bool, rounds: int) -> Case:
    def setup(_: int) -> list[list[int]]:
        return _spins_of(two_j_max) if against else []

    def ours(_: Any) -> float:
        return sum(float(chunk.values.sum()) for chunk in simplex.sixj_table(two_j_max))

    count = sum(len(chunk.values) for chunk in simplex.sixj_table(min(two_j_max, 20)))
    symbols = {40: 90_698_979}.get(two_j_max, count)
    return Case(
        op="simplex.sixj_table",
        name=f"2j <= {two_j_max}: {symbols} symbols",
        dtype="float64",
        setup=setup,
        ours=ours,
        flops=10.0 * symbols,
        bytes=8.0 * symbols,
        error="symbols are held one by one against exact rationals in the tests",
        peers=_peer(lambda rows: math.fsum(_wigxjpf(rows))) if against else [],
        rounds=rounds,
    )


# ---- 4-simplices ----


def _simplices(n: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 5, 4, generator=generator, dtype=torch.float64)
    lengths = torch.stack([(points[:, i] - points[:, j]).norm(dim=1) for i, j in PAIRS], 1)
    return [lengths, torch.rand(n, 10, generator=generator, dtype=torch.float64)]


def _gradients(weight: Callable[[Tensor, Tensor], Sequence[Tensor]], inputs: list[Tensor]) -> Tensor:
    lengths, labels = (t.detach().requires_grad_() for t in inputs)
    action, log_volume = weight(lengths, labels)
    return torch.cat(torch.autograd.grad((action + log_volume).sum(), (lengths, labels)), 1)


def _ours(lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    found = simplex.weight4(lengths, labels)
    return found.action, found.log_volume


def _linalg(lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    square = lengths.square()
    number = {pair: at for at, pair in enumerate(PAIRS)}
    rows = []
    for i in range(1, 5):
        apart = [
            square[:, number[min(i, j), max(i, j)]] if i != j else torch.zeros_like(square[:, 0]) for j in range(1, 5)
        ]
        rows.append(torch.stack([(square[:, i - 1] + square[:, j]) / 2 - apart[j] / 2 for j in range(4)], 1))
    gram = torch.stack(rows, 1)
    inverse = torch.linalg.inv(gram)
    first = -inverse.sum(2, keepdim=True)
    whole = torch.cat([torch.cat([-first.sum(1, keepdim=True), first.mT], 2), torch.cat([first, inverse], 2)], 1)
    size = whole.diagonal(dim1=1, dim2=2).sqrt()
    angles = [torch.acos(-whole[:, i, j] / (size[:, i] * size[:, j])) for i, j in PAIRS]
    return (labels * torch.stack(angles, 1)).sum(1), torch.linalg.slogdet(gram).logabsdet / 2


def _weight_case(n: int, *, rounds: int) -> Case:
    return Case(
        op="simplex.weight4",
        name=f"both gradients, n={n}",
        dtype="float64",
        setup=partial(_simplices, n),
        ours=lambda inputs: _gradients(_ours, inputs),
        flops=1400.0 * n,
        bytes=336.0 * n,
        error="values and gradients are held against NumPy's widest float in the tests",
        peers=[
            Peer(
                name="torch",
                version=partial(version, "torch"),
                call="inv, slogdet, acos and autograd",
                run=lambda inputs: _gradients(_linalg, inputs),
            )
        ],
        rounds=rounds,
        memory=True,
    )


CASES = [
    _sixj_case(100_000, 100, rounds=4),
    _table_case(10, against=True, rounds=6),
    _table_case(20, against=False, rounds=6),
    _table_case(40, against=False, rounds=2),
    _weight_case(10_000, rounds=10),
    _weight_case(200_000, rounds=4),
]
