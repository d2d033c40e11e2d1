"""Power and cross power of each mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ._grid import Grid, Norm, fold_of, grid_of, modes_of, pair_of
from ._modes import powers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cross_spectrum", "power_spectrum"]


def _whole(spectrum: Tensor, size: int, axes: int) -> Tensor:
    """The full lattice of a real field from what is kept of it: F(-k) is the conjugate of F(k)."""
    other = spectrum[..., 1 : size - spectrum.shape[-1] + 1].flip(-1)
    for axis in range(-axes, -1):
        other = torch.roll(other.flip(axis), 1, axis)
    return torch.cat([spectrum, other.conj() if other.is_complex() else other], -1)


def _spectrum(op: str, *grids: Grid, onesided: bool | None) -> Tensor:
    first, fold = grids[0], fold_of(grids[0])
    if fold == 0 and onesided:
        raise ValueError(f"{op}: onesided must not be True for complex x, whose halves differ")
    half = fold > 0 and onesided is not False
    one, *other = (modes_of(grid) for grid in grids)
    found = powers(one, other[0] if other else None, fold if half else 0, first.factor)
    spectrum = torch.view_as_complex(found) if other else found[..., 0]
    spectrum = spectrum.reshape(*first.field.shape[: -len(first.sizes)], *spectrum.shape[1:])
    return spectrum if half or fold == 0 else _whole(spectrum, first.sizes[-1], len(first.sizes))


def power_spectrum(
    x: Tensor,
    dim: int | Sequence[int] = -1,
    *,
    window: str | Tensor | Sequence[str | Tensor | None] | None = None,
    detrend: Literal["none", "mean"] = "none",
    norm: Norm = "backward",
    onesided: bool | None = None,
    spacing: float | Sequence[float] = 1.0,
) -> Tensor:
    r"""Power :math:`|\hat x(k)|^2` of a sampled field over one to four axes.

    Args:
        x: real or complex, float32 or float64 precision (integers become the default dtype), any strides.
        dim: axes of the grid, the others are a batch.
        window: ``"hann"`` (periodic), weights of the samples of an axis, one for all axes or a sequence of one for each.
        detrend: ``"mean"`` subtracts the mean over the grid first.
        norm: ``"backward"`` leaves the sums as they are, ``"ortho"`` divides by the number of samples, ``"forward"`` by its square;
            ``"density"`` is ``|X|² · spacing / Σ w²``, whose integral over frequency is the mean square of ``x``.
        onesided: keep half of the last axis and count modes that stand for two twice; by default for real ``x``.
        spacing: between samples, one for all axes or one for each.

    Returns:
        Real, the grid axes last in the order of ``dim``, frequencies in the order of ``torch.fft``. With ``"backward"`` all entries
        add up to ``N Σ |x w|²``, one-sided or not.

    Raises:
        ValueError: axes, sizes, windows or options that do not fit; ``onesided`` for complex ``x``.

    Cost:
        torch's FFT, and one pass over the transform.

    Accuracy:
        That of the FFT.

    Differentiable to every order. Propagates NaN within an item of the batch.

    References:
        Rahaman et al., arXiv:1806.08734.

    Example:
        >>> t = torch.arange(8.0) / 8
        >>> power_spectrum(torch.cos(2 * torch.pi * 2 * t), norm="forward").round(decimals=4).abs()
        tensor([0.0000, 0.0000, 0.5000, 0.0000, 0.0000])
    """
    op = "power_spectrum"
    return _spectrum(op, grid_of(op, x, dim, window, detrend, norm, spacing), onesided=onesided)


def cross_spectrum(
    x: Tensor,
    y: Tensor,
    dim: int | Sequence[int] = -1,
    *,
    window: str | Tensor | Sequence[str | Tensor | None] | None = None,
    detrend: Literal["none", "mean"] = "none",
    norm: Norm = "backward",
    onesided: bool | None = None,
    spacing: float | Sequence[float] = 1.0,
) -> Tensor:
    r"""Cross power :math:`\hat x(k) \overline{\hat y(k)}` of two fields on one grid.

    Args:
        x: as in `power_spectrum`.
        y: of the shape and dtype of ``x``.
        dim: axes of the grid.
        window: as in `power_spectrum`, for both.
        detrend: as in `power_spectrum`.
        norm: as in `power_spectrum`.
        onesided: as in `power_spectrum`; the phase is that of the kept mode.
        spacing: as in `power_spectrum`.

    Returns:
        Complex, laid out as the power.

    Raises:
        ValueError: as `power_spectrum`, and where shapes or dtypes differ.

    Cost:
        Two FFTs and one pass.

    Accuracy:
        That of the FFT.

    Differentiable to every order.

    References:
        As `power_spectrum`.

    Example:
        >>> x = torch.randn(8)
        >>> torch.allclose(cross_spectrum(x, x).real, power_spectrum(x))
        True
    """
    op = "cross_spectrum"
    return _spectrum(op, *pair_of(op, x, y, dim, window, detrend, norm, spacing), onesided=onesided)
