"""From modes to powers: of each, or summed over shells. The ops, and their derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gramian import _autograd, _fake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["lattice", "powers", "shells", "weights"]

# Both take modes [b, n1, .., kept, 2] of one field or of two; `fold` is 1 (2 on an even axis) where half of the last axis is kept.
shells = torch.ops.gramian.spectra_shells.default
powers = torch.ops.gramian.spectra_powers.default


def weights(kept: int, fold: int, like: Tensor) -> Tensor:
    """How many modes of the full lattice each of those stands for that an axis keeps, ``[kept]``."""
    weight = like.new_ones(kept)
    if fold:
        weight[1 : kept - (fold == 2 and kept > 1)] = 2
    return weight


def lattice(octant: Tensor, sizes: Sequence[int], fold: bool) -> Tensor:
    """A table over |k| of every axis, ``[n/2 + 1, ..]``, as one over the modes that torch's transform keeps."""
    for axis, n in enumerate(sizes[:-1] if fold else sizes):
        m = torch.arange(n, device=octant.device)
        octant = octant.index_select(axis, torch.minimum(m, n - m))
    return octant


def _by_modes(at: Tensor, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Derivatives by both fields' modes, ``at`` those by the (real and imaginary) power of each."""
    if y is None:
        return 2 * at * x, None
    # S = x conj(y): gradients g = (of the real, of the imaginary part) turn by y and by x.
    real, imaginary = at.unbind(-1)
    (xr, xi), (yr, yi) = x.unbind(-1), y.unbind(-1)
    by_x = torch.stack([real * yr - imaginary * yi, real * yi + imaginary * yr], -1)
    return by_x, torch.stack([real * xr + imaginary * xi, real * xi - imaginary * xr], -1)


def _moved(power: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor | None, dx: Any, dy: Any) -> Tensor:
    """How powers move with their modes: ``power`` of two fields is bilinear."""
    if y is None:
        return 2 * power(x, dx).narrow(-1, 0, 1)
    moves = [power(*pair) for pair in ((dx, y), (x, dy)) if pair[0] is not None and pair[1] is not None]
    return moves[0] if len(moves) == 1 else moves[0] + moves[1]


def _batched_modes(info: Any, in_dims: tuple[int | None, ...], *fields: Tensor | None) -> list[Tensor | None]:
    def leading(t: Tensor | None, dim: int | None) -> Tensor | None:
        if t is None:
            return None
        wide = t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        return wide.reshape(-1, *wide.shape[2:]).contiguous()

    return [leading(t, dim) for t, dim in zip(fields, in_dims, strict=False)]


# ---- Sums over shells ----


@_fake.register("spectra_shells")
def _(x: Tensor, y: Tensor | None, _shell: Tensor, count: int, _fold: int) -> Tensor:
    return x.new_empty(x.shape[0], count, 1 if y is None else 2)


def _setup_shells(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    x, y, shell, ctx.shells, ctx.fold = inputs
    ctx.save_for_backward(x, y, shell)
    ctx.save_for_forward(x, y, shell)


def _backward_shells(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, shell = ctx.saved_tensors
    table = lattice(shell, x.shape[1:-1], ctx.fold > 0)
    at = grad.index_select(1, table.reshape(-1)).reshape(x.shape[0], *table.shape, grad.shape[2])
    return *_by_modes(at * weights(x.shape[-2], ctx.fold, x).unsqueeze(-1), x, y), None, None, None


def _jvp_shells(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: None) -> Tensor:
    x, y, shell = ctx.saved_tensors
    return _moved(lambda a, b: shells(a, b, shell, ctx.shells, ctx.fold), x, y, dx, dy)


def _batched_shells(info: Any, in_dims: Any, x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, int]:
    found: Tensor = shells(*_batched_modes(info, in_dims, x, y), *rest)
    return found.reshape(info.batch_size, -1, *found.shape[1:]), 0


torch.library.register_vmap("gramian::spectra_shells", _batched_shells)
_autograd.register(shells, setup_context=_setup_shells, backward=_backward_shells, jvp=_jvp_shells)


# ---- Powers ----


@_fake.register("spectra_powers")
def _(x: Tensor, y: Tensor | None, _fold: int, _factor: float) -> Tensor:
    return x.new_empty(*x.shape[:-1], 1 if y is None else 2)


@torch.library.impl("gramian::spectra_powers", "CUDA")
def _(x: Tensor, y: Tensor | None, fold: int, factor: float) -> Tensor:
    one, other = torch.view_as_complex(x), torch.view_as_complex(x if y is None else y)
    power = torch.view_as_real(one * other.conj()) * (factor * weights(x.shape[-2], fold, x)).unsqueeze(-1)
    return power[..., :1] if y is None else power


def _setup_powers(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    x, y, ctx.fold, ctx.factor = inputs
    ctx.save_for_backward(x, y)
    ctx.save_for_forward(x, y)


def _backward_powers(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y = ctx.saved_tensors
    return *_by_modes(grad * (ctx.factor * weights(x.shape[-2], ctx.fold, x)).unsqueeze(-1), x, y), None, None


def _jvp_powers(ctx: Any, dx: Tensor | None, dy: Tensor | None, *_: None) -> Tensor:
    x, y = ctx.saved_tensors
    return _moved(lambda a, b: powers(a, b, ctx.fold, ctx.factor), x, y, dx, dy)


def _batched_powers(info: Any, in_dims: Any, x: Tensor, y: Tensor | None, *rest: Any) -> tuple[Tensor, int]:
    found: Tensor = powers(*_batched_modes(info, in_dims, x, y), *rest)
    return found.reshape(info.batch_size, -1, *found.shape[1:]), 0


torch.library.register_vmap("gramian::spectra_powers", _batched_powers)
_autograd.register(powers, setup_context=_setup_powers, backward=_backward_powers, jvp=_jvp_powers)
