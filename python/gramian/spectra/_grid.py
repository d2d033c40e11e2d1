"""Power on grids: spectra, cross spectra, and their sums over shells of the wave number."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gramian import _autograd, _fake

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RadialSpectrum", "coherence", "cross_spectrum", "power_spectrum", "radial_spectrum"]

Norm = Literal["backward", "forward", "ortho", "density"]

_shells = torch.ops.gramian.spectra_shells.default
_grid_shells = torch.ops.gramian.spectra_grid_shells.default


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


# ---- From modes to shells ----


@_fake.register("spectra_shells")
def _(x: Tensor, y: Tensor | None, _shell: Tensor, shells: int, _fold: int) -> Tensor:
    return x.new_empty(x.shape[0], shells, 1 if y is None else 2)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    x, y, shell, ctx.shells, ctx.fold = inputs
    ctx.save_for_backward(x, y, shell)
    ctx.save_for_forward(x, y, shell)


def _weights(kept: int, fold: int, like: Tensor) -> Tensor:
    """How many modes of the full lattice each of those stands for that an axis keeps, ``[kept]``."""
    weight = like.new_ones(kept)
    if fold:
        weight[1 : kept - (fold == 2 and kept > 1)] = 2
    return weight


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, shell = ctx.saved_tensors
    weight = _weights(shell.shape[1], ctx.fold, x).unsqueeze(-1)
    at = grad.index_select(1, shell.reshape(-1)).reshape(x.shape[0], *shell.shape, grad.shape[2])
    if y is None:
        return 2 * weight * at * x, None, None, None, None
    # S = x conj(y): gradients g = (of the real, of the imaginary part) turn by y and by x.
    real, imaginary = at.unbind(-1)
    (xr, xi), (yr, yi) = x.unbind(-1), y.unbind(-1)
    by_x = weight * torch.stack([real * yr - imaginary * yi, real * yi + imaginary * yr], -1)
    by_y = weight * torch.stack([real * xr + imaginary * xi, real * xi - imaginary * xr], -1)
    return by_x, by_y, None, None, None


def _jvp(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: None) -> Tensor:
    x, y, shell = ctx.saved_tensors
    shells = ctx.shells
    if y is None:
        power: Tensor = 2 * _shells(x, dx, shell, shells, ctx.fold)
        return power.narrow(2, 0, 1)
    moved: Tensor = x.new_zeros(x.shape[0], shells, 2)
    if dx is not None:
        moved = moved + _shells(dx, y, shell, shells, ctx.fold)
    return moved if dy is None else moved + _shells(x, dy, shell, shells, ctx.fold)


def _batched(info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, int]:
    def leading(t: Tensor | None, dim: int | None) -> Tensor | None:
        if t is None:
            return None
        wide = t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        return wide.reshape(-1, *wide.shape[2:]).contiguous()

    found: Tensor = _shells(leading(x, in_dims[0]), leading(y, in_dims[1]), *rest)
    return found.reshape(info.batch_size, -1, *found.shape[1:]), 0


torch.library.register_vmap("gramian::spectra_shells", _batched)
_autograd.register(_shells, setup_context=_setup_context, backward=_backward, jvp=_jvp)


# ---- From samples to shells ----


def _lattice(octant: Tensor, sizes: Sequence[int], fold: bool) -> Tensor:
    """A table over |k| of every axis, ``[n/2 + 1, ..]``, as one over the modes that torch's transform keeps, ``[rows, last]``."""
    for axis, n in enumerate(sizes[:-1] if fold else sizes):
        m = torch.arange(n, device=octant.device)
        octant = octant.index_select(axis, torch.minimum(m, n - m))
    return octant.reshape(-1, octant.shape[-1])


def _outer(window: Tensor | None, sizes: Sequence[int]) -> Any:
    """Products of the axes' windows, which lie one after another along the last axis of ``window``."""
    if window is None:
        return 1.0
    first, *others = torch.split(window, list(sizes), -1)
    for axis, weights in enumerate(others, start=1):
        first = first.unsqueeze(-1) * weights.reshape(*weights.shape[:-1], *[1] * axis, -1)
    return first


@_fake.register("spectra_grid_shells")
def _(x: Tensor, _window: Tensor | None, _shell: Tensor, shells: int) -> Tensor:
    return x.new_empty(x.shape[0], shells)


def _grid_setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    x, window, shell, ctx.shells = inputs
    ctx.save_for_backward(x, window, shell)
    ctx.save_for_forward(x, window, shell)


