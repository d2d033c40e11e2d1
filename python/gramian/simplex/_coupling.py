"""3j symbols, Clebsch-Gordan coefficients and 9j symbols. Spins are doubled throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian import _fake

from ._sixj import sixj_family
from ._spins import stacked

_threej = torch.ops.gramian.simplex_threej.default


@_fake.register("simplex_threej")
def _(spins: Tensor) -> Tensor:
    return spins.new_empty(spins.shape[1:], dtype=torch.float64)


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
    spins, shape = stacked("threej", {"j1": j1, "j2": j2, "j3": j3, "m1": m1, "m2": m2, "m3": m3})
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
    spins, shape = stacked("clebsch_gordan", {"j1": j1, "m1": m1, "j2": j2, "m2": m2, "j": j, "m": m})
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
    spins, shape = stacked("ninej", named)
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
