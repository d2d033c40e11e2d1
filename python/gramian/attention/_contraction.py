"""What follows from a constant below 1: fixed points, inverses of residual layers, and how far a replaced token moves the output."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._particles import transport_bound

if TYPE_CHECKING:
    from collections.abc import Callable


class FixedPoint(NamedTuple):
    """Where an iteration came to, how far at most from its fixed point, and how fast steps shrank: the largest ratio of two in a row."""

    x: Tensor
    error: float
    ratio: float
    iterations: int
    converged: bool


@torch.no_grad()
def fixed_point(
    function: Callable[[Tensor], Tensor], x: Tensor, *, lipschitz: float, tol: float = 1e-6, max_iter: int = 1000
) -> FixedPoint:
    r"""The fixed point of a contraction, such as a stack of one layer repeated for ever: :math:`x_{t+1} = f(x_t)`.

    By Banach's theorem it is unique, and :math:`|x_t - x^*| \le \frac{L}{1 - L} |x_t - x_{t-1}|`, when :math:`L < 1` is a constant of :math:`f`
    on a closed set that :math:`f` maps into itself. A local constant such as `sigma`, at one point, proves neither.

    Args:
        function: ``f``, of a tensor of the shape of ``x``.
        x: where to begin.
        lipschitz: ``L`` in the Euclidean norm of the whole tensor, below 1.
        tol: stop when the error is at most this times the norm of ``x``.
        max_iter: calls of ``f`` at most.

    Returns:
        `FixedPoint`: ``x``; ``error``, the bound above, in units of ``x``; ``ratio``, where more than ``L`` shows that ``L`` is no constant of
        ``f``; ``iterations``; ``converged``.

    Raises:
        ValueError: ``L`` that is not from 0 to below 1, a function that changes the shape, fewer than 1 call, a steeper step
            than ``L`` allows.

    Cost:
        ``log(tol) / log(L)`` calls of ``f``.

    Accuracy:
        ``error``, and the roundings of ``f`` times ``1 / (1 - L)``, which it does not include.

    Computed without recording a gradient.

    References:
        Banach's fixed point theorem, with its error a posteriori.

    Example:
        >>> fixed_point(lambda x: x / 2 + 1, torch.zeros(1), lipschitz=0.5).x.round(decimals=4)
        tensor([2.])
    """
    op = "attention.fixed_point"
    if not 0 <= lipschitz < 1:
        raise ValueError(f"{op}: lipschitz must be 0 or more and below 1, got {lipschitz}")
    if max_iter < 1:
        raise ValueError(f"{op}: max_iter must be 1 or more, got {max_iter}")
    before, ratio, error, iterations, done = 0.0, 0.0, math.inf, 0, False
    while iterations < max_iter and not done and error >= 0:  # a NaN ends it
        iterations += 1
        y = function(x)
        if y.shape != x.shape:
            raise ValueError(f"{op}: function must keep the shape {tuple(x.shape)}, got {tuple(y.shape)}")
        size, moved = float(y.double().norm()), float((y.double() - x.double()).norm())
        floor = 8 * torch.finfo(x.dtype).eps * size  # steps of that size are roundings
        if before > floor:
            ratio = max(ratio, (moved - floor) / before)
        if ratio > lipschitz:
            raise ValueError(
                f"{op}: lipschitz must be a constant of function, got {lipschitz} and steps in a ratio of {ratio:.4g}"
            )
        x, before, error = y, moved, lipschitz / (1 - lipschitz) * moved
        done = error <= tol * size
    return FixedPoint(x, error, ratio, iterations, done)


def invert_residual(
    residual: Callable[[Tensor], Tensor], y: Tensor, *, lipschitz: float, tol: float = 1e-6, max_iter: int = 1000
) -> FixedPoint:
    r"""The input of a residual layer from its output: solves :math:`x + g(x) = y` by :math:`x_{t+1} = y - g(x_t)`.

    With a constant :math:`L < 1` of :math:`g`, the layer is a bijection that changes distances by factors from :math:`1 - L` to :math:`1 + L`.

    Args:
        residual: ``g``.
        y: the layer's output.
        lipschitz: ``L``, as in `fixed_point`.
        tol: see `fixed_point`.
        max_iter: see `fixed_point`.

    Returns:
        `FixedPoint`, see `fixed_point`.

    Raises:
        ValueError: as `fixed_point`.

    Cost:
        As `fixed_point`.

    Accuracy:
        As `fixed_point`.

    Computed without recording a gradient.

    References:
        Banach's fixed point theorem.

    Example:
        >>> invert_residual(lambda x: x / 2, torch.tensor([3.0]), lipschitz=0.5).x.round(decimals=4)
        tensor([2.])
    """
    return fixed_point(lambda x: y - residual(x), y, lipschitz=lipschitz, tol=tol, max_iter=max_iter)


class Contraction(NamedTuple):
    """The constant between measures, whether attention maps the ball into itself, and whether both make it a contraction there."""

    bound: float
    invariant: bool
    holds: bool


def contraction(a: Tensor, v: Tensor, radius: float) -> Contraction:
    r"""Whether attention is proved to be a contraction of the measures on a ball.

    It is when its constant is below 1 and it maps the ball into itself. Outputs are means of :math:`V y`, so the ball is mapped into itself when :math:`\|V\| \le 1`. Repeated for ever, attention then leads all tokens to
    one place, whatever they were.

    Args:
        a: ``[D, D]``, the interaction ``A``, with any scale in it.
        v: ``[D, D]``, the values ``V``.
        radius: ``R``, 0 or more.

    Returns:
        `Contraction`: ``bound``, of `transport_bound`; ``invariant``; ``holds``. False means not proved, not disproved.

    Raises:
        ValueError: as `transport_bound`; ``v`` is not square.

    Cost:
        Three spectral norms.

    Accuracy:
        That of the norms.

    References:
        Derived in docs/how-it-works/attention.md; the setting is that of arXiv:2007.02876.

    Example:
        >>> contraction(torch.zeros(2, 2), torch.eye(2) / 2, 1.0)
        Contraction(bound=0.5, invariant=True, holds=True)
    """
    if v.dim() != 2 or v.shape[0] != v.shape[1]:
        raise ValueError(f"attention.contraction: v must be square, got shape {tuple(v.shape)}")
    bound = transport_bound(a, v, radius)
    invariant = bool(torch.linalg.matrix_norm(v.double(), 2) <= 1)
    return Contraction(bound, invariant, bound < 1 and invariant)


class Substitution(NamedTuple):
    """How far replacing a token moves the output measure: as coupled token by token, and at most."""

    measured: float
    bound: float


@torch.no_grad()
def substitution(x: Tensor, index: int, token: Tensor, a: Tensor, v: Tensor) -> Substitution:
    r"""How stable attention is when one of ``n`` tokens is replaced: at most :math:`L |x_k - x_k'| / n`, and what it is.

    Args:
        x: ``[n, D]`` tokens.
        index: ``k``, which of them is replaced.
        token: ``[D]``, by what.
        a: ``[D, D]``, the interaction ``A``: scores are :math:`\langle x, A y \rangle`.
        v: ``[out, D]``, the values ``V``.

    Returns:
        `Substitution`: ``measured``, the mean distance between the outputs of a token before and after, which is at least the
        :math:`W_1` between output measures; ``bound``, with `transport_bound` on the smallest ball about 0 that holds all tokens. In units of ``V x``.

    Raises:
        ValueError: shapes that do not fit, an index out of range.

    Cost:
        ``4 n² D`` flops and ``O(n²)`` memory.

    Accuracy:
        Computed in float64. The bound is exponential in ``|A| R²``.

    References:
        Derived in docs/how-it-works/attention.md; the setting is that of arXiv:2007.02876.

    Example:
        >>> x, eye = torch.zeros(4, 1), torch.eye(1)
        >>> substitution(x, 0, torch.ones(1), 0 * eye, eye)  # no interaction: the mean moves by a quarter
        Substitution(measured=0.25, bound=0.25)
    """
    op = "attention.substitution"
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"{op}: x must be [n, D] and not empty, got shape {tuple(x.shape)}")
    n, width = x.shape
    for name, part, wanted in (("token", token, (width,)), ("a", a, (width, width)), ("v", v, (*v.shape[:1], width))):
        if part.shape != wanted:
            raise ValueError(f"{op}: {name} must have shape {wanted}, got {tuple(part.shape)}")
    if not 0 <= index < n:
        raise ValueError(f"{op}: index must be from 0 to {n - 1}, got {index}")
    before, a, v = x.double(), a.double(), v.double()
    after = before.clone()
    after[index] = token.double()
    outputs = [(at @ a @ at.mT).softmax(1) @ at @ v.mT for at in (before, after)]
    radius = float(torch.cat([before, after[index : index + 1]]).norm(dim=1).max())
    moved = float((after[index] - before[index]).norm())
    return Substitution(float((outputs[1] - outputs[0]).norm(dim=1).mean()), transport_bound(a, v, radius) * moved / n)
