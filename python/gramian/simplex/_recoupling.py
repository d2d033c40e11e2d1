"""6j, 3j and 9j symbols. Spins are doubled throughout: a spin of 3/2 is the integer 3."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gramian import _fake

from ._weights import geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

_sixj = torch.ops.gramian.simplex_sixj.default
_sixj_family = torch.ops.gramian.simplex_sixj_family.default
_sixj_blocks = torch.ops.gramian.simplex_sixj_blocks.default
_sixj_table = torch.ops.gramian.simplex_sixj_table.default
_threej = torch.ops.gramian.simplex_threej.default
_UNLIMITED = 1 << 40
_PIECE = 1 << 16  # symbols at a time: six tensors stacked whole would cost as much as their symbols
_LARGEST_DENSE = 1 << 31  # bytes

for _name in ("simplex_sixj", "simplex_threej"):
    _fake.register(_name)(lambda spins: spins.new_empty(spins.shape[1:], dtype=torch.float64))


@_fake.register("simplex_sixj_family")
def _(spins: Tensor, width: int) -> tuple[Tensor, Tensor]:
    n = spins.shape[1]
    return spins.new_empty((n,)), spins.new_empty((n, width), dtype=torch.float64)


@_fake.register("simplex_sixj_blocks")
def _(blocks: Tensor, _limit: int) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return blocks.new_empty((size,), dtype=torch.float64), blocks.new_empty((blocks.shape[1] + 1,))


@_fake.register("simplex_sixj_table")
def _(cursor: Tensor, *_: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    blocks, size = (torch.library.get_ctx().new_dynamic_size() for _ in range(2))
    return (
        cursor.new_empty((4, blocks)),
        cursor.new_empty((blocks + 1,)),
        cursor.new_empty((size,), dtype=torch.float64),
        cursor.new_empty(()),
    )


class SixjFamily(NamedTuple):
    """6j symbols over one spin: ``values[..., k]`` is that of the doubled spin ``first + 2 k``, 0 beyond the last."""

    first: Tensor
    values: Tensor


class SixjBlock(NamedTuple):
    """6j symbols over two opposite spins: ``values[i, k]`` has ``j1 = first_j + 2 i`` and ``l1 = first_l + 2 k``."""

    first_j: int
    first_l: int
    values: Tensor


class SixjChunk(NamedTuple):
    """Blocks one after the other: block ``b`` has ``blocks[:, b] = j2, j3, l2, l3`` and begins at ``offsets[b]``."""

    blocks: Tensor
    offsets: Tensor
    values: Tensor


class ExactSixj(NamedTuple):
    """A 6j symbol as a sign and its exact square."""

    sign: int
    square: Fraction

    def __float__(self) -> float:
        """Return the symbol, rounded last."""
        return self.sign * math.sqrt(self.square)


def _together(op: str, named: dict[str, Tensor | int]) -> tuple[Tensor, ...]:
    given = {name: torch.as_tensor(value) for name, value in named.items()}
    for name, value in given.items():
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{op}: {name} must be doubled spins of an integer dtype, got {kind}")
    return tuple(torch.broadcast_tensors(*(value.long() for value in given.values())))  # type: ignore[no-untyped-call]


def _spins(op: str, named: dict[str, Tensor | int]) -> tuple[Tensor, torch.Size]:
    together = _together(op, named)
    return torch.stack(together).reshape(len(together), -1), together[0].shape


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
        The error is a few units of rounding of the largest entry of the symbol's family times ``1 + j``; far from a sign
        change of the family, exponentially small tails included, it is as small relative to the symbol itself: below
        1e-12 for spins to 30. Next to a sign change digits are lost as the symbol is smaller than its neighbours.

    Not differentiable. The same bits for every number of threads and whatever else is in the batch.

    References:
        Racah's definition, as in Edmonds' book; the recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sixj(2, 2, 4, 2, 2, 4)  # {1 1 2; 1 1 2} = 1/30
        tensor(0.0333, dtype=torch.float64)
    """
    together = _together("sixj", {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
    pieces = zip(*(torch.split(spins.reshape(-1), _PIECE) for spins in together), strict=True)
    values = [_sixj(torch.stack(piece)) for piece in pieces]
    return (values[0] if len(values) == 1 else torch.cat(values)).view(together[0].shape)


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
    spins, shape = _spins("sixj_family", {"j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
    a, b, _, c, d = spins
    longest = (torch.minimum(a + b, c + d) - torch.maximum((a - b).abs(), (c - d).abs())) // 2 + 1
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


def sixj_table(two_j_max: int, *, chunk_bytes: int = 4 << 20) -> Iterator[SixjChunk]:
    r"""Every admissible 6j symbol with all six doubled spins up to ``two_j_max``, in chunks that fit a memory budget.

    Args:
        two_j_max: the largest doubled spin, in [0, 200].
        chunk_bytes: a chunk ends with the first symbols that bring its values to this size. The default stays in the cache
            of most processors, and its memory is used again for the next chunk if the caller drops it.

    Returns:
        An iterator over chunks: ``.blocks [4, B]``, the spins j2, j3, l2, l3 of each block; ``.offsets [B + 1]`` and
        ``.values``: block ``b`` is ``values[offsets[b]:offsets[b + 1]]``, row-major over j1 and l1 from the lowest
        admissible to the highest that is at most ``two_j_max``. Blocks that are equal but for the order of their spins
        stand side by side.

    Raises:
        ValueError: ``two_j_max`` or ``chunk_bytes`` out of range.

    Cost:
        8 bytes a symbol; one block in eight is computed, at about 20 flops a symbol, the others are copied or transposed.
        42393 symbols up to 10, 1766270 up to 20, 90698979 up to 40.

    Accuracy:
        That of :func:`sixj_block`.

    References:
        The recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sum(len(chunk.values) for chunk in sixj_table(10))
        42393
    """
    if not 0 <= two_j_max <= 200:
        raise ValueError(f"sixj_table: two_j_max must be in [0, 200], got {two_j_max}")
    if chunk_bytes < 8:
        raise ValueError(f"sixj_table: chunk_bytes must be at least 8, got {chunk_bytes}")

    def chunks() -> Iterator[SixjChunk]:
        cursor = torch.tensor(0)
        while cursor >= 0:
            *chunk, cursor = _sixj_table(cursor, two_j_max, chunk_bytes // 8)
            yield SixjChunk(*chunk)

    return chunks()


def _all_spins(chunk: SixjChunk, two_j_max: int) -> Tensor:
    """The six doubled spins, ``[6, n]``, of the values of a chunk."""
    a, b, c, d = chunk.blocks
    sizes = chunk.offsets.diff()
    rows_from, cols_from = torch.maximum((a - b).abs(), (c - d).abs()), torch.maximum((a - d).abs(), (c - b).abs())
    cols_to = torch.minimum(torch.minimum(a + d, c + b), torch.tensor(two_j_max))
    cols = ((cols_to - cols_from) // 2 + 1).clamp(min=1)
    block = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    within = torch.arange(len(chunk.values)) - chunk.offsets[block]
    x, y = rows_from[block] + 2 * (within // cols[block]), cols_from[block] + 2 * (within % cols[block])
    a, b, c, d = chunk.blocks[:, block]
    return torch.stack([x, a, b, y, c, d])


def sixj_tensor(two_j_max: int) -> Tensor:
    r"""All 6j symbols up to a spin as one dense tensor, zero where not admissible: ``T[j1, j2, j3, l1, l2, l3]``.

    Args:
        two_j_max: the largest doubled spin ``J``; the tensor has ``(J + 1)^6`` entries, which may take 2 GiB: ``J <= 24``.

    Returns:
        ``[J + 1] * 6`` float64.

    Raises:
        ValueError: negative, or too large to be dense: see :func:`sixj_table` and :func:`sixj_orbits`.

    Cost:
        ``8 (J + 1)^6`` bytes, of which one in 40 and fewer are not zero.

    Accuracy:
        That of :func:`sixj_block`.

    References:
        The recursion: docs/how-it-works/simplex.md.

    Example:
        >>> sixj_tensor(4)[2, 2, 4, 2, 2, 4]
        tensor(0.0333, dtype=torch.float64)
    """
    if two_j_max < 0 or 8 * (two_j_max + 1) ** 6 > _LARGEST_DENSE:
        raise ValueError(f"sixj_tensor: two_j_max must be in [0, 24], got {two_j_max}")
    dense = torch.zeros([two_j_max + 1] * 6, dtype=torch.float64)
    for chunk in sixj_table(two_j_max):
        dense[tuple(_all_spins(chunk, two_j_max))] = chunk.values
    return dense


def _orbit_keys(spins: Tensor) -> Tensor:
    """What the 144 symmetries keep: the sorted sums of the four triads and of the three pairs of columns, ``[7, n]``."""
    x, a, b, y, c, d = spins
    triads = torch.stack([x + a + b, x + c + d, y + a + d, y + c + b]).sort(0).values
    quads = torch.stack([x + a + y + c, a + b + c + d, b + x + d + y]).sort(0).values
    return torch.cat([triads, quads]) // 2


class SixjOrbits:
    """6j symbols, one for each orbit of their 144 symmetries (Regge's included); call it with six spins.

    Attributes:
        keys: ``[n]`` sorted int64, one for each orbit.
        values: ``[n]`` float64.
    """

    def __init__(self, two_j_max: int, keys: Tensor, values: Tensor) -> None:
        """Keep a table made by ``sixj_orbits``."""
        self.two_j_max, self.keys, self.values = two_j_max, keys, values

    def __len__(self) -> int:
        """Return the number of orbits."""
        return len(self.keys)

    def __call__(
        self, j1: Tensor | int, j2: Tensor | int, j3: Tensor | int, l1: Tensor | int, l2: Tensor | int, l3: Tensor | int
    ) -> Tensor:
        """Look symbols up; 0 where not admissible."""
        spins, shape = _spins("SixjOrbits", {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
        if spins.numel() and (int(spins.max()) > self.two_j_max or int(spins.min()) < 0):
            raise ValueError(f"SixjOrbits: spins must be doubled, in [0, {self.two_j_max}], got one outside")
        x, a, b, y, c, d = spins
        admissible = torch.ones_like(x, dtype=torch.bool)
        for i, j, k in ((x, a, b), (x, c, d), (y, a, d), (y, c, b)):
            admissible &= ((i + j + k) % 2 == 0) & (i + j >= k) & ((i - j).abs() <= k)
        wanted = _encode(_orbit_keys(spins), self.two_j_max)
        found = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return torch.where(admissible, self.values[found], 0.0).view(shape)


def _encode(keys: Tensor, two_j_max: int) -> Tensor:
    base = 2 * two_j_max + 1
    code = torch.zeros_like(keys[0])
    for k in keys[:6]:  # the seventh follows: both kinds of sums add up to the same
        code = code * base + k
    return code


def sixj_orbits(two_j_max: int) -> SixjOrbits:
    r"""The 6j symbols up to a spin, one for each orbit under the 144 symmetries, with an index.

    Args:
        two_j_max: the largest doubled spin, in [0, 40].

    Returns:
        A table to be called with six spins: ``table(j1, j2, j3, l1, l2, l3)``, which broadcast; ``table.values [n]``.

    Raises:
        ValueError: ``two_j_max`` out of range.

    Cost:
        Goes once through :func:`sixj_table`; 16 bytes an orbit, of which there are 100 times fewer than symbols.

    Accuracy:
        That of :func:`sixj_block`.

    References:
        Regge's symmetries as sums of triads and of pairs of columns: docs/how-it-works/simplex.md.

    Example:
        >>> table = sixj_orbits(10)
        >>> len(table), table(2, 2, 4, 2, 2, 4)
        (1554, tensor(0.0333, dtype=torch.float64))
    """
    if not 0 <= two_j_max <= 40:
        raise ValueError(f"sixj_orbits: two_j_max must be in [0, 40], got {two_j_max}")
    keys, values = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    for chunk in sixj_table(two_j_max):
        code = _encode(_orbit_keys(_all_spins(chunk, two_j_max)), two_j_max)
        both = torch.cat([keys, code])
        keys, where = both.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        values = torch.zeros(len(keys), dtype=torch.float64).scatter_(0, where, torch.cat([values, chunk.values]))
    return SixjOrbits(two_j_max, keys, values)


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


def threej(
    j1: Tensor | int, j2: Tensor | int, j3: Tensor | int, m1: Tensor | int, m2: Tensor | int, m3: Tensor | int
) -> Tensor:
    r"""Wigner's 3j symbols :math:`\begin{pmatrix} j_1 & j_2 & j_3 \\ m_1 & m_2 & m_3 \end{pmatrix}` of broadcast tensors.

    Args:
        j1: integer tensors or ints that broadcast, doubled spins in [0, 20000].
        j2: as ``j1``.
        j3: as ``j1``.
        m1: doubled magnetic numbers, which may be negative.
        m2: as ``m1``.
        m3: as ``m1``.

    Returns:
        float64, of the broadcast shape; exactly 0 where not admissible and where the symbol is zero.

    Raises:
        ValueError: a negative spin, or one beyond 20000; not an integer dtype.

    Cost:
        About 25 flops for each value of ``m1`` of the symbol's family, lanes across symbols.

    Accuracy:
        That of :func:`sixj`.

    References:
        The recursion in ``m1``: docs/how-it-works/simplex.md.

    Example:
        >>> threej(2, 2, 0, 0, 0, 0)  # -1/sqrt(3)
        tensor(-0.5774, dtype=torch.float64)
    """
    spins, shape = _spins("threej", {"j1": j1, "j2": j2, "j3": j3, "m1": m1, "m2": m2, "m3": m3})
    values: Tensor = _threej(spins)
    return values.view(shape)


def clebsch_gordan(
    j1: Tensor | int, m1: Tensor | int, j2: Tensor | int, m2: Tensor | int, j: Tensor | int, m: Tensor | int
) -> Tensor:
    r"""Clebsch-Gordan coefficients :math:`\langle j_1 m_1 j_2 m_2 | j m \rangle`, in Condon and Shortley's phases.

    Args:
        j1: integer tensors or ints that broadcast, all doubled; spins in [0, 20000].
        m1: as ``j1``.
        j2: as ``j1``.
        m2: as ``j1``.
        j: as ``j1``.
        m: as ``j1``.

    Returns:
        float64, of the broadcast shape; exactly 0 where not admissible.

    Raises:
        ValueError: a negative spin, or one beyond 20000; not an integer dtype.

    Cost:
        That of :func:`threej`.

    Accuracy:
        That of :func:`threej`.

    References:
        Edmonds' book; docs/how-it-works/simplex.md.

    Example:
        >>> clebsch_gordan(1, 1, 1, -1, 2, 0)  # 1/sqrt(2)
        tensor(0.7071, dtype=torch.float64)
    """
    spins, shape = _spins("clebsch_gordan", {"j1": j1, "m1": m1, "j2": j2, "m2": m2, "j": j, "m": m})
    a, x, b, y, c, z = spins
    sign = 1 - (a - b + z) % 4  # the sum is even where the symbol is not zero
    values: Tensor = _threej(torch.stack([a, b, c, x, y, -z])) * sign * (c + 1.0).double().sqrt()
    return values.view(shape)


def ninej(
    j1: Tensor | int,
    j2: Tensor | int,
    j3: Tensor | int,
    j4: Tensor | int,
    j5: Tensor | int,
    j6: Tensor | int,
    j7: Tensor | int,
    j8: Tensor | int,
    j9: Tensor | int,
) -> Tensor:
    r"""9j symbols with rows ``j1 j2 j3``, ``j4 j5 j6`` and ``j7 j8 j9``, as sums of products of three 6j families.

    Args:
        j1: integer tensors or ints that broadcast, doubled spins in [0, 20000].
        j2: as ``j1``.
        j3: as ``j1``.
        j4: as ``j1``.
        j5: as ``j1``.
        j6: as ``j1``.
        j7: as ``j1``.
        j8: as ``j1``.
        j9: as ``j1``.

    Returns:
        float64, of the broadcast shape; exactly 0 where a row or a column is not admissible.

    Raises:
        ValueError: a negative spin, or one beyond 20000; not an integer dtype.

    Cost:
        Three :func:`sixj_family`.

    Accuracy:
        A few roundings of the largest product in the sum.

    References:
        Edmonds' book; docs/how-it-works/simplex.md.

    Example:
        >>> ninej(2, 2, 0, 2, 2, 0, 0, 0, 0)  # 1/9 * 3 = 1/3
        tensor(0.3333, dtype=torch.float64)
    """
    named = {f"j{i}": value for i, value in enumerate((j1, j2, j3, j4, j5, j6, j7, j8, j9), start=1)}
    spins, shape = _spins("ninej", named)
    a, b, c, d, e, f, g, h, i = spins
    families = [sixj_family(h, d, g, a, i), sixj_family(d, h, e, b, f), sixj_family(a, i, c, f, b)]
    lowest = torch.stack([family.first for family in families]).amax(0)
    width = max(family.values.shape[-1] for family in families)
    x = lowest[:, None] + 2 * torch.arange(width)
    product = torch.where(x % 2 == 0, 1.0, -1.0).double() * (x + 1)
    for family in families:
        at = torch.div(x - family.first[:, None], 2, rounding_mode="floor")
        inside = (at < family.values.shape[-1]) & ((x - family.first[:, None]) % 2 == 0)
        product = product * torch.where(inside, family.values.gather(1, at.clamp(max=family.values.shape[-1] - 1)), 0.0)
    return product.sum(1).view(shape)


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
    spins, shape = _spins("ponzano_regge_asymptotics", named)
    x, a, b, y, c, d = (spins.double() + 1) / 2
    edges = torch.stack([x, a, d, b, c, y], -1)  # 01, 02, 03, 12, 13, 23
    tetrahedra = geometry(edges)
    exterior = math.pi - tetrahedra.angles.flip(-1)  # the angle stands at the opposite edge: the order reversed
    phase = (edges * exterior).sum(-1) + math.pi / 4
    return (torch.cos(phase) / (12 * math.pi * tetrahedra.volume).sqrt()).view(shape)
