"""6j symbols: single ones, families, blocks, exactly, and their limit. Spins are doubled: a spin of 3/2 is the integer 3."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from gramian import _fake

from ._spins import stacked, together
from ._weights import geometry

_sixj = torch.ops.gramian.simplex_sixj.default
_sixj_family = torch.ops.gramian.simplex_sixj_family.default
_sixj_blocks = torch.ops.gramian.simplex_sixj_blocks.default
_UNLIMITED = 1 << 40
_PIECE = 1 << 16  # symbols at a time: six tensors stacked whole would cost as much as their symbols


@_fake.register("simplex_sixj")
def _(spins: Tensor) -> Tensor:
    return spins.new_empty(spins.shape[1:], dtype=torch.float64)


@_fake.register("simplex_sixj_family")
def _(spins: Tensor, width: int) -> tuple[Tensor, Tensor]:
    n = spins.shape[1]
    return spins.new_empty((n,)), spins.new_empty((n, width), dtype=torch.float64)


@_fake.register("simplex_sixj_blocks")
def _(blocks: Tensor, _limit: int) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return blocks.new_empty((size,), dtype=torch.float64), blocks.new_empty((blocks.shape[1] + 1,))


class SixjFamily(NamedTuple):
    """6j symbols over one spin: ``values[..., k]`` is that of the doubled spin ``first + 2 k``, 0 beyond the last."""

    first: Tensor
    values: Tensor


class SixjBlock(NamedTuple):
    """6j symbols over two opposite spins: ``values[i, k]`` has ``j1 = first_j + 2 i`` and ``l1 = first_l + 2 k``."""

    first_j: int
    first_l: int
    values: Tensor


class ExactSixj(NamedTuple):
    """A 6j symbol as a sign and its exact square."""

    sign: int
    square: Fraction

    def __float__(self) -> float:
        """Return the symbol, rounded last."""
        return self.sign * math.sqrt(self.square)


def sixj(
    j1: Tensor | int, j2: Tensor | int, j3: Tensor | int, l1: Tensor | int, l2: Tensor | int, l3: Tensor | int
) -> Tensor:
    r"""6j symbols :math:`\begin{Bmatrix} j_1 & j_2 & j_3 \\ l_1 & l_2 & l_3 \end{Bmatrix}` of broadcast tensors of spins.

    Args:
        j1: integer tensors or ints that broadcast, each a **doubled** spin in [0, 20000].
        j2: as ``j1``.
        j3: as ``j1``.
        l1: as ``j1``.
        l2: as ``j1``.
        l3: as ``j1``.

    Returns:
        float64, of the broadcast shape. Exactly 0 where a triad breaks the triangle inequality or has an odd sum, and
        exactly 0 where the symbol is (told by an integer sum modulo 2^61 - 1).

    Raises:
        ValueError: a negative spin, or one beyond 20000; not an integer dtype.

    Cost:
        About 500 flops: the nearest of the twelve ends of its six families, and 25 flops a step from there, one symbol a lane.
        Symbols more than 32 steps away take about 30 flops for each entry of a family.

    Accuracy:
        The error is a few units of rounding of the largest entry of the symbol's family times ``1 + j``. For spins to 30 it is
        also below 1e-12 of the symbol itself, exponentially small tails and symbols next to a sign change of their
        family included; for larger spins digits are lost next to a sign change as the symbol is smaller than its neighbours.

    Not differentiable. The same bits for every number of threads and whatever else is in the batch.

    References:
        Racah's definition, as in Edmonds' book; the recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sixj(2, 2, 4, 2, 2, 4)  # {1 1 2; 1 1 2} = 1/30
        tensor(0.0333, dtype=torch.float64)
    """
    named = {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3}
    if all(type(spin) is int for spin in named.values()):
        value: Tensor = _sixj(stacked("sixj", named)[0])
        return value.view(())
    spins = together("sixj", named)
    shape = spins[0].shape
    if shape.numel() <= _PIECE:
        value = _sixj(torch.stack(spins).view(6, -1))
    else:
        pieces = zip(*(torch.split(spin.reshape(-1), _PIECE) for spin in spins), strict=True)
        value = torch.cat([_sixj(torch.stack(piece)) for piece in pieces])
    return value.view(shape)


def sixj_family(j2: Tensor | int, j3: Tensor | int, l1: Tensor | int, l2: Tensor | int, l3: Tensor | int) -> SixjFamily:
    r"""All values of ``j1`` of 6j symbols, by one three-term recursion a family.

    Args:
        j2: integer tensors or ints that broadcast, each a doubled spin in [0, 20000].
        j3: as ``j2``.
        l1: as ``j2``.
        l2: as ``j2``.
        l3: as ``j2``.

    Returns:
        ``.first [...]``, the lowest doubled ``j1``, and ``.values [..., width]`` float64, ``width`` the length of the
        longest family; zero behind the end of a family, and where no ``j1`` is admissible.

    Raises:
        ValueError: a negative spin, or one beyond 20000; not an integer dtype.

    Cost:
        About 30 flops an entry, lanes across families.

    Accuracy:
        That of :func:`sixj`.

    References:
        The recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sixj_family(2, 2, 2, 2, 2).values  # {j 1 1; 1 1 1}, j = 0, 1, 2
        tensor([-0.3333,  0.1667,  0.1667], dtype=torch.float64)
    """
    spins, shape = stacked("sixj_family", {"j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
    low, high = (spins[::3] - spins[1::3]).abs().amax(0), (spins[::3] + spins[1::3]).amin(0)  # of j2, j3 and of l2, l3
    longest = torch.div(high - low, 2, rounding_mode="floor") + 1
    width = max(1, int(longest.max())) if longest.numel() else 1
    first, values = _sixj_family(spins, width)
    return SixjFamily(first.view(shape), values.view(*shape, width))


def sixj_block(j2: int, j3: int, l2: int, l3: int) -> SixjBlock:
    r"""All 6j symbols with four given spins, over both others: an orthogonal matrix once scaled.

    Args:
        j2: doubled spins in [0, 20000].
        j3: as ``j2``.
        l2: as ``j2``.
        l3: as ``j2``.

    Returns:
        ``.first_j``, ``.first_l`` and ``.values [N, N]`` float64; ``sqrt((2 j1 + 1)(2 l1 + 1))`` times the values is
        orthogonal.

    Raises:
        ValueError: a negative spin, or one beyond 20000.

    Cost:
        About ``20 N²`` flops and ``8 N²`` bytes.

    Accuracy:
        The scaled matrix to ``4e-15 (1 + j)`` in each entry; the rest as :func:`sixj`.

    References:
        The recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sixj_block(1, 1, 1, 1).values
        tensor([[-0.5000,  0.5000],
                [ 0.5000,  0.1667]], dtype=torch.float64)
    """
    values, _ = _sixj_blocks(torch.tensor([[j2], [j3], [l2], [l3]]), _UNLIMITED)
    side = math.isqrt(values.numel())
    return SixjBlock(max(abs(j2 - j3), abs(l2 - l3)), max(abs(j2 - l3), abs(l2 - j3)), values.view(side, side))


def sixj_exact(j1: int, j2: int, j3: int, l1: int, l2: int, l3: int) -> ExactSixj:
    r"""One 6j symbol exactly: its sign and its square as a fraction, by Racah's sum over Python integers.

    Args:
        j1: doubled spins.
        j2: as ``j1``.
        j3: as ``j1``.
        l1: as ``j1``.
        l2: as ``j1``.
        l3: as ``j1``.

    Returns:
        ``.sign`` in {-1, 0, 1} and ``.square``; ``float()`` of it is the symbol, correctly rounded but for the root.

    Raises:
        ValueError: a negative spin.

    Cost:
        Integers of ``O(j log j)`` digits; 0.1 ms at j = 10, a second at j = 1000.

    Accuracy:
        Exact.

    References:
        Racah's sum, as in Edmonds' book.

    Example:
        >>> sixj_exact(2, 2, 4, 2, 2, 4)
        ExactSixj(sign=1, square=Fraction(1, 900))
    """
    spins = (j1, j2, j3, l1, l2, l3)
    if min(spins) < 0:
        raise ValueError(f"sixj_exact: spins must be doubled and not negative, got {min(spins)}")
    triads = ((j1, j2, j3), (j1, l2, l3), (l1, j2, l3), (l1, l2, j3))
    if any(sum(t) % 2 or 2 * max(t) > sum(t) for t in triads):
        return ExactSixj(0, Fraction(0))
    low = [sum(t) // 2 for t in triads]
    high = [(j1 + j2 + l1 + l2) // 2, (j2 + j3 + l2 + l3) // 2, (j3 + j1 + l3 + l1) // 2]
    # (t + 1)! / (prod (t - low)! prod (high - t)!), term by term from the one before.
    begin = max(low)
    term = Fraction(
        math.factorial(begin + 1),
        math.prod(math.factorial(begin - k) for k in low) * math.prod(math.factorial(k - begin) for k in high),
    )
    total = Fraction(0)
    # All terms over one denominator: exact integers, no gcd in the loop.
    numerator, denominator = term.numerator, term.denominator
    terms = [(numerator, 1)]
    for t in range(begin, min(high)):
        up = (t + 2) * math.prod(k - t for k in high)
        down = math.prod(t + 1 - k for k in low)
        terms.append((up, down))
    common, above = 0, 1
    for up, down in reversed(terms[1:]):  # Horner: sum = up/down * (1 - ...)
        common, above = up * (above - common), above * down
        divisor = math.gcd(common, above)
        common, above = common // divisor, above // divisor
    total = Fraction(numerator, denominator) * (1 - Fraction(common, above)) * (-1) ** begin
    square = total * total
    for triad in triads:
        half = sum(triad) // 2
        square *= Fraction(math.prod(math.factorial(half - k) for k in triad), math.factorial(half + 1))
    return ExactSixj((total > 0) - (total < 0), square)


def ponzano_regge_asymptotics(
    j1: Tensor | int, j2: Tensor | int, j3: Tensor | int, l1: Tensor | int, l2: Tensor | int, l3: Tensor | int
) -> Tensor:
    r"""Ponzano and Regge's limit of 6j symbols, :math:`\cos(\sum (j + \frac12) \theta + \pi/4) / \sqrt{12 \pi V}`.

    Args:
        j1: integer tensors or ints that broadcast, doubled spins.
        j2: as ``j1``.
        j3: as ``j1``.
        l1: as ``j1``.
        l2: as ``j1``.
        l3: as ``j1``.

    Returns:
        float64, of the broadcast shape; NaN where no Euclidean tetrahedron has the edges ``j + 1/2``.

    Raises:
        ValueError: not an integer dtype.

    Cost:
        That of :func:`geometry` in three dimensions.

    Accuracy:
        The relative difference from the symbol falls as ``1 / j`` away from flat tetrahedra: 3 % for six spins of 10.

    References:
        Ponzano and Regge 1968, as in docs/how-it-works/simplex.md.

    Example:
        >>> ponzano_regge_asymptotics(20, 20, 20, 20, 20, 20)
        tensor(-0.0028, dtype=torch.float64)
    """
    named = {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3}
    spins, shape = stacked("ponzano_regge_asymptotics", named)
    x, a, b, y, c, d = (spins.double() + 1) / 2
    edges = torch.stack([x, a, d, b, c, y], -1)  # 01, 02, 03, 12, 13, 23
    tetrahedra = geometry(edges)
    exterior = math.pi - tetrahedra.angles.flip(-1)  # the angle stands at the opposite edge: the order reversed
    phase = (edges * exterior).sum(-1) + math.pi / 4
    return (torch.cos(phase) / (12 * math.pi * tetrahedra.volume).sqrt()).view(shape)
