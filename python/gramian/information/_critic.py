"""Critics of all pairs: scores ``S[i, j] = T(x_i, y_j)`` without the activations of n m pairs."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from gramian import _autograd, _fake

__all__ = ["PairwiseCritic", "SeparableCritic", "pairwise_scores", "separable_scores"]

_scores = torch.ops.gramian.information_pairwise_scores.default
_backward_op = torch.ops.gramian.information_pairwise_scores_backward.default

_MOST_MASK_BYTES = 1 << 30  # beyond, the gradient computes the second layer again


def pairwise_scores(
    x: Tensor,
    y: Tensor,
    w_x: Tensor,
    w_y: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    r"""Scores of all pairs by one network, ``S[i, j] = w3 · relu(W2ᵀ relu(W_xᵀ x_i + W_yᵀ y_j + b1) + b2) + b3``.

    The network is the usual critic on the concatenation of ``x`` and ``y``. Its first layer is a sum of one term for ``x_i``
    and one for ``y_j``; the rest is done for a few pairs at a time, and only the score of a pair is kept.

    Args:
        x: ``[n, d_x]`` float32 or float64.
        y: ``[m, d_y]``, dtype of ``x``.
        w_x: ``[d_x, h]``.
        w_y: ``[d_y, h]``.
        b1: ``[h]``.
        w2: ``[h, h2]``.
        b2: ``[h2]``.
        w3: ``[h2]``.
        b3: scalar.

    Returns:
        ``[n, m]`` in the dtype of ``x``, contiguous.

    Raises:
        ValueError: shapes or dtypes that do not fit; the sizes are those of ``a = x w_x`` and ``b = y w_y + b1``.

    Cost:
        ``2 n m h h2`` flops, and ``4 n m h h2`` for all gradients. Memory: ``n m`` scores; where a gradient will be asked
        for, ``n m h2 / 8`` bytes that say which units were at work, up to 1 GiB; beyond, they are computed again for ``2 n m h h2``
        flops. The gradient adds up to 64 partial sums of ``(m + h2) h`` values. Inputs that are not contiguous are copied.

    Accuracy:
        Sums of ``h`` products in the dtype; gradients by the weights in pieces of 256 pairs, then of float64. A unit whose
        input is zero to rounding may be counted as at work or not.

    Differentiable in all arguments; the first gradient is compiled, higher ones and forward mode are plain torch and hold
    all ``n m h`` activations. Works under ``torch.func`` and ``torch.compile``. NaN propagates. The same bits for every
    number of threads.

    References:
        Belghazi et al., arXiv:1801.04062 (the critic); docs/how-it-works/information.md (the algorithm).

    Example:
        >>> one = torch.ones(1, 1)
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0], [-9.0]])
        >>> pairwise_scores(x, y, one, one, one[0], 2 * one, one[0], one[0], torch.zeros(()))
        tensor([[ 5., 11.,  1.],
                [ 7., 13.,  1.]])
    """
    if x.ndim != 2 or w_x.ndim != 2 or x.shape[1] != w_x.shape[0]:
        raise ValueError(f"pairwise_scores: x must be [n, {w_x.shape[0]}] like w_x, got shape {tuple(x.shape)}")
    if y.ndim != 2 or w_y.ndim != 2 or y.shape[1] != w_y.shape[0]:
        raise ValueError(f"pairwise_scores: y must be [m, {w_y.shape[0]}] like w_y, got shape {tuple(y.shape)}")
    a, b = x @ w_x, y @ w_y + b1
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (a, b, w2, b2, w3))
    mask_bytes = a.shape[0] * (-(-b.shape[0] // 32)) * b2.shape[0] * 4
    scores: Tensor = _scores(a, b, w2, b2, w3, wants_gradient and mask_bytes <= _MOST_MASK_BYTES)[0]
    return scores + b3


@_fake.register("information_pairwise_scores")
def _(a: Tensor, b: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, keep_mask: bool) -> tuple[Tensor, Tensor]:
    n, m = a.shape[0], b.shape[0]
    words = (m + 31) // 32 * w2.shape[1] if keep_mask else 0
    return a.new_empty((n, m)), a.new_empty((n, words), dtype=torch.int32)


@_fake.register("information_pairwise_scores_backward")
def _(grad: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in rest[:5])


def _one_by_one(op: Any) -> Any:
    """Return a vmap rule: each of these ops is long enough for a loop."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        calls = [
            op(*(x if dim is None else x.select(dim, b) for x, dim in zip(arguments, in_dims, strict=True)))
            for b in range(info.batch_size)
        ]
        outputs = tuple(torch.stack(parts) for parts in zip(*calls, strict=True))
        return outputs, (0,) * len(outputs)

    return rule


