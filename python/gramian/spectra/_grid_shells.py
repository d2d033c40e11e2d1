"""From samples of real fields to their power over shells, by our own transform. The op, and its derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gramian import _autograd, _fake

from ._modes import lattice, shells

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["grid_shells", "takes"]

grid_shells = torch.ops.gramian.spectra_grid_shells.default


def takes(field: Tensor, sizes: Sequence[int]) -> bool:
    """Whether our own transform takes these fields on grids of these sizes."""
    of_kind = field.device.type == "cpu" and not field.is_complex()
    return of_kind and len(sizes) > 1 and all(_is_smooth(n) for n in sizes)


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def _outer(window: Tensor | None, sizes: Sequence[int]) -> Any:
    """Products of the axes' windows, which lie one after another along the last axis of ``window``."""
    if window is None:
        return 1.0
    first, *others = torch.split(window, list(sizes), -1)
    for axis, weights in enumerate(others, start=1):
        first = first.unsqueeze(-1) * weights.reshape(*weights.shape[:-1], *[1] * axis, -1)
    return first


@_fake.register("spectra_grid_shells")
def _(x: Tensor, _window: Tensor | None, _shell: Tensor, count: int) -> Tensor:
    return x.new_empty(x.shape[0], count)


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
    at = grad.index_select(1, lattice(shell, sizes, fold=True).reshape(-1)).reshape(modes.shape)
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
    modes = [torch.view_as_real(torch.fft.rfftn(t, dim=axes)) for t in (x * weights, moved)]
    both: Tensor = shells(*modes, shell, ctx.shells, 1 + (sizes[-1] % 2 == 0))
    return 2 * both[..., 0]


def _grid_batched(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, window: Tensor | None, shell: Tensor, count: int
) -> tuple[Tensor, int]:
    wide = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
    if window is not None and in_dims[1] is not None:
        wide, window = wide * _outer(window.movedim(in_dims[1], 0), wide.shape[2:]).unsqueeze(1), None
    found: Tensor = grid_shells(wide.reshape(-1, *wide.shape[2:]), window, shell, count)
    return found.reshape(info.batch_size, -1, count), 0


torch.library.register_vmap("gramian::spectra_grid_shells", _grid_batched)
_autograd.register(grid_shells, setup_context=_grid_setup_context, backward=_grid_backward, jvp=_grid_jvp)
