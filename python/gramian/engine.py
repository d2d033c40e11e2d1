"""The Gram sweep itself, with the plainest thing that can be done to a Gram matrix that is never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _autograd, _fake

__all__ = ["gram_square_sum"]

_square_sum = torch.ops.gramian.gram_square_sum.default


def gram_square_sum(x: Tensor, y: Tensor) -> Tensor:
    r"""The sum of the squared inner products of all pairs of rows, :math:`\lVert X Y^\top \rVert_F^2`.

    The numerator of linear centred kernel alignment, and the squared norm of a kernel matrix ``X Xᵀ`` that is too large to
    store.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, any strides; read in place.
        y: ``[m, d]``, dtype and device of ``x``.

    Returns:
        A scalar, in the units of ``x`` times those of ``y``, squared; not negative; the dtype of ``x`` (float32 for half
        types). Zero when there are no rows or no features.

    Raises:
        ValueError: wrong shape, dtype or device; ``x`` and ``y`` with different ``d``.

    Cost:
        ``2 n m d`` flops. With fewer features than rows, ``((x.T @ x) * (y.T @ y)).sum()`` takes only ``2 (n + m) d²``. Memory:
        a workspace of a few MB a thread; nothing grows with ``n m``.

    Accuracy:
        Products and their squares are rounded in the dtype, ``d`` roundings each (float32 for half types); the sum over
        pairs is in float64. All terms are positive, so nothing cancels beyond the products themselves. A NaN or an
        infinity is propagated.

    Differentiable in both arguments, in both modes and to any order, by ``[d, d]`` products; works under ``torch.func``,
    ``torch.compile`` and ``vmap`` (one sweep for each sample); the same bits for every number of threads.

    References:
        Linear centred kernel alignment: Kornblith et al., arXiv:1905.00414. The sweep is this library's own
        (docs/how-it-works/engine.md).

    Example:
        >>> gram_square_sum(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))  # 3² + 2²
        tensor(13.)
    """
    value: Tensor = _square_sum(x, y)
    return value


@_fake.register("gram_square_sum")
def _(x: Tensor, _: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@torch.library.register_vmap("gramian::gram_square_sum")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[int | None, ...], *xy: Tensor) -> tuple[Tensor, int]:
    samples = [[t] * info.batch_size if dim is None else t.unbind(dim) for t, dim in zip(xy, in_dims, strict=True)]
    return torch.stack([_square_sum(x, y) for x, y in zip(*samples, strict=True)]), 0


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def _halves(ctx: Any) -> tuple[Tensor, Tensor]:
    """Half the derivative by each argument: ``X YᵀY`` and ``Y XᵀX``, which need no ``[n, m]``."""
    x, y = (t if t.dtype == torch.float64 else t.float() for t in ctx.saved_tensors)
    return x @ (y.mT @ y), y @ (x.mT @ x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, y = ctx.saved_tensors
    by_x, by_y = _halves(ctx)
    return (2 * grad * by_x).to(x.dtype), (2 * grad * by_y).to(y.dtype)


def _jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
    parts = zip(_halves(ctx), tangents, strict=True)
    return 2 * torch.stack([(half * t.to(half.dtype)).sum() for half, t in parts if t is not None]).sum()


_autograd.register(_square_sum, setup_context=_setup_context, backward=_backward, jvp=_jvp)
