"""Fields on grids: their axes, windows and normalisation, and their transform by torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Grid", "Norm", "fold_of", "grid_of", "modes_of", "pair_of"]

Norm: TypeAlias = Literal["backward", "forward", "ortho", "density"]


class Grid(NamedTuple):
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


def grid_of(
    op: str,
    x: Tensor,
    dim: int | Sequence[int],
    window: str | Tensor | Sequence[str | Tensor | None] | None,
    detrend: str,
    norm: str,
    spacing: float | Sequence[float],
) -> Grid:
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
    return Grid(field, windows, sizes, tuple(float(step) for step in apart), factor)


def pair_of(op: str, x: Tensor, y: Tensor, *rest: Any) -> tuple[Grid, Grid]:
    if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device:
        raise ValueError(
            f"{op}: y must have the shape, dtype and device of x {tuple(x.shape)} {x.dtype}, got {tuple(y.shape)} {y.dtype}"
        )
    return grid_of(op, x, *rest), grid_of(op, y, *rest)


def fold_of(grid: Grid) -> int:
    return 0 if grid.field.is_complex() else 1 + (grid.sizes[-1] % 2 == 0)


def modes_of(grid: Grid) -> Tensor:
    """The transform, real fields' for half of the last axis, ``[b, n1, .., kept, 2]``."""
    axes, field = tuple(range(-len(grid.sizes), 0)), grid.field
    if field.numel() == 0:  # torch's transform refuses an empty batch
        size = grid.sizes[-1] if field.is_complex() else grid.sizes[-1] // 2 + 1
        modes = field[..., :1].expand(*field.shape[:-1], size) + 0j
    else:
        for axis, weights in zip(axes, grid.windows, strict=True):
            if weights is not None:
                field = field * weights.reshape(-1, *[1] * (-axis - 1))
        modes = (torch.fft.fftn if field.is_complex() else torch.fft.rfftn)(field, dim=axes)
    parts = torch.view_as_real(modes.resolve_conj())
    return parts.reshape(math.prod(parts.shape[: -len(axes) - 1]), *parts.shape[-len(axes) - 1 :]).contiguous()
