"""Upper bounds of the Jacobian of attention, at an input and everywhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ._ops import Kind, is_l2
from ._tokens import probabilities, read

if TYPE_CHECKING:
    from collections.abc import Iterator


def _norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(x, 2)
    return size


def _triangle(x: Tensor) -> Tensor:
    """The norm of ``x y`` is that of this times ``y``."""
    found: Tensor = torch.linalg.qr(x, mode="r").R
    return found


class _Layer(NamedTuple):
    """An attention layer at its tokens, by heads, its output projection folded into the values.

    Only norms are wanted, so weights stand as the triangular factors of their QR decompositions.
    """

    q: Tensor  # [batch, heads, n, d]
    k: Tensor
    v: Tensor  # [batch, heads, n, dv]
    wq: Tensor  # [heads, d, d]
    wk: Tensor
    wv: Tensor  # [heads, dv, dv]
    c: float
    there: Tensor  # [batch, 1, n, 1], tokens that are no padding
    seen: Tensor | None  # where queries look


def _read(
    op: str,
    x: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor | None,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    heads: int,
    mask: Tensor | None,
    key_padding_mask: Tensor | None,
    scale: float | None,
) -> _Layer:
    if x.dim() != 3 or 0 in x.shape:
        raise ValueError(f"{op}: x must be [batch, n, D] and not empty, got shape {tuple(x.shape)}")
    q, k, v, seen, there = read(op, x, wq, wk, wv, wo, biases, heads, mask, key_padding_mask)
    there = torch.ones_like(x[..., 0], dtype=torch.bool) if there is None else there
    w_q, w_k, w_v = (_triangle(torch.unflatten(w, 1, (heads, -1)).transpose(0, 1)) for w in (wq, wk, wv))
    if wo is not None:
        out = _triangle(torch.unflatten(wo, 0, (heads, -1)).mT).mT
        v, w_v = v @ out, w_v @ out
    return _Layer(q, k, v, w_q, w_k, w_v, q.shape[3] ** -0.5 if scale is None else scale, there[:, None, :, None], seen)


def _probabilities(at: _Layer, *, is_causal: bool, l2: bool = False) -> Iterator[tuple[slice, Tensor]]:
    """As `probabilities`; padding has none."""
    for rows, p in probabilities(at.q, at.k, at.c, at.seen, is_causal=is_causal, l2=l2):
        yield rows, p * at.there[:, :, rows]


@torch.no_grad()
def closed_form_bound(
    x: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor | None = None,
    *,
    bq: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    heads: int = 1,
    mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    r"""Upper bound of `sigma` of dot-product attention at ``x``, in closed form.

    Summed over heads, with :math:`v` and :math:`W_v` times the output projection, :math:`m` the mean value and :math:`g` the bound
    :math:`p_1 (1 - p_1 + p_2)` of the norm of the softmax's Jacobian by its two largest probabilities:

    .. math:: \|P\| \|W_v\| + c (\|W_q k^\top\| + \|q W_k^\top\|) \|v - 1 m\| \max_i g(P_i).

    Args:
        x: as in `sigma`, like all others.
        wq: see `sigma`.
        wk: see `sigma`.
        wv: see `sigma`.
        wo: see `sigma`.
        bq: see `sigma`.
        bk: see `sigma`.
        bv: see `sigma`.
        heads: see `sigma`.
        mask: see `sigma`.
        key_padding_mask: see `sigma`.
        is_causal: see `sigma`.
        scale: see `sigma`.

    Returns:
        ``[batch]``, never below `sigma` but for rounding.

    Raises:
        ValueError: as `sigma`.

    Cost:
        The probabilities once, 128 rows at a time, and spectral norms of matrices of ``D`` or ``d`` by ``n``.

    Accuracy:
        That of the norms; :math:`\|P\|` is bounded by the root of its largest column sum, rows summing to 1.

    The result carries no gradient.

    References:
        Derived by the triangle inequality from the Jacobian; of the shape in the literature on arXiv:2102.05628. The bound of the
        softmax's Jacobian is checked in the tests.

    Example:
        >>> x, w = torch.zeros(1, 5, 2), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> closed_form_bound(x, w, w, w).round(decimals=4)
        tensor([3.])
    """
    at = _read("attention.closed_form_bound", x, wq, wk, wv, wo, (bq, bk, bv), heads, mask, key_padding_mask, scale)
    q, k, v, w_q, w_k, w_v, c, there, _ = at
    columns, sharpest = q.new_zeros(q.shape[:3]), q.new_zeros(q.shape[:2])
    for _, p in _probabilities(at, is_causal=is_causal):
        columns += p.sum(2)
        top = nn.functional.pad(p, (0, 1)).topk(2, 3).values  # of a single key there is no second
        sharpest = torch.maximum(sharpest, (top[..., 0] * (1 - top[..., 0] + top[..., 1])).amax(2))
    count = there.sum(2, keepdim=True).clamp(min=1)
    spread = torch.where(there, v - torch.where(there, v, 0).sum(2, keepdim=True) / count, 0)
    steep = _norm(w_q @ torch.where(there, k, 0).mT) + _norm(torch.where(there, q, 0) @ w_k.mT)
    bound: Tensor = (columns.amax(2).sqrt() * _norm(w_v) + abs(c) * steep * _norm(spread) * sharpest).sum(1)
    return bound


@torch.no_grad()
def schur_bound(
    x: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor | None = None,
    *,
    bq: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    heads: int = 1,
    mask: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
) -> Tensor:
    r"""Upper bound of `sigma` at ``x`` by blocks: :math:`\sigma_1(J) \le \sigma_1(M)`, :math:`M_{ij} \ge \|J_{ij}\|`.

    :math:`J_{ij}` is the derivative of the output of token ``i`` by token ``j``. With ``Wo`` folded into :math:`v` and
    :math:`W_v`, summed over heads,

    .. math:: M_{ij} = P_{ij} (\|W_v\| + c |W_k q_i| |v_j - O_i|)
        + \delta_{ij} c \sqrt{\mathrm{tr\,Cov}_{P_i}(W_q k)\, \mathrm{tr\,Cov}_{P_i}(v)},

    for L2 attention with :math:`2c` for :math:`c` and :math:`q_i - k_j` for :math:`q_i`.

    Args:
        x: ``[batch, n, D]``, as in `sigma`, like all others.
        wq: see `sigma`.
        wk: see `sigma`.
        wv: see `sigma`.
        wo: see `sigma`.
        bq: see `sigma`.
        bk: see `sigma`.
        bv: see `sigma`.
        heads: see `sigma`.
        mask: see `sigma`.
        key_padding_mask: see `sigma`.
        is_causal: see `sigma`.
        scale: see `sigma`.
        kind: ``"dot"`` or ``"l2"``.

    Returns:
        ``[batch]``, never below `sigma` but for rounding; computed in float64.

    Raises:
        ValueError: as `closed_form_bound`; an unknown kind.

    Cost:
        ``O(n² (d + out))`` flops a head, 128 rows of probabilities at a time, and ``n²`` values of ``M`` a batch element.

    Accuracy:
        Distances may lose half the digits of float64. The norm of ``M`` is bounded from above at each of 30 products.

    The result carries no gradient.

    References:
        Derived in docs/how-it-works/attention.md.

    Example:
        >>> x, w = torch.zeros(1, 5, 2), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> schur_bound(x, w, w, w).round(decimals=4)  # equal tokens: the norm of the values' weight
        tensor([3.])
    """
    op = "attention.schur_bound"
    l2 = is_l2(op, kind)
    tokens, w_q, w_k, w_v = (w.double() for w in (x, wq, wk, wv))
    w_o, b_q, b_k, b_v = (None if w is None else w.double() for w in (wo, bq, bk, bv))
    at = _read(op, tokens, w_q, w_k, w_v, w_o, (b_q, b_k, b_v), heads, mask, key_padding_mask, scale)
    c = 2 * abs(at.c) if l2 else abs(at.c)
    batch, _, n, _ = at.q.shape
    straight = _norm(at.wv)[:, None, None]
    moved, pulled, turned = at.q @ at.wk.mT, at.k @ at.wk.mT, at.k @ at.wq.mT
    bound = at.q.new_zeros(batch, n, n)
    for rows, p in _probabilities(at, is_causal=is_causal, l2=l2):
        apart = torch.cdist(p @ at.v, at.v)
        steep = torch.cdist(moved[:, :, rows], pulled) if l2 else moved[:, :, rows].norm(dim=3, keepdim=True)
        bound[:, rows] = (p * (straight + c * steep * apart)).sum(1)
        spread = (p * torch.cdist(p @ turned, turned).square()).sum(3) * (p * apart.square()).sum(3)
        bound[:, rows].diagonal(rows.start, 1, 2).add_(c * spread.sqrt().sum(1))
    # For positive w the largest eigenvalue of MᵀM is at most the largest (MᵀM w)_i / w_i (Collatz and Wielandt).
    w = bound.new_ones(batch, n, 1)
    square = bound.new_full((batch,), torch.inf)
    for _ in range(30):
        product = bound.mT @ (bound @ w)
        square = torch.minimum(square, (product / w).amax((1, 2)))
        w = product / product.amax(1, keepdim=True).clamp(min=1e-300) + 1e-9
    return square.sqrt().to(x.dtype)


@torch.no_grad()
def softmax_norm(p: Tensor) -> Tensor:
    r"""The spectral norm of the softmax's Jacobian, :math:`\|\mathrm{diag}(p) - p p^\top\|`, exactly.

    The root of :math:`\sum_i p_i^2 / (p_i - \lambda) = 1` between the two largest probabilities.

    Args:
        p: ``[..., n]`` probabilities, of sum 1 along the last axis.

    Returns:
        ``[...]`` float64, between 0 and 1/2.

    Raises:
        ValueError: ``p`` has no entries along its last axis.

    Cost:
        ``O(n)`` for each of 60 bisections.

    Accuracy:
        A few roundings of float64. A NaN stays one.

    The result carries no gradient.

    References:
        The secular equation of a diagonal matrix minus one of rank 1.

    Example:
        >>> softmax_norm(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).round(decimals=4)  # a fair coin, and certainty
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    if p.dim() == 0 or p.shape[-1] == 0:
        raise ValueError(f"attention.softmax_norm: p must be [..., n] with n of 1 or more, got shape {tuple(p.shape)}")
    p = p.double()
    high, low = nn.functional.pad(p, (0, 1)).topk(2, -1).values.unbind(-1)  # of a single one there is no second
    for _ in range(60):
        middle = (low + high) / 2
        gap = p - middle[..., None]
        above = (p * p / torch.where(gap == 0, torch.finfo(p.dtype).tiny, gap)).sum(-1) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(p.isfinite().all(-1), high, torch.nan)


