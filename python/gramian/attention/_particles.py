"""Attention as a map of measures: tokens as weighted particles that move each other, and how far it moves measures apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def particle_flow(
    x: Tensor, a: Tensor, v: Tensor, *, weights: Tensor | None = None, steps: int = 1, step_size: float = 1.0
) -> Tensor:
    r"""Particles that attention moves: :math:`x_i \leftarrow x_i + h\, V \sum_j P_{ij} x_j`.

    ``P`` is the Boltzmann-Gibbs transform, :math:`P_{ij} \propto w_j \exp \langle x_i, A x_j \rangle`, the
    measure :math:`\sum_j w_j \delta_{x_j}` reweighted by the interaction. Particles of equal place and summed weight are one particle.

    Args:
        x: ``[n, D]`` the particles' places.
        a: ``[D, D]``, the interaction ``A``.
        v: ``[D, D]``, the values ``V``.
        weights: ``[n]``, positive, of any sum; None: equal.
        steps: how many steps.
        step_size: ``h``.

    Returns:
        ``[steps + 1, n, D]``, places at the start and after each step, in units of ``x``.

    Raises:
        ValueError: shapes that do not fit, weights that are not positive, fewer than 0 steps.

    Cost:
        ``4 n² D`` flops a step and ``O(n²)`` memory.

    Accuracy:
        Roundings of the dtype; a NaN is propagated.

    Differentiable in all tensors: made of torch's own ops.

    References:
        The measure-theoretic reading of attention: arXiv:2007.02876.

    Example:
        >>> x, eye = torch.zeros(2, 1), torch.eye(1)
        >>> particle_flow(x + 1, eye, eye).flatten()  # equal particles see their own place
        tensor([1., 1., 2., 2.])
    """
    op = "attention.particle_flow"
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"{op}: x must be [n, D] and not empty, got shape {tuple(x.shape)}")
    for name, w in (("a", a), ("v", v)):
        if w.shape != (x.shape[1], x.shape[1]):
            raise ValueError(f"{op}: {name} must have shape {(x.shape[1], x.shape[1])}, got {tuple(w.shape)}")
    if weights is not None and (weights.shape != x.shape[:1] or not bool((weights > 0).all())):
        raise ValueError(f"{op}: weights must be {x.shape[0]} positive numbers, got {weights.tolist()}")
    if steps < 0:
        raise ValueError(f"{op}: steps must be 0 or more, got {steps}")
    places = [x]
    for _ in range(steps):
        at = places[-1]
        scores = at @ a @ at.mT
        if weights is not None:
            scores = scores + weights.log()
        places.append(at + step_size * (scores.softmax(1) @ at) @ v.mT)
    return torch.stack(places)


def transport_bound(a: Tensor, v: Tensor, radius: float) -> float:
    r"""How far attention moves measures on a ball apart: :math:`W_1(\mu A_\mu, \nu A_\nu) \le L\, W_1(\mu, \nu)`.

    For any number of tokens, :math:`L = \|V\| (\alpha + (1 + 2\alpha) e^{2\alpha})` with :math:`\alpha = \|A\| R^2`, for measures on the ball of radius ``R``, scores
    :math:`\langle x, A y \rangle` and values :math:`V y`. It holds for :math:`W_2` too. Replacing one of ``n`` tokens by one at distance
    ``r`` moves the output by at most ``L r / n``. Below 1 the map is a contraction as long as it maps the ball into itself.

    Args:
        a: ``[D, D]``, the interaction ``A``, with any scale in it.
        v: ``[out, D]``, the values ``V``.
        radius: ``R``, 0 or more.

    Returns:
        ``L``, a number; infinity where it is too large for one.

    Raises:
        ValueError: ``a`` or ``v`` is no matrix, a radius that is negative or not finite.

    Cost:
        Two spectral norms.

    Accuracy:
        That of the norms. An upper bound, seldom near: exponential in ``alpha``.

    References:
        Derived in docs/how-it-works/attention.md; the setting is that of arXiv:2007.02876.

    Example:
        >>> transport_bound(torch.zeros(2, 2), 3 * torch.eye(2), 1.0)  # no interaction: the mean of values
        3.0
    """
    op = "attention.transport_bound"
    for name, w in (("a", a), ("v", v)):
        if w.dim() != 2 or 0 in w.shape:
            raise ValueError(f"{op}: {name} must be a matrix, got shape {tuple(w.shape)}")
    if not 0 <= radius < math.inf:
        raise ValueError(f"{op}: radius must be finite and 0 or more, got {radius}")
    alpha = torch.linalg.matrix_norm(a.double(), 2).item() * radius * radius
    grown = math.exp(2 * alpha) if alpha < 350 else math.inf
    return float(torch.linalg.matrix_norm(v.double(), 2).item() * (alpha + (1 + 2 * alpha) * grown))