torch.library.register_vmap("gramian::information_pairwise_scores", _one_by_one(_scores))
torch.library.register_vmap("gramian::information_pairwise_scores_backward", _one_by_one(_backward_op))


# Derivatives of higher order, in plain torch. Units at work are constants: S is linear in each of h1, (W2, b2) and w3.


def _activations(a: Tensor, b: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z1 = a.unsqueeze(1) + b.unsqueeze(0)
    h1 = z1.relu()
    z2 = h1 @ w2 + b2
    return h1, (z1 > 0).to(z1.dtype), z2.relu(), (z2 > 0).to(z2.dtype)


def _first_tangents(m1: Tensor, da: Tensor, db: Tensor) -> Tensor:
    return m1 * (da.unsqueeze(1) + db.unsqueeze(0))


def _directional(weights: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """Derivative of the scores along ``tangents``."""
    a, b, w2, b2, w3 = weights
    da, db, dw2, db2, dw3 = tangents
    h1, m1, h2, m2 = _activations(a, b, w2, b2)
    dh2 = m2 * (_first_tangents(m1, da, db) @ w2 + h1 @ dw2 + db2)
    return dh2 @ w3 + h2 @ dw3


def _gradient_of_directional(
    grad: Tensor, weights: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients of ``Σ grad · _directional`` by the weights: the Hessian of ``Σ grad S``, which is symmetric, times tangents."""
    a, b, w2, b2, w3 = weights
    da, db, dw2, db2, dw3 = tangents
    h1, m1, _, m2 = _activations(a, b, w2, b2)
    dh1 = _first_tangents(m1, da, db)
    dz2 = dh1 @ w2 + h1 @ dw2 + db2
    g = grad.unsqueeze(-1) * m2
    by_dh2, by_h2 = g * w3, g * dw3
    by_h1 = m1 * (by_dh2 @ dw2.mT + by_h2 @ w2.mT)
    by_w2 = torch.einsum("ijk,iju->ku", dh1, by_dh2) + torch.einsum("ijk,iju->ku", h1, by_h2)
    return by_h1.sum(1), by_h1.sum(0), by_w2, by_h2.sum((0, 1)), (g * dz2).sum((0, 1))


def _filled(tangents: tuple[Tensor | None, ...], like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(t) if d is None else d for d, t in zip(tangents, like, strict=True))


def _setup_scores(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *weights, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*weights, output[1])
    ctx.save_for_forward(*weights, output[1])


def _scores_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *weights, mask = ctx.saved_tensors
    return (*_backward_op(grad, *weights, mask), None)


def _scores_jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
    *weights, _ = ctx.saved_tensors
    return _directional(tuple(weights), _filled(tangents[:5], tuple(weights))), None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], _: Any) -> None:
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *weights, _ = ctx.saved_tensors
    along = _filled(grads, tuple(weights))
    by_grad = _directional(tuple(weights), along)
    return (by_grad, *_gradient_of_directional(grad, tuple(weights), along), None)


def _backward_jvp(ctx: Any, grad_tangent: Tensor | None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
    grad, *weights, mask = ctx.saved_tensors
    moved = _gradient_of_directional(grad, tuple(weights), _filled(tangents[:5], tuple(weights)))
    if grad_tangent is None:
        return moved
    return tuple(p + q for p, q in zip(moved, _backward_op(grad_tangent, *weights, mask), strict=True))


_autograd.register(_scores, setup_context=_setup_scores, backward=_scores_backward, jvp=_scores_jvp)
_autograd.register(_backward_op, setup_context=_setup_backward, backward=_backward_backward, jvp=_backward_jvp)


def separable_scores(f: Tensor, g: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Scores of all pairs by two networks, ``S[i, j] = f_i · g_j / temperature``.

    Args:
        f: ``[n, d]`` what one network makes of ``x``.
        g: ``[m, d]`` what the other makes of ``y``.
        temperature: positive.

    Returns:
        ``[n, m]``, dtype of ``f``.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.

    Cost:
        ``2 n m d`` flops and ``n m`` values: `infonce_separable` needs no such matrix.

    Accuracy:
        That of torch's matrix product.

    Differentiable to every order, plain torch.

    References:
        van den Oord et al., arXiv:1807.03748.

    Example:
        >>> separable_scores(torch.eye(2), torch.eye(2), temperature=0.5)
        tensor([[2., 0.],
                [0., 2.]])
    """
    _check_separable("separable_scores", f, g, temperature)
    return f @ g.mT / temperature


def _check_separable(op: str, f: Tensor, g: Tensor, temperature: float) -> None:
    if f.ndim != 2:
        raise ValueError(f"{op}: f must be [n, d], got shape {tuple(f.shape)}")
    if g.ndim != 2 or g.shape[1] != f.shape[1]:
        raise ValueError(f"{op}: g must be [m, {f.shape[1]}] like f, got shape {tuple(g.shape)}")
    if not temperature > 0:
        raise ValueError(f"{op}: temperature must be positive, got {temperature}")


class PairwiseCritic(nn.Module):
    """A network with two hidden layers on pairs ``(x, y)``: ``critic(x, y)`` scores all pairs, ``critic.pairs`` row by row.

    Args:
        d_x: features of ``x``.
        d_y: features of ``y``.
        hidden: units of the two hidden layers.
    """

    def __init__(self, d_x: int, d_y: int, hidden: tuple[int, int] = (128, 128)) -> None:
        super().__init__()
        self.d_x = d_x
        self.first, self.second = nn.Linear(d_x + d_y, hidden[0]), nn.Linear(*hidden)
        self.last = nn.Linear(hidden[1], 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score all pairs, ``[n, m]``."""
        w_x, w_y = self.first.weight[:, : self.d_x].mT, self.first.weight[:, self.d_x :].mT
        second, last = self.second, self.last
        return pairwise_scores(
            x, y, w_x, w_y, self.first.bias, second.weight.mT, second.bias, last.weight[0], last.bias[0]
        )

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Score pairs ``(x_i, y_i)``, ``[n]``."""
        h = self.second(self.first(torch.cat([x, y], 1)).relu()).relu()
        return cast("Tensor", self.last(h))[:, 0]


class SeparableCritic(nn.Module):
    """Two networks with ``T(x, y) = f(x) · g(y) / temperature``: ``critic(x, y)`` scores all pairs, ``critic.pairs`` row by row.

    Args:
        f: network of ``x``, with ``[n, d]`` as its output.
        g: network of ``y``, likewise.
        temperature: positive.
    """

    def __init__(self, f: nn.Module, g: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.f, self.g, self.temperature = f, g, temperature

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score all pairs, ``[n, m]``."""
        return separable_scores(self.f(x), self.g(y), self.temperature)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Score pairs ``(x_i, y_i)``, ``[n]``."""
        return cast("Tensor", (self.f(x) * self.g(y)).sum(1) / self.temperature)