def _grid_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The sum over a shell is x' F* 1 F x: its derivative is twice the inverse transform of the modes, weighted by shell.
    x, window, shell = ctx.saved_tensors
    sizes, axes = x.shape[1:], tuple(range(1, x.ndim))
    weights = _outer(window, sizes)
    modes = torch.fft.rfftn(x * weights, dim=axes)
    at = grad.index_select(1, _lattice(shell, sizes, fold=True).reshape(-1)).reshape(modes.shape)
    by_field = 2 * torch.fft.irfftn(at * modes, s=sizes, dim=axes, norm="forward")
    by_window = None
    if window is not None and ctx.needs_input_grad[1]:
        of_axes = torch.split(window, list(sizes))
        pieces = []
        for axis in range(len(sizes)):
            alone = torch.cat([torch.ones_like(w) if a == axis else w for a, w in enumerate(of_axes)])
            others = tuple(a for a in range(x.ndim) if a != axis + 1)
            pieces.append((by_field * x * _outer(alone, sizes)).sum(others))
        by_window = torch.cat(pieces)
    return by_field * weights, by_window, None, None


def _grid_jvp(ctx: Any, dx: Tensor | None, dwindow: Tensor | None, *_: None) -> Tensor:
    x, window, shell = ctx.saved_tensors
    sizes, axes = x.shape[1:], tuple(range(1, x.ndim))
    weights = _outer(window, sizes)
    moved = torch.zeros_like(x) if dx is None else dx * weights
    if window is not None and dwindow is not None:
        of_axes, moves = torch.split(window, list(sizes)), torch.split(dwindow, list(sizes))
        for axis in range(len(sizes)):
            one_moved = torch.cat([moves[a] if a == axis else w for a, w in enumerate(of_axes)])
            moved = moved + x * _outer(one_moved, sizes)
    table = _lattice(shell, sizes, fold=True)
    modes = [
        torch.view_as_real(torch.fft.rfftn(t, dim=axes)).reshape(-1, *table.shape, 2) for t in (x * weights, moved)
    ]
    both: Tensor = _shells(*modes, table, ctx.shells, 1 + (sizes[-1] % 2 == 0))
    return 2 * both[..., 0]


def _grid_batched(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, window: Tensor | None, shell: Tensor, shells: int
) -> tuple[Tensor, int]:
    wide = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    if window is not None and in_dims[1] is not None:
        wide, window = wide * _outer(window.movedim(in_dims[1], 0), wide.shape[2:]).unsqueeze(1), None
    found: Tensor = _grid_shells(wide.reshape(-1, *wide.shape[2:]), window, shell, shells)
    return found.reshape(info.batch_size, -1, shells), 0


torch.library.register_vmap("gramian::spectra_grid_shells", _grid_batched)
_autograd.register(_grid_shells, setup_context=_grid_setup_context, backward=_grid_backward, jvp=_grid_jvp)


class _Grid(NamedTuple):
    """A field, its grid axes last, the windows of these, and what the spectrum is multiplied with."""

    field: Tensor
    windows: tuple[Tensor | None, ...]
    sizes: tuple[int, ...]
    spacing: tuple[float, ...]
    factor: float


def _axes(op: str, x: Tensor, dim: int | Sequence[int]) -> list[int]:
    given = [dim] if isinstance(dim, int) else list(dim)
    if not 1 <= len(given) <= 4:
        raise ValueError(f"{op}: dim must name 1 to 4 axes, got {tuple(given)}")
    if any(not -x.ndim <= axis < x.ndim for axis in given) or len({axis % x.ndim for axis in given}) < len(given):
        raise ValueError(f"{op}: dim must name different axes of x with shape {tuple(x.shape)}, got {tuple(given)}")
    return [axis % x.ndim for axis in given]


def _window_of(op: str, given: str | Tensor | None, size: int, like: Tensor) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given != "hann":
            raise ValueError(f"{op}: window must be 'hann', a tensor or None, got {given!r}")
        return torch.hann_window(size, dtype=torch.float64, device="cpu").to(like)
    if given.shape != (size,):
        raise ValueError(f"{op}: window must have the {size} samples of its axis, got shape {tuple(given.shape)}")
    return given.to(like)


