"""6j symbols against calls of wigxjpf, wignernj and wigner; weights of 4-simplices with gradients against torch.linalg and
a compiled version by hand; a Turaev-Viro sum against dense contraction."""

from __future__ import annotations

import itertools
import math
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import Case, Peer
from gramian import simplex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PAIRS = list(itertools.combinations(range(5), 2))


# ---- 6j symbols ----


class Symbols(NamedTuple):
    """Spins as both sides want them."""

    spins: Tensor  # [6, n], doubled
    rows: list[list[int]]
    halves: list[list[float]]  # not doubled

    @classmethod
    def of(cls, spins: Tensor) -> Symbols:
        """Of doubled spins, [6, n]."""
        return cls(spins, spins.T.tolist(), (spins.T / 2).tolist())


def _random(n: int, two_j_max: int, seed: int) -> Symbols:
    """Admissible spins: triples are completed within the triangle inequalities."""
    generator = torch.Generator().manual_seed(seed)
    kept, found = [], 0
    while found < n:
        spins = torch.randint(0, two_j_max + 1, (6, 1 << 20), generator=generator)
        fits = torch.ones(spins.shape[1], dtype=torch.bool)
        for a, b, c in ((0, 1, 2), (0, 4, 5), (3, 1, 5), (3, 4, 2)):
            x, y, z = spins[a], spins[b], spins[c]
            fits &= ((x + y + z) % 2 == 0) & (z <= x + y) & (z >= (x - y).abs())
        kept.append(spins[:, fits])
        found += kept[-1].shape[1]
    return Symbols.of(torch.cat(kept, 1)[:, :n].contiguous())


def _one(two_j: int, _: int) -> Symbols:
    return Symbols.of(torch.full((6, 1), two_j))


def _exact(rows: Sequence[Sequence[int]]) -> list[float]:
    return [float(simplex.sixj_exact(*row)) for row in rows]


