"""Power summed over shells of the wave number."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from ._grid import Grid, Norm, fold_of, grid_of, modes_of, pair_of
from ._grid_shells import grid_shells, takes
from ._modes import shells, weights

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RadialSpectrum", "coherence", "radial_spectrum"]


class RadialSpectrum(NamedTuple):
    """Power over shells of the wave number.

    Attributes:
        k: ``[shells]`` centres, in cycles over the unit of ``spacing``.
        values: ``[..., shells]``.
        counts: ``[shells]``, modes of the full lattice in each.
        dropped: ``[...]``, power of the modes beyond the last shell.
    """

    k: Tensor
    values: Tensor
    counts: Tensor
    dropped: Tensor


class _Shells(NamedTuple):
    number: Tensor  # over |k| of every axis, [n/2 + 1, ..] int32; one over what is counted for modes that are dropped
    centres: Tensor
    counts: Tensor


def _squares(sizes: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Tensor, float]:
    """Squares of |k| from 0 to n/2 of every axis in units of a step, and the step: exact integers where the grid is isotropic."""
    lengths = [n * step for n, step in zip(sizes, spacing, strict=True)]
    step = 1 / max(lengths)
    total = torch.zeros([], dtype=torch.float64, device="cpu")
    for n, length in zip(sizes, lengths, strict=True):
        m = torch.arange(n // 2 + 1, dtype=torch.float64, device="cpu") / (length * step)
        total = total.unsqueeze(-1) + m.square()
    return total, step


@lru_cache(maxsize=4)
def _unit_shells(sizes: tuple[int, ...], spacing: tuple[float, ...], truncate: bool) -> _Shells:
    squares, step = _squares(sizes, spacing)
    k = squares.sqrt()
    number = (k + 0.5).floor().long()
    nyquist = min(0.5 / s for s in spacing) / step
    count = math.floor(nyquist + 0.5) + 1 if truncate else int(number.max()) + 1
    if truncate:
        number = torch.where(k > nyquist * (1 + 1e-12), count, number)
    return _table(number, count, sizes, torch.arange(count, device="cpu").double() * step)


def _given_shells(sizes: tuple[int, ...], spacing: tuple[float, ...], edges: Tensor) -> _Shells:
    squares, step = _squares(sizes, spacing)
    k = squares.sqrt() * step
    number = torch.bucketize(k, edges, right=True) - 1
    number[k == edges[-1]] = len(edges) - 2
    number = torch.where((number < 0) | (number > len(edges) - 2), len(edges) - 1, number)
    return _table(number, len(edges) - 1, sizes, (edges[1:] + edges[:-1]) / 2)


def _table(number: Tensor, count: int, sizes: tuple[int, ...], centres: Tensor) -> _Shells:
    weight = torch.ones([], dtype=torch.float64, device="cpu")
    for n in sizes:
        weight = weight.unsqueeze(-1) * weights(n // 2 + 1, 1 + (n % 2 == 0), weight)
    counts = torch.bincount(number.reshape(-1), weight.reshape(-1), minlength=count + 1)[:count]
    return _Shells(number.int().contiguous(), centres, counts.round().long())


def _shells_of(op: str, grid: Grid, bins: int | Tensor | None, truncate: bool) -> _Shells:
    if bins is None:
        return _unit_shells(grid.sizes, grid.spacing, truncate)
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"{op}: bins must be at least 1, got {bins}")
        nyquist = [0.5 / step for step in grid.spacing]
        furthest = min(nyquist) if truncate else math.hypot(*nyquist)
        bins = torch.linspace(0, furthest, bins + 1, dtype=torch.float64, device="cpu")
    elif bins.ndim != 1 or len(bins) < 2 or not (bins[1:] > bins[:-1]).all():
        raise ValueError(f"{op}: bins must be edges that rise, at least two, got shape {tuple(bins.shape)}")
    return _given_shells(grid.sizes, grid.spacing, bins.double().cpu())


def _fused(grid: Grid, table: _Shells) -> Tensor:
    window = None
    if any(one is not None for one in grid.windows):
        given = zip(grid.windows, grid.sizes, strict=True)
        window = torch.cat([grid.field.new_ones(n) if one is None else one for one, n in given])
    sums: Tensor = grid_shells(grid.field.reshape(-1, *grid.sizes), window, table.number, len(table.counts) + 1)
    return sums


def _general(grid: Grid, table: _Shells, x: Tensor, y: Tensor | None) -> Tensor:
    found = shells(x, y, table.number.to(x.device), len(table.counts) + 1, fold_of(grid))
    return found[..., 0] if y is None else torch.view_as_complex(found)


def _spectrum(grid: Grid, table: _Shells, sums: Tensor, reduce: str) -> RadialSpectrum:
    sums = (sums * grid.factor).reshape(*grid.field.shape[: -len(grid.sizes)], len(table.counts) + 1)
    counts, centres = table.counts.to(sums.device), table.centres.to(sums.real)
    values = sums[..., :-1]
    return RadialSpectrum(centres, values / counts.to(centres) if reduce == "mean" else values, counts, sums[..., -1])


def radial_spectrum(
    x: Tensor,
    dim: int | Sequence[int] = (-2, -1),
    *,
    y: Tensor | None = None,
    bins: int | Tensor | None = None,
    reduce: Literal["mean", "sum"] = "mean",
    truncate: bool = True,
    window: str | Tensor | Sequence[str | Tensor | None] | None = None,
    detrend: Literal["none", "mean"] = "none",
    norm: Norm = "backward",
    spacing: float | Sequence[float] = 1.0,
) -> RadialSpectrum:
    r"""Power of a field summed, or averaged, over shells of the wave number :math:`|k|`.

    Args:
        x: as in `power_spectrum`.
        dim: axes of the grid, one to four.
        y: a second field like ``x``: the cross power of both, complex.
        bins: by default shells one step of the longest axis wide, ``floor(|k| / step + 1/2)``; a number of equal bins from 0 on; or edges that
            rise, in cycles over the unit of ``spacing``, half open, the last closed.
        reduce: ``"mean"`` over the modes of a shell (NaN where there is none), or ``"sum"``.
        truncate: drop modes beyond the Nyquist frequency of the coarsest axis: shells are not whole there.
        window: as in `power_spectrum`.
        detrend: as in `power_spectrum`.
        norm: as in `power_spectrum`.
        spacing: as in `power_spectrum`.

    Returns:
        ``RadialSpectrum(k, values, counts, dropped)``. Modes of real fields count for themselves and their conjugates: sums and ``dropped``
        add up to the power of the full lattice.

    Raises:
        ValueError: as `power_spectrum`, bins that do not rise.

    Cost:
        Real fields of 2 to 4 axes of ``2^a 3^b 5^c`` samples on the CPU: our own transform, 12 bytes a sample in float32, about ``4 N`` bytes
        of extra memory. Others and cross power: torch's FFT, then one pass over the transform. The table of shells is kept for grids that
        come again.

    Accuracy:
        Shells of a grid of equal extents come from integers: no mode is put on the wrong side. Sums in float64.

    Differentiable to every order in ``x`` and ``y``. The same bits for every number of threads.

    References:
        Rahaman et al., arXiv:1806.08734.

    Example:
        >>> i = torch.arange(16.0)
        >>> x = torch.cos(2 * torch.pi * 3 * i / 16)[:, None] * torch.cos(2 * torch.pi * 4 * i / 16)
        >>> found = radial_spectrum(x, reduce="sum")
        >>> int(found.values.argmax()), round(float(found.values.max()))
        (5, 16384)
    """
    op = "radial_spectrum"
    if reduce not in ("mean", "sum"):
        raise ValueError(f"{op}: reduce must be 'mean' or 'sum', got {reduce!r}")
    rest = (dim, window, detrend, norm, spacing)
    grids = (grid_of(op, x, *rest),) if y is None else pair_of(op, x, y, *rest)
    table = _shells_of(op, grids[0], bins, truncate)
    if y is None and takes(grids[0].field, grids[0].sizes):
        return _spectrum(grids[0], table, _fused(grids[0], table), reduce)
    one, *other = (modes_of(grid) for grid in grids)
    return _spectrum(grids[0], table, _general(grids[0], table, one, other[0] if other else None), reduce)


def coherence(
    x: Tensor,
    y: Tensor,
    dim: int | Sequence[int] = (-2, -1),
    *,
    bins: int | Tensor | None = None,
    truncate: bool = True,
    window: str | Tensor | Sequence[str | Tensor | None] | None = None,
    detrend: Literal["none", "mean"] = "none",
    spacing: float | Sequence[float] = 1.0,
) -> RadialSpectrum:
    r"""Coherence of two fields over shells, :math:`|S_{xy}|^2 / (S_{xx} S_{yy})`, between 0 and 1.

    Args:
        x: as in `power_spectrum`.
        y: of the shape and dtype of ``x``.
        dim: axes of the grid, one to four.
        bins: as in `radial_spectrum`; a shell of a single mode has coherence 1 whatever the fields.
        truncate: as in `radial_spectrum`.
        window: as in `power_spectrum`.
        detrend: as in `power_spectrum`.
        spacing: as in `power_spectrum`.

    Returns:
        ``RadialSpectrum(k, values, counts, dropped)``; NaN where a field has no power; ``dropped`` is that of the cross power.

    Raises:
        ValueError: as `radial_spectrum`.

    Cost:
        Two FFTs of torch and three passes over their transforms.

    Accuracy:
        To rounding; not clipped, so it may exceed 1 by some ``eps``.

    Differentiable to every order.

    References:
        As `radial_spectrum`.

    Example:
        >>> x = torch.randn(16, 16)
        >>> bool((coherence(x, -3 * x).values - 1).abs().max() < 1e-4)
        True
    """
    op = "coherence"
    grids = pair_of(op, x, y, dim, window, detrend, "backward", spacing)
    table = _shells_of(op, grids[0], bins, truncate)
    one, other = (modes_of(grid) for grid in grids)
    cross, *powers = (_general(grids[0], table, *pair) for pair in ((one, other), (one, None), (other, None)))
    found = _spectrum(grids[0], table, cross, "sum")
    each = [_spectrum(grids[0], table, power, "sum").values for power in powers]
    return found._replace(values=torch.view_as_real(found.values).square().sum(-1) / (each[0] * each[1]))
