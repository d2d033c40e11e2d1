"""InfoNCE of a separable critic, for batches whose n² scores do not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian import _autograd, _fake

from ._critic import _check_separable, _filled

__all__ = ["infonce_separable"]

_infonce = torch.ops.gramian.information_infonce.default


def infonce_separable(f: Tensor, g: Tensor, temperature: float = 1.0, *, symmetric: bool = False) -> Tensor:
    r"""InfoNCE bound of a separable critic, ``mean_i (S_ii - log Σ_j exp S_ij) + log n`` with ``S = f gᵀ / temperature``.

    A lower bound on the mutual information, in nats, that never exceeds ``log n``. Its negative (less ``log n``) is the usual
    contrastive loss: maximise this, or minimise that.

    Args:
        f: ``[n, d]`` float32 or float64; row ``i`` belongs to row ``i`` of ``g``.
        g: ``[n, d]``, dtype of ``f``.
        temperature: positive.
        symmetric: the mean of the bound by rows and that by columns of ``S``.

    Returns:
        A scalar in the dtype of ``f``, in nats.

    Raises:
        ValueError: shapes or dtypes that do not fit, fewer than 2 rows, a temperature that is not positive.

    Cost:
        ``2 n² d`` flops; where a gradient will be asked for ``6 n² d``, all in the forward pass. Twice that if
        ``symmetric``. Memory: two packed copies of ``g``, 96 rows of scores a thread and up to 8 partial sums of ``n d`` values
        for the gradient: nothing that grows with ``n²``. Inputs that are not contiguous are copied.

    Accuracy:
        Sums of ``d`` products in the dtype, the sum over ``n`` relative to the largest term, the mean in float64.

    Differentiable; the first derivative is compiled, higher ones are plain torch and hold ``[n, n]``. Works
    under ``torch.func`` and ``torch.compile``. NaN propagates. The same bits for every number of threads.

    References:
        van den Oord et al., arXiv:1807.03748; Poole et al., arXiv:1905.06922.

    Example:
        >>> infonce_separable(9 * torch.eye(4), torch.eye(4))
        tensor(1.3859)
    """
    _check_separable("infonce_separable", f, g, temperature)
    if f.shape[0] != g.shape[0]:
        raise ValueError(f"infonce_separable: g must have the {f.shape[0]} rows of f, got {g.shape[0]}")
    f = f if temperature == 1 else f / temperature
    wanted = torch.is_grad_enabled() and (f.requires_grad or g.requires_grad)
    value: Tensor = _infonce(f, g, wanted)[0]
    return (value + _infonce(g, f, wanted)[0]) / 2 if symmetric else value


@_fake.register("information_infonce")
def _(f: Tensor, g: Tensor, gradients: bool) -> tuple[Tensor, Tensor, Tensor]:
    n, d = f.shape
    return f.new_empty(()), f.new_empty((n if gradients else 0, d)), f.new_empty((n if gradients else 0, d))


@torch.library.register_vmap("gramian::information_infonce")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[int | None, ...], f: Tensor, g: Tensor, gradients: bool) -> tuple[Any, Any]:
    calls = [
        _infonce(*(x if dim is None else x.select(dim, b) for x, dim in zip((f, g), in_dims, strict=False)), gradients)
        for b in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0, 0, 0)


def _hessian_product(f: Tensor, g: Tensor, df: Tensor, dg: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivative of the bound's gradient along ``(df, dg)``, in plain torch; the Hessian is symmetric."""
    n = f.shape[0]
    p = (f @ g.mT).softmax(1)
    moved = df @ g.mT + f @ dg.mT
    by_tangent = (torch.eye(n, dtype=f.dtype, device=f.device) - p) / n
    by_scores = -p * (moved - (p * moved).sum(1, keepdim=True)) / n
    return by_tangent @ dg + by_scores @ g, by_tangent.mT @ df + by_scores.mT @ f


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    f, g, ctx.gradients = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(f, g, *output[1:])
    ctx.save_for_forward(f, g, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *along: Tensor | None) -> tuple[Tensor | None, ...]:
    f, g, grad_f, grad_g = ctx.saved_tensors
    by_f = by_g = None
    if grad is not None:
        if torch.is_grad_enabled() or not ctx.gradients:
            _, grad_f, grad_g = _infonce(f, g, True)
        by_f, by_g = grad * grad_f, grad * grad_g
    if ctx.gradients and any(t is not None for t in along):
        more_f, more_g = _hessian_product(f, g, *_filled(along, (f, g)))
        by_f, by_g = (more_f, more_g) if by_f is None or by_g is None else (by_f + more_f, by_g + more_g)
    return by_f, by_g, None


def _jvp(ctx: Any, df: Tensor | None, dg: Tensor | None, _: None) -> tuple[Tensor, ...]:
    f, g, kept, _ = ctx.saved_tensors
    df, dg = _filled((df, dg), (f, g))
    _, grad_f, grad_g = _infonce(f, g, True)
    moved = (df * grad_f).sum() + (dg * grad_g).sum()
    if not ctx.gradients:
        return moved, torch.zeros_like(kept), torch.zeros_like(kept)
    return (moved, *_hessian_product(f, g, df, dg))


_autograd.register(_infonce, setup_context=_setup_context, backward=_backward, jvp=_jvp)