def _grid(
    op: str,
    x: Tensor,
    dim: int | Sequence[int],
    window: str | Tensor | Sequence[str | Tensor | None] | None,
    detrend: str,
    norm: str,
    spacing: float | Sequence[float],
) -> _Grid:
    axes = _axes(op, x, dim)
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.get_default_dtype())
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"{op}: x must be float32, float64 or complex of them, got {x.dtype}")
    if detrend not in ("none", "mean"):
        raise ValueError(f"{op}: detrend must be 'none' or 'mean', got {detrend!r}")
    if norm not in get_args(Norm):
        raise ValueError(f"{op}: norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
    field = x.movedim(axes, list(range(-len(axes), 0)))
    sizes = tuple(field.shape[-len(axes) :])
    if 0 in sizes:
        raise ValueError(f"{op}: x must have samples along dim, got shape {tuple(x.shape)}")
    apart = [spacing] * len(axes) if isinstance(spacing, int | float) else [*spacing]
    if len(apart) != len(axes) or any(not (step > 0 and math.isfinite(step)) for step in apart):
        raise ValueError(f"{op}: spacing must be positive, one for all or each of {len(axes)} axes, got {spacing}")
    given = [window] * len(axes) if window is None or isinstance(window, str | Tensor) else [*window]
    if len(given) != len(axes):
        raise ValueError(f"{op}: window must be one for all or each of {len(axes)} axes, got {len(given)}")
    if detrend == "mean":
        field = field - field.mean(tuple(range(-len(axes), 0)), keepdim=True)
    real = field.real if field.is_complex() else field
    windows = tuple(_window_of(op, one, size, real) for one, size in zip(given, sizes, strict=True))
    total = float(math.prod(sizes))
    if norm == "density":
        squares = [
            float(n) if weights is None else float(weights.double().square().sum())
            for n, weights in zip(sizes, windows, strict=True)
        ]
        if 0 in squares:
            raise ValueError(f"{op}: window must not be zero, got one whose squares sum to 0")
        factor = math.prod(apart) / math.prod(squares)
    else:
        factor = {"backward": 1.0, "ortho": 1 / total, "forward": 1 / total**2}[norm]
    return _Grid(field, windows, sizes, tuple(float(step) for step in apart), factor)


def _modes(grid: _Grid) -> Tensor:
    axes, field = tuple(range(-len(grid.sizes), 0)), grid.field
    if field.numel() == 0:  # torch's transform refuses an empty batch
        size = grid.sizes[-1] if field.is_complex() else grid.sizes[-1] // 2 + 1
        return field[..., :1].expand(*field.shape[:-1], size) + 0j
    for axis, weights in zip(axes, grid.windows, strict=True):
        if weights is not None:
            field = field * weights.reshape(-1, *[1] * (-axis - 1))
    transform = torch.fft.fftn if field.is_complex() else torch.fft.rfftn
    modes: Tensor = transform(field, dim=axes)
    return modes


def _fold(grid: _Grid) -> int:
    return 0 if grid.field.is_complex() else 1 + (grid.sizes[-1] % 2 == 0)


def _counted(grid: _Grid, spectrum: Tensor, onesided: bool) -> Tensor:
    """Modes that stand for two count twice, or, where the full lattice is wanted, are written out."""
    fold = _fold(grid)
    if fold == 0:
        return spectrum
    kept, size = spectrum.shape[-1], grid.sizes[-1]
    if onesided:
        return spectrum * _weights(kept, fold, spectrum.real)
    # F(-k) is the conjugate of F(k): the other half, with every other axis reversed about its zero.
    other = spectrum[..., 1 : size - kept + 1].flip(-1)
    for axis in range(-len(grid.sizes), -1):
        other = torch.roll(other.flip(axis), 1, axis)
    return torch.cat([spectrum, other.conj() if other.is_complex() else other], -1)


def _check_onesided(op: str, x: Tensor, onesided: bool | None) -> bool:
    if x.is_complex() and onesided:
        raise ValueError(f"{op}: onesided must not be True for complex x, whose halves differ")
    return not x.is_complex() if onesided is None else onesided


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
    grid = _grid("power_spectrum", x, dim, window, detrend, norm, spacing)
    half = _check_onesided("power_spectrum", grid.field, onesided)
    power = torch.view_as_real(_modes(grid)).square().sum(-1)
    return _counted(grid, power if grid.factor == 1 else power * grid.factor, half)


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
    grids = _pair("cross_spectrum", x, y, dim, window, detrend, norm, spacing)
    half = _check_onesided("cross_spectrum", grids[0].field, onesided)
    return _counted(grids[0], _modes(grids[0]) * _modes(grids[1]).conj() * grids[0].factor, half)


def _pair(op: str, x: Tensor, y: Tensor, *rest: Any) -> tuple[_Grid, _Grid]:
    if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            f"{op}: y must have the shape, dtype and device of x {tuple(x.shape)} {x.dtype}, got {tuple(y.shape)} {y.dtype}"
        )
    return _grid(op, x, *rest), _grid(op, y, *rest)


# ---- Shells ----


class _Shells(NamedTuple):
    number: Tensor  # int32, one over what is counted for modes that are dropped
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
def _unit_shells(sizes: tuple[int, ...], spacing: tuple[float, ...], fold: int | None, truncate: bool) -> _Shells:
    squares, step = _squares(sizes, spacing)
    k = squares.sqrt()
    number = (k + 0.5).floor().long()
    nyquist = min(0.5 / s for s in spacing) / step
    shells = math.floor(nyquist + 0.5) + 1 if truncate else int(number.max()) + 1
    if truncate:
        number = torch.where(k > nyquist * (1 + 1e-12), shells, number)
    return _table(number, shells, sizes, fold, torch.arange(shells, device="cpu").double() * step)