@torch.no_grad()
def l2_bound(
    wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor | None = None, *, n: int, heads: int = 1, scale: float | None = None
) -> float:
    r"""A Lipschitz constant of L2 attention for all inputs of ``n`` tokens, where one exists.

    With :math:`W_q = W_k`, and each head's values a linear function of its keys, :math:`W_v = W_k A`:

    .. math:: (2 \varphi (1 + \sqrt n) + \sqrt n)\, \Bigl( \sum_h \|W_k^h\|^2 \|A^h\|^2 \Bigr)^{1/2} \|W_o\|,
        \quad \varphi e^{\varphi + 1} = n - 1.

    It is refused without these assumptions. Nor does it hold under a mask that hides a token from itself.

    Args:
        wq: ``[D, heads * d]``, for ``q = x Wq``; equal to ``wk``.
        wk: ``[D, heads * d]``.
        wv: ``[D, heads * dv]``, each head's columns in the range of those of ``wk``.
        wo: ``[heads * dv, out]``; None: the heads' outputs side by side.
        n: number of tokens, or the most of them.
        heads: number of heads, each a block of columns.
        scale: ``c`` of the scores ``-c |q - k|²``, positive; the bound does not depend on it. None: ``1 / sqrt(d)``.

    Returns:
        A number, in units of ``Y`` per unit of ``x``, for the Euclidean norm of all tokens together. It holds with biases (the
        same for q and k) and with ``is_causal``.

    Raises:
        ValueError: shapes that do not fit; ``wq`` that is not ``wk``; values that are no linear function of the keys; a scale
            that is not positive; no tokens.

    Cost:
        A pseudo-inverse and two spectral norms a head.

    Accuracy:
        That of the norms. An upper bound, seldom near.

    The result carries no gradient.

    References:
        Proved in docs/how-it-works/attention.md; the setting is that of arXiv:2006.04710.

    Example:
        >>> round(l2_bound(torch.eye(2), torch.eye(2), 3 * torch.eye(2), n=1), 4)  # one token sees itself
        3.0
    """
    op = "attention.l2_bound"
    for name, w in (("wq", wq), ("wk", wk), ("wv", wv)):
        if w.dim() != 2 or w.shape[0] != wk.shape[0] or heads < 1 or w.shape[1] % heads:
            raise ValueError(f"{op}: {name} must be [D, {heads} heads x d], got shape {tuple(w.shape)}")
    if wq.shape != wk.shape or not torch.equal(wq, wk):
        raise ValueError(f"{op}: wq must be equal to wk, got another: then no constant holds for all inputs")
    if scale is not None and not scale > 0:
        raise ValueError(f"{op}: scale must be positive, got {scale}")
    if n < 1:
        raise ValueError(f"{op}: n must be 1 or more, got {n}")
    w_k, w_v = (torch.unflatten(w.double(), 1, (heads, -1)).transpose(0, 1) for w in (wk, wv))
    through = torch.linalg.pinv(w_k) @ w_v  # A of each head
    rest = float((w_k @ through - w_v).abs().amax())
    if not rest <= 1e-5 * float(w_v.abs().amax()):
        raise ValueError(f"{op}: wv must be wk times some matrix in each head, got a remainder of {rest:.2g}")
    low, high = 0.0, math.log(n) + 1
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if middle * math.exp(middle + 1) > n - 1 else (middle, high)
    size = (_norm(w_k) * _norm(through)).norm().item() * (1.0 if wo is None else _norm(wo.double()).item())
    return float((2 * high * (1 + math.sqrt(n)) + math.sqrt(n)) * size)
