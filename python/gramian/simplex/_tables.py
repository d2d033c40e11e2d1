"""Tables of all 6j symbols up to a spin: streamed, dense, and one for each orbit of their symmetries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gramian import _fake

from ._spins import stacked

if TYPE_CHECKING:
    from collections.abc import Iterator

_sixj_table = torch.ops.gramian.simplex_sixj_table.default
_LARGEST_DENSE = 1 << 31  # bytes


@_fake.register("simplex_sixj_table")
def _(cursor: Tensor, *_: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    blocks, size = (torch.library.get_ctx().new_dynamic_size() for _ in range(2))
    return (
        cursor.new_empty((4, blocks)),
        cursor.new_empty((blocks + 1,)),
        cursor.new_empty((size,), dtype=torch.float64),
        cursor.new_empty(()),
    )


class SixjChunk(NamedTuple):
    """Blocks one after the other: block ``b`` has ``blocks[:, b] = j2, j3, l2, l3`` and begins at ``offsets[b]``."""

    blocks: Tensor
    offsets: Tensor
    values: Tensor


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


def _encode(keys: Tensor, two_j_max: int) -> Tensor:
    base = 2 * two_j_max + 1
    code = torch.zeros_like(keys[0])
    for k in keys[:6]:  # the seventh follows: both kinds of sums add up to the same
        code = code * base + k
    return code


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
        spins, shape = stacked("SixjOrbits", {"j1": j1, "j2": j2, "j3": j3, "l1": l1, "l2": l2, "l3": l3})
        if spins.numel() and (int(spins.max()) > self.two_j_max or int(spins.min()) < 0):
            raise ValueError(f"SixjOrbits: spins must be doubled, in [0, {self.two_j_max}], got one outside")
        x, a, b, y, c, d = spins
        admissible = torch.ones_like(x, dtype=torch.bool)
        for i, j, k in ((x, a, b), (x, c, d), (y, a, d), (y, c, b)):
            admissible &= ((i + j + k) % 2 == 0) & (i + j >= k) & ((i - j).abs() <= k)
        wanted = _encode(_orbit_keys(spins), self.two_j_max)
        found = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return torch.where(admissible, self.values[found], 0.0).view(shape)


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