def _error(result: Any, inputs: Symbols) -> float:
    some = range(0, len(inputs.rows), max(1, len(inputs.rows) // 200))
    exact = _exact([inputs.rows[i] for i in some])
    return max(abs(float(result[i]) - value) for i, value in zip(some, exact, strict=True))


def _wigxjpf(rows: list[list[int]]) -> list[float]:
    import pywigxjpf as wig

    return [wig.wig6jj(*six) for six in rows]


def _wigxjpf_version(two_j_max: int) -> str:
    import pywigxjpf as wig

    wig.wig_table_init(2 * two_j_max, 6)
    wig.wig_temp_init(2 * two_j_max)
    return version("pywigxjpf")


def _wignernj(rows: list[list[float]]) -> list[float]:
    import wignernj

    return [wignernj.wigner6j(*six) for six in rows]


def _wigner_version() -> str:
    import wigner  # noqa: F401

    return version("wigner")


def _families(rows: Iterable[Sequence[float]]) -> list[Any]:
    import wigner

    return [wigner.wigner_6j(*five)[2] for five in rows]


def _pick(rows: list[list[float]]) -> list[float]:
    """Single symbols by family calls: j1 is one entry."""
    import wigner

    found = []
    for j1, *five in rows:
        first, _, values = wigner.wigner_6j(*five)
        found.append(values[round(j1 - first)])
    return found


_WIGXJPF = partial(Peer, name="pywigxjpf", call="[wig6jj(*spins) for spins in ...]")
_WIGNERNJ = partial(
    Peer,
    name="wignernj",
    version=lambda: (__import__("wignernj"), version("wignernj"))[1],
    call="[wigner6j(*spins) for spins in ...]",
)
_WIGNER = partial(
    Peer, name="wigner", version=_wigner_version, call="[wigner_6j(*five) for five in ...], one call a family"
)


def _sixj_case(n: int, two_j_max: int, *, everyone: bool, rounds: int) -> Case:
    peers = [_WIGXJPF(version=partial(_wigxjpf_version, two_j_max), run=lambda inputs: _wigxjpf(inputs.rows))]
    if everyone:
        peers += [
            _WIGNERNJ(run=lambda inputs: _wignernj(inputs.halves)),
            _WIGNER(run=lambda inputs: _pick(inputs.halves)),
        ]
    one = n == 1
    return Case(
        op="simplex.sixj",
        name=f"one symbol, six spins of {two_j_max // 2}" if one else f"{n} random, 2j <= {two_j_max}",
        dtype="float64",
        setup=partial(_one, two_j_max) if one else partial(_random, n, two_j_max),
        ours=lambda inputs: simplex.sixj(*inputs.spins),
        flops=(20.0 * two_j_max if one else 500.0) * n,
        bytes=56.0 * n,
        error=_error,
        peers=peers,
        rounds=rounds,
    )


def _families_of(two_j_max: int) -> Iterator[tuple[float, ...]]:
    """The five spins of every family over j1 that has a member in the table."""
    half = [j / 2 for j in range(2 * two_j_max + 1)]
    for a, b, c, d in itertools.product(range(two_j_max + 1), repeat=4):
        if (a + b + c + d) % 2 == 0 and max(abs(a - b), abs(c - d)) <= min(a + b, c + d):
            for y in range(max(abs(a - d), abs(c - b)), min(a + d, c + b, two_j_max) + 1, 2):
                yield half[a], half[b], half[y], half[c], half[d]


def _table_case(two_j_max: int, *, symbols: int, against: Sequence[str], rounds: int) -> Case:
    def setup(_: int) -> Symbols:
        chunks = simplex.sixj_table(two_j_max) if "symbols" in against else ()
        spins = [simplex._tables._all_spins(chunk, two_j_max) for chunk in chunks]
        return Symbols.of(torch.cat([*spins, torch.zeros(6, 0, dtype=torch.int64)], 1))

    peers = []
    if "families" in against:
        peers.append(_WIGNER(run=lambda _: len(_families(_families_of(two_j_max)))))
    if "symbols" in against:
        peers += [
            _WIGXJPF(version=partial(_wigxjpf_version, two_j_max), run=lambda inputs: len(_wigxjpf(inputs.rows))),
            _WIGNERNJ(run=lambda inputs: len(_wignernj(inputs.halves))),
        ]
    return Case(
        op="simplex.sixj_table",
        name=f"2j <= {two_j_max}: {symbols} symbols",
        dtype="float64",
        setup=setup,
        ours=lambda _: sum(len(chunk.values) for chunk in simplex.sixj_table(two_j_max)),
        flops=10.0 * symbols,
        bytes=8.0 * symbols,
        error="symbols are held one by one against exact rationals in the tests",
        peers=peers,
        rounds=rounds,
    )


def _block_case(two_j: int, *, rounds: int) -> Case:
    """Every member of a block: ours in one call, theirs by one family call for each l1."""
    n = two_j + 1

    def families(_: Any) -> list[Any]:
        j = two_j / 2
        return _families([[j, j, y, j, j] for y in range(n)])

    def error(result: Any, _: Any) -> float:
        values = result.values if isinstance(result, simplex.SixjBlock) else torch.tensor([list(v) for v in result]).T
        some = [(x, y) for x in range(0, n, max(1, n // 8)) for y in range(0, n, max(1, n // 8))]
        exact = _exact([[2 * x, two_j, two_j, 2 * y, two_j, two_j] for x, y in some])
        return max(
            abs(float(values[x, y]) - e) * math.sqrt((2 * x + 1) * (2 * y + 1))
            for (x, y), e in zip(some, exact, strict=True)
        )

    return Case(
        op="simplex.sixj_block",
        name=f"four spins of {two_j // 2}: {n} x {n}",
        dtype="float64",
        setup=lambda _: None,
        ours=lambda _: simplex.sixj_block(two_j, two_j, two_j, two_j),
        flops=10.0 * n * n,
        bytes=8.0 * n * n,
        error=error,
        peers=[_WIGNER(run=families)],
        rounds=rounds,
    )


def _blocks_case(two_j: int, count: int, *, rounds: int) -> Case:
    """Many blocks in one call, so that ours counts for nothing; a call of theirs is a family, and its own costs 0.3 us."""
    j, n = two_j / 2, two_j + 1
    families = [[j, j, y, j, j] for y in range(n)] * count
    return Case(
        op="simplex.sixj_blocks",
        name=f"{count} blocks, four spins of {two_j // 2}: {n} x {n}",
        dtype="float64",
        setup=lambda _: torch.full((4, count), two_j),
        ours=lambda blocks: torch.ops.gramian.simplex_sixj_blocks(blocks, 2 * two_j),
        flops=10.0 * n * n * count,
        bytes=8.0 * n * n * count,
        error="one block is held against exact rationals in the case before",
        peers=[_WIGNER(run=lambda _: _families(families))],
        rounds=rounds,
    )


# ---- 4-simplices ----


def _simplices(n: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 5, 4, generator=generator, dtype=torch.float64)
    lengths = torch.stack([(points[:, i] - points[:, j]).norm(dim=1) for i, j in PAIRS], 1)
    return [lengths, torch.rand(n, 10, generator=generator, dtype=torch.float64)]


def _gradients(weight: Callable[[Tensor, Tensor], Sequence[Tensor]], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    lengths, labels = (t.detach().requires_grad_() for t in inputs)
    action, log_volume = weight(lengths, labels)
    return torch.autograd.grad((action + log_volume).sum(), (lengths, labels))


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


def _cofactors(lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    g11, g22, g33, g44, d12, d13, d14, d23, d24, d34 = lengths.square().unbind(1)
    g12, g13, g14 = (g11 + g22 - d12) / 2, (g11 + g33 - d13) / 2, (g11 + g44 - d14) / 2
    g23, g24, g34 = (g22 + g33 - d23) / 2, (g22 + g44 - d24) / 2, (g33 + g44 - d34) / 2
    g = [[g11, g12, g13, g14], [g12, g22, g23, g24], [g13, g23, g33, g34], [g14, g24, g34, g44]]

    def cofactor(row: int, col: int) -> Tensor:
        (a, b, c), (x, y, z) = ([k for k in range(4) if k != without] for without in sorted((row, col)))
        minor = (
            g[a][x] * (g[b][y] * g[c][z] - g[b][z] * g[c][y])
            - g[a][y] * (g[b][x] * g[c][z] - g[b][z] * g[c][x])
            + g[a][z] * (g[b][x] * g[c][y] - g[b][y] * g[c][x])
        )
        return -minor if (row + col) % 2 else minor

    inner = [[cofactor(row, col) for col in range(4)] for row in range(4)]
    det = sum(g[0][k] * inner[0][k] for k in range(4))
    side = [-sum(row) for row in inner]
    whole = [[-sum(side), *side], *([first, *row] for first, row in zip(side, inner, strict=True))]
    angles = [torch.atan2((whole[i][i] * whole[j][j] - whole[i][j].square()).sqrt(), -whole[i][j]) for i, j in PAIRS]
    return (labels * torch.stack(angles, 1)).sum(1), det.log() / 2


# Slots of the multipliers, worth two flops each: 290 multiplications (fused with an addition or not) forward and 490 backward,
# arc tangents and logarithm included; 22 roots and 27 quotients as the 16 and 8 multiplications for which they hold the divider
# (8.2 and 4.3 cycles of two slots, measured on Zen 3). It works beside the multipliers: perfect overlap would leave 1560.
_WEIGHT_FLOPS = 2.0 * ((290 + 490) + 16 * (11 + 11) + 8 * (11 + 16))


def _weight_case(n: int, *, compiled: bool, rounds: int, memory: bool) -> Case:
    peers = [
        Peer(
            name="torch",
            version=partial(version, "torch"),
            call="inv, slogdet, acos and autograd",
            run=lambda inputs: _gradients(_linalg, inputs),
        )
    ]
    if compiled:
        peers.append(
            Peer(
                name="torch.compile",
                version=partial(version, "torch"),
                call="compile(cofactors by hand and atan2), autograd",
                run=lambda inputs: _gradients(_compiled(), inputs),
            )
        )
    return Case(
        op="simplex.weight4",
        name=f"both gradients, n={n}",
        dtype="float64",
        setup=partial(_simplices, n),
        ours=lambda inputs: _gradients(_ours, inputs),
        flops=_WEIGHT_FLOPS * n,
        bytes=336.0 * n,
        error="values and gradients are held against NumPy's widest float in the tests",
        peers=peers,
        rounds=rounds,
        memory=memory,
    )


@cache
def _compiled() -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
    return torch.compile(_cofactors, dynamic=False)


# ---- State sums ----


class Sphere(NamedTuple):
    """The boundary of a 4-simplex, for both sides: edges of tetrahedra, dense symbols with phases, factors of edges."""

    edges: Tensor
    symbols: Tensor
    factors: Tensor


def _sphere(r: int, _: int) -> Sphere:
    edges = simplex.edges_of(torch.tensor([[k for k in range(5) if k != out] for out in range(5)]))
    grid = torch.cartesian_prod(*[torch.arange(r - 1)] * 6).T
    e01, e02, e03, e12, e13, e23 = grid
    phases = torch.tensor([1, -1j, -1, 1j], dtype=torch.complex128)[grid.sum(0) % 4]
    symbols = simplex.quantum_sixj(e01, e02, e12, e23, e13, e03, r=r) * phases
    n = torch.arange(1, r, dtype=torch.float64)
    factors = torch.sin(n * math.pi / r) / math.sin(math.pi / r) * (-1) ** (n - 1)
    return Sphere(edges, symbols.view([r - 1] * 6), factors.to(torch.complex128))


def _dense(r: int, inputs: Sphere) -> float:
    import opt_einsum

    operands: list[Any] = []
    for row in inputs.edges.tolist():
        operands += [inputs.symbols, row]
    for edge in range(10):
        operands += [inputs.factors, [edge]]
    total = opt_einsum.contract(*operands, [])
    return float(total.real) * (2 / r * math.sin(math.pi / r) ** 2) ** 5


def _turaev_viro_case(r: int, *, rounds: int) -> Case:
    return Case(
        op="simplex.turaev_viro",
        name=f"3-sphere, boundary of a 4-simplex, r={r}",
        dtype="float64",
        setup=partial(_sphere, r),
        ours=lambda inputs: simplex.turaev_viro(inputs.edges, 5, r=r),
        flops=8.0 * (r - 1) ** 6,
        bytes=16.0 * (r - 1) ** 6,
        error=lambda result, _: abs(result - 2 / r * math.sin(math.pi / r) ** 2),
        peers=[
            Peer(
                name="opt_einsum",
                version=lambda: (__import__("opt_einsum"), version("opt_einsum"))[1],
                call="contract(five dense symbols, ten factors); symbols made outside the clock",
                run=partial(_dense, r),
            )
        ],
        rounds=rounds,
    )


CASES = [
    _sixj_case(1, 200, everyone=True, rounds=6),
    _sixj_case(1, 2000, everyone=True, rounds=4),
    _sixj_case(100_000, 100, everyone=True, rounds=4),
    _sixj_case(1_000_000, 100, everyone=False, rounds=2),
    _table_case(10, symbols=42_393, against=("families", "symbols"), rounds=6),
    _table_case(20, symbols=1_766_270, against=("families", "symbols"), rounds=2),
    _table_case(30, symbols=17_378_632, against=("families",), rounds=2),
    _table_case(40, symbols=90_698_979, against=(), rounds=4),
    _block_case(20, rounds=10),
    _block_case(60, rounds=10),
    _block_case(200, rounds=10),
    _block_case(400, rounds=6),
    _blocks_case(60, 100, rounds=4),
    _blocks_case(200, 20, rounds=4),
    _blocks_case(400, 8, rounds=4),
    _weight_case(10_000, compiled=False, rounds=10, memory=True),
    _weight_case(200_000, compiled=True, rounds=4, memory=False),
    _weight_case(1_000_000, compiled=False, rounds=2, memory=False),
    _turaev_viro_case(5, rounds=6),
    _turaev_viro_case(8, rounds=2),
]
