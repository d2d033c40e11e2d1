"""Quantum 6j symbols at a root of unity, and state sums over triangulated 3-manifolds."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._sixj import sixj
from ._spins import stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LARGEST_LEVEL = 60
_TRIANGLES = ((0, 1, 3), (0, 2, 4), (1, 2, 5), (3, 4, 5))  # of a tetrahedron, as places of its edges
_COLUMNS = (0, 1, 3, 5, 4, 2)  # j1 j2 j3 l1 l2 l3 as places of edges 01, 02, 03, 12, 13, 23


def _quantum_factorials(r: int) -> tuple[Tensor, Tensor]:
    n = torch.arange(1, r, dtype=torch.float64)
    integers = torch.sin(n * math.pi / r) / math.sin(math.pi / r)
    logs = torch.cat([torch.zeros(1, dtype=torch.float64), integers.log().cumsum(0)])  # [n]! for n < r
    return integers, logs


def quantum_sixj(
    j1: Tensor | int,
    j2: Tensor | int,
    j3: Tensor | int,
    l1: Tensor | int,
    l2: Tensor | int,
    l3: Tensor | int,
    *,
    r: int,
) -> Tensor:
    r"""Quantum 6j symbols at :math:`q = e^{i \pi / r}` in the unitary normalisation, ``[n] = sin(n pi/r) / sin(pi/r)``.

    Args:
        j1: integer tensors or ints that broadcast, doubled spins.
        j2: as ``j1``.
        j3: as ``j1``.
        l1: as ``j1``.
        l2: as ``j1``.
        l3: as ``j1``.
        r: the level, from 3 to 60.

    Returns:
        float64, of the broadcast shape; 0 where not admissible, which includes triads with a doubled sum over ``2 r - 4``.

    Raises:
        ValueError: a level out of range; a negative spin; not an integer dtype.

    Cost:
        ``r`` passes over the symbols, in torch.

    Accuracy:
        Racah's alternating sum in float64: 1e-12 at r = 10, it loses digits as spins grow: 1e-6 at r = 60.

    References:
        Turaev and Viro 1992; conventions as in docs/how-it-works/simplex.md.

    Example:
        >>> quantum_sixj(2, 2, 2, 2, 2, 2, r=5)
        tensor(-0.3820, dtype=torch.float64)
    """
    if not 3 <= r <= _LARGEST_LEVEL:
        raise ValueError(f"quantum_sixj: r must be in [3, {_LARGEST_LEVEL}], got {r}")
    spins, shape = stacked("quantum_sixj", {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
    if spins.numel() and int(spins.min()) < 0:
        raise ValueError(f"quantum_sixj: spins must be doubled and not negative, got {int(spins.min())}")
    _, logs = _quantum_factorials(r)
    x, a, b, y, c, d = spins
    admissible = torch.ones_like(x, dtype=torch.bool)
    low, weight = [], torch.zeros(x.shape, dtype=torch.float64)

    def log_factorial(n: Tensor) -> Tensor:
        return logs[n.clamp(0, r - 1)]

    for i, j, k in ((x, a, b), (x, c, d), (y, a, d), (y, c, b)):
        total = i + j + k
        admissible &= (total % 2 == 0) & (i + j >= k) & ((i - j).abs() <= k) & (total <= 2 * (r - 2))
        half = total // 2
        low.append(half)
        for n in (half - i, half - j, half - k):
            weight = weight + 0.5 * log_factorial(n)
        weight = weight - 0.5 * log_factorial(half + 1)
    high = [(x + a + y + c) // 2, (a + b + c + d) // 2, (b + x + d + y) // 2]
    result = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(r - 1):  # [t + 1]! is zero from t = r - 1 on
        inside = admissible & (torch.stack(low).amax(0) <= t) & (torch.stack(high).amin(0) >= t)
        log = weight + logs[t + 1]
        for n in low:
            log = log - log_factorial(t - n)
        for n in high:
            log = log - log_factorial(n - t)
        result = result + torch.where(inside, (-1.0) ** t * log.exp(), 0.0)
    return result.view(shape)


class _Table(NamedTuple):
    """Labellings of some edges, ``rows [n, edges]``, and the weight of each."""

    edges: tuple[int, ...]
    rows: Tensor
    weights: Tensor


def _keys(rows: Tensor, columns: list[int], base: int) -> Tensor:
    key = torch.zeros(len(rows), dtype=torch.int64)
    for column in columns:
        key = key * base + rows[:, column]
    return key


def _join(first: _Table, second: _Table, base: int) -> _Table:
    """Labellings of both that agree where both have an edge."""
    shared = [e for e in first.edges if e in second.edges]
    left = _keys(first.rows, [first.edges.index(e) for e in shared], base)
    right, order = _keys(second.rows, [second.edges.index(e) for e in shared], base).sort()
    begin, end = torch.searchsorted(right, left), torch.searchsorted(right, left, right=True)
    counts = end - begin
    own = torch.repeat_interleave(torch.arange(len(left)), counts)
    other = order[begin[own] + torch.arange(len(own)) - (counts.cumsum(0) - counts)[own]]
    new = [k for k, e in enumerate(second.edges) if e not in first.edges]
    rows = torch.cat([first.rows[own], second.rows[other][:, new]], 1)
    return _Table((*first.edges, *(second.edges[k] for k in new)), rows, first.weights[own] * second.weights[other])


def _sum_out(table: _Table, edge: int, factors: Tensor | None, base: int) -> _Table:
    """Sum over the labels of one edge, which no tetrahedron to come has."""
    at = table.edges.index(edge)
    weights = table.weights if factors is None else table.weights * factors[table.rows[:, at]]
    kept = [k for k in range(len(table.edges)) if k != at]
    keys, where = _keys(table.rows, kept, base).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    sums = torch.zeros(len(keys), dtype=weights.dtype).index_add_(0, where, weights)
    rows = torch.empty(len(keys), len(kept), dtype=torch.int64)
    for column in reversed(range(len(kept))):
        rows[:, column] = keys % base
        keys = keys // base
    return _Table(tuple(table.edges[k] for k in kept), rows, sums)


def _state_sum(
    edges: Sequence[Sequence[int]],
    labels: Mapping[int, Tensor],
    factors: Mapping[int, Tensor],
    largest_triad: int,
    symbol: Callable[[Tensor], Tensor],
) -> complex:
    """Sum over labellings of the product of symbols, of phases and of ``factors`` of the edges that have them."""
    base = 1 + max(int(values.max()) for values in labels.values() if len(values)) if labels else 1

    def admissible(glued: tuple[int, ...], names: Sequence[int]) -> _Table:
        """Build the table of a tetrahedron whose edges are ``names[k]`` for k in ``glued``; its own edges are those k."""
        whole = _Table((), torch.zeros(1, 0, dtype=torch.int64), torch.ones(1, dtype=torch.complex128))
        for places in _TRIANGLES:
            corner = tuple(glued[k] for k in places)
            grid = torch.cartesian_prod(*(labels[names[k]] for k in corner)).view(-1, 3)
            a, b, c = grid.T
            fits = ((a + b + c) % 2 == 0) & (a + b >= c) & ((a - b).abs() <= c) & (a + b + c <= largest_triad)
            for i, j in itertools.combinations(range(3), 2):
                if corner[i] == corner[j]:
                    fits &= grid[:, i] == grid[:, j]
            grid = grid[fits]
            once = [k for k in range(3) if corner[k] not in corner[:k]]
            triad = _Table(tuple(corner[k] for k in once), grid[:, once], torch.ones(len(grid), dtype=torch.complex128))
            whole = _join(whole, triad, base)
        spins = torch.stack([whole.rows[:, whole.edges.index(glued[k])] for k in _COLUMNS])
        phases = torch.tensor([1, -1j, -1, 1j], dtype=torch.complex128)[spins.sum(0) % 4]
        return whole._replace(weights=symbol(spins) * phases)

    tables: dict[tuple[int, ...], _Table] = {}

    def tetrahedron(own: Sequence[int]) -> _Table:
        """Those that are glued alike and have the same labels have one table, under other names."""
        names = list(dict.fromkeys(own))
        glued = tuple(names.index(e) for e in own)
        kind = (*glued, *(id(labels[e]) for e in names))
        if kind not in tables:
            tables[kind] = admissible(glued, names)
        return tables[kind]._replace(edges=tuple(names[k] for k in tables[kind].edges))

    waiting = [tuple(int(e) for e in own) for own in edges]
    table = _Table((), torch.zeros(1, 0, dtype=torch.int64), torch.ones(1, dtype=torch.complex128))
    while waiting:
        nearest = max(waiting, key=lambda own: len(set(own) & set(table.edges)))
        waiting.remove(nearest)
        table = _join(table, tetrahedron(nearest), base)
        ahead = set().union(*waiting)
        for edge in [e for e in table.edges if e not in ahead]:
            table = _sum_out(table, edge, factors.get(edge), base)
    return complex(table.weights.sum())


def edges_of(tetrahedra: Tensor) -> Tensor:
    """The edges of a simplicial complex of tetrahedra, numbered, for :func:`turaev_viro` and :func:`ponzano_regge`.

    Args:
        tetrahedra: ``[n, 4]`` int64, the vertices of each.

    Returns:
        ``[n, 6]`` int64: the number of edge 01, 02, 03, 12, 13, 23 of each, in the order of the sorted pairs of vertices.

    Raises:
        ValueError: wrong shape or dtype.

    Cost:
        A sort of ``6 n`` pairs.

    Accuracy:
        Exact.

    References:
        docs/how-it-works/simplex.md.

    Example:
        >>> edges_of(torch.tensor([[0, 1, 2, 3]]))
        tensor([[0, 1, 2, 3, 4, 5]])
    """
    if tetrahedra.dim() != 2 or tetrahedra.shape[1] != 4 or tetrahedra.dtype != torch.int64:
        raise ValueError(f"edges_of: tetrahedra must be [n, 4] int64, got shape {tuple(tetrahedra.shape)}")
    pairs = tetrahedra[:, list(itertools.combinations(range(4), 2))].sort(-1).values
    numbers: Tensor = pairs.flatten(0, 1).unique(dim=0, return_inverse=True)[1]  # type: ignore[no-untyped-call]
    return numbers.view(-1, 6)


def _check_edges(op: str, edges: Tensor) -> None:
    if edges.dim() != 2 or edges.shape[1] != 6 or edges.dtype != torch.int64 or not len(edges):
        raise ValueError(f"{op}: edges must be [n, 6] int64, n at least 1, got shape {tuple(edges.shape)}")


def turaev_viro(edges: Tensor, vertices: int, *, r: int) -> float:
    r"""The Turaev-Viro invariant of a closed triangulated 3-manifold at :math:`q = e^{i \pi / r}`.

    Admissible labellings of what has been glued so far are kept as a table; an edge is summed over as soon as no
    tetrahedron to come has it. So zero entries, nearly all of a dense contraction, are never touched.

    Args:
        edges: ``[n, 6]`` int64: the edge class of edges 01, 02, 03, 12, 13, 23 of each tetrahedron; classes may repeat, as
            in triangulations with a single vertex. :func:`edges_of` makes it from vertices.
        vertices: how many vertices the triangulation has.
        r: the level, from 3 to 60.

    Returns:
        The invariant; ``(2/r) sin²(pi/r)`` for the 3-sphere. That the complex is a closed manifold is not checked.

    Raises:
        ValueError: wrong shape or dtype, a level out of range, fewer than one vertex.

    Cost:
        The number of admissible labellings of the edges between the glued part and the rest.

    Accuracy:
        12 digits for r up to 8; that of :func:`quantum_sixj` beyond.

    References:
        Turaev and Viro 1992; conventions as in docs/how-it-works/simplex.md.

    Example:
        >>> sphere = edges_of(torch.tensor([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]]))
        >>> round(turaev_viro(sphere, 5, r=3), 12)
        0.5
    """
    _check_edges("turaev_viro", edges)
    if vertices < 1:
        raise ValueError(f"turaev_viro: vertices must be at least 1, got {vertices}")
    if not 3 <= r <= _LARGEST_LEVEL:
        raise ValueError(f"turaev_viro: r must be in [3, {_LARGEST_LEVEL}], got {r}")
    integers, _ = _quantum_factorials(r)
    signed = integers * (-1.0) ** torch.arange(r - 1)  # (-1)^2j [2j + 1]
    classes = sorted({e for own in edges.tolist() for e in own})
    spins = torch.arange(r - 1)
    total = _state_sum(
        edges.tolist(),
        dict.fromkeys(classes, spins),
        dict.fromkeys(classes, signed.to(torch.complex128)),
        2 * (r - 2),
        lambda s: quantum_sixj(*s, r=r),
    )
    return total.real * (2 / r * math.sin(math.pi / r) ** 2) ** vertices


def ponzano_regge(edges: Tensor, boundary: Mapping[int, int]) -> complex:
    r"""Ponzano and Regge's state sum over the inner edges of a triangulated 3-manifold with labelled boundary.

    Args:
        edges: ``[n, 6]`` int64, as for :func:`turaev_viro`.
        boundary: the doubled spin of each edge in the boundary. All other edges are summed over.

    Returns:
        ``sum prod (-1)^2j (2j + 1) prod i^-(sum of 2j) {6j}``, the first product over inner edges.

    Raises:
        ValueError: wrong shape or dtype; an inner edge whose spin the boundary does not bound: there the sum diverges, as
            on every closed manifold. Use :func:`turaev_viro` then.

    Cost:
        As :func:`turaev_viro`.

    Accuracy:
        A few roundings of the largest term.

    References:
        Ponzano and Regge 1968; conventions as in docs/how-it-works/simplex.md.

    Example:
        >>> one = ponzano_regge(torch.tensor([[0, 1, 2, 3, 4, 5]]), dict.fromkeys(range(6), 2))
        >>> round(one.real, 6)  # {1 1 1; 1 1 1}
        0.166667
    """
    _check_edges("ponzano_regge", edges)
    classes = sorted({e for own in edges.tolist() for e in own})
    largest = {e: boundary.get(e, math.inf) for e in classes}
    if any(spin < 0 for spin in boundary.values()):
        raise ValueError(f"ponzano_regge: boundary must have doubled spins, not negative, got {min(boundary.values())}")
    rows = edges.tolist()
    for _ in classes:  # a side of a triangle is at most the sum of the others
        for own, places in itertools.product(rows, _TRIANGLES):
            a, b, c = (own[k] for k in places)
            for side, one, two in ((a, b, c), (b, a, c), (c, a, b)):
                largest[side] = min(largest[side], largest[one] + largest[two])
    unbounded = [e for e in classes if math.isinf(largest[e])]
    if unbounded:
        raise ValueError(f"ponzano_regge: boundary must bound the spin of every edge, got no bound for {unbounded[0]}")
    labels = {e: torch.tensor([boundary[e]]) if e in boundary else torch.arange(int(largest[e]) + 1) for e in classes}
    top = 1 + max(int(values.max()) for values in labels.values())
    spins = torch.arange(top)
    signed = ((spins + 1) * (1 - 2 * (spins % 2))).to(torch.complex128)
    inner = {e: signed for e in classes if e not in boundary}
    return _state_sum(rows, labels, inner, 3 * top, lambda s: sixj(*s))