def _given_shells(sizes: tuple[int, ...], spacing: tuple[float, ...], fold: int | None, edges: Tensor) -> _Shells:
    squares, step = _squares(sizes, spacing)
    k = squares.sqrt() * step
    number = torch.bucketize(k, edges, right=True) - 1
    number[k == edges[-1]] = len(edges) - 2
    number = torch.where((number < 0) | (number > len(edges) - 2), len(edges) - 1, number)
    return _table(number, len(edges) - 1, sizes, fold, (edges[1:] + edges[:-1]) / 2)


def _table(number: Tensor, shells: int, sizes: tuple[int, ...], fold: int | None, centres: Tensor) -> _Shells:
    """The table over |k| of every axis, or with ``fold`` over the modes that torch's transform keeps, ``[rows, last]``."""
    weight = torch.ones([], dtype=torch.float64, device="cpu")
    for n in sizes:
        weight = weight.unsqueeze(-1) * _weights(n // 2 + 1, 1 + (n % 2 == 0), weight)
    counts = torch.bincount(number.reshape(-1), weight.reshape(-1), minlength=shells + 1)[:shells]
    number = number.int() if fold is None else _lattice(number.int(), sizes, fold > 0)
    return _Shells(number.contiguous(), centres, counts.round().long())


def _shells_of(op: str, grid: _Grid, bins: int | Tensor | None, truncate: bool, *, fused: bool) -> _Shells:
    fold = None if fused else _fold(grid)
    if bins is None:
        return _unit_shells(grid.sizes, grid.spacing, fold, truncate)
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"{op}: bins must be at least 1, got {bins}")
        nyquist = [0.5 / step for step in grid.spacing]
        furthest = min(nyquist) if truncate else math.hypot(*nyquist)
        bins = torch.linspace(0, furthest, bins + 1, dtype=torch.float64, device="cpu")
    elif bins.ndim != 1 or len(bins) < 2 or not (bins[1:] > bins[:-1]).all():
        raise ValueError(f"{op}: bins must be edges that rise, at least two, got shape {tuple(bins.shape)}")
    return _given_shells(grid.sizes, grid.spacing, fold, bins.double().cpu())


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def _is_fused(grid: _Grid) -> bool:
    """Whether our own transform takes this grid, from samples to shells."""
    return (
        grid.field.device.type == "cpu"
        and not grid.field.is_complex()
        and len(grid.sizes) > 1
        and all(_is_smooth(n) for n in grid.sizes)
    )


def _sum(grids: Sequence[_Grid], shells: _Shells, *, fused: bool) -> tuple[Tensor, Tensor]:
    """Sums over shells and the dropped power, real for one grid and complex for two."""
    first, count = grids[0], len(shells.counts)
    batch = first.field.shape[: -len(first.sizes)]
    if fused:
        window = None
        if any(weights is not None for weights in first.windows):
            ones = [
                first.field.new_ones(n) if w is None else w for n, w in zip(first.sizes, first.windows, strict=True)
            ]
            window = torch.cat(ones)
        sums = _grid_shells(first.field.reshape(-1, *first.sizes), window, shells.number, count + 1) * first.factor
    else:
        table = shells.number.to(first.field.device)
        modes = [
            torch.view_as_real(_modes(grid).resolve_conj()).reshape(-1, *table.shape, 2).contiguous() for grid in grids
        ]
        found = _shells(modes[0], modes[1] if len(modes) == 2 else None, table, count + 1, _fold(first)) * first.factor
        sums = torch.view_as_complex(found) if len(modes) == 2 else found[..., 0]
    sums = sums.reshape(*batch, count + 1)
    return sums[..., :count], sums[..., count]


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
    grids = (_grid(op, x, *rest),) if y is None else _pair(op, x, y, *rest)
    fused = y is None and _is_fused(grids[0])
    shells = _shells_of(op, grids[0], bins, truncate, fused=fused)
    sums, dropped = _sum(grids, shells, fused=fused)
    counts = shells.counts.to(sums.device)
    real = sums.real
    centres = shells.centres.to(real)
    return RadialSpectrum(centres, sums / counts.to(real) if reduce == "mean" else sums, counts, dropped)


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
        Six FFTs and three passes over transforms.

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
    options: dict[str, Any] = {
        "bins": bins,
        "truncate": truncate,
        "window": window,
        "detrend": detrend,
        "spacing": spacing,
    }
    cross = radial_spectrum(x, dim, y=y, reduce="sum", **options)
    powers = [radial_spectrum(field, dim, reduce="sum", **options).values for field in (x, y)]
    values = torch.view_as_real(cross.values).square().sum(-1) / (powers[0] * powers[1])
    return cross._replace(values=values)
