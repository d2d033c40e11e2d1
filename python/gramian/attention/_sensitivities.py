"""How much each token by itself can move the output of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._ops import Kind, is_l2
from ._search import SingularValues, random_start, result, solve
from ._tokens import probabilities, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._search import Product

_TOGETHER = 1 << 20  # numbers of outputs, of the tokens that are worked on at a time


def _square_of(
    only: Tensor,
    heads: Sequence[Tensor],
    columns: Tensor,
    rows: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    mix: Tensor | None,
    slope: float,
    *,
    l2: bool,
) -> Product:
    r"""Products with :math:`J_k^\top J_k` for the tokens ``k`` in ``only``.

    A token moves a key and a value, hence of row ``i`` ``P_ik c (q_i . dk) (v_k - O_i) + P_ik dv``, and a query, hence of its own row ``C_k dq``.
    ``columns`` and ``rows`` are the probabilities ``[t, n, heads]`` and ``[heads, t, n]`` to and from those tokens.
    """
    q, k, v, out = heads  # and outputs, [n, heads, ..]
    each = torch.arange(len(only), device=only.device)
    apart, keys = v[only, None] - out, k[only]
    turn = torch.einsum("htj,jhd,jhe->thde", rows, k, v)
    turn = slope * (turn - torch.einsum("htj,jhd->thd", rows, k)[..., None] * out[only, :, None])
    columns_by = slope * columns

    def square(dx: Tensor) -> Tensor:
        dq, dk, dv = (torch.unflatten(dx @ w, 1, (q.shape[1], -1)) for w in weights)
        along = torch.einsum("nhd,thd->tnh", q, dk)
        along = along - (keys * dk).sum(2)[:, None] if l2 else along
        moved = torch.addcmul(columns[..., None] * dv[:, None], (columns_by * along)[..., None], apart)
        moved[each, only] += torch.einsum("thd,thde->the", dq, turn)
        g = moved if mix is None else (moved.flatten(2) @ mix).view_as(moved)
        pulled = columns_by * (g * apart).sum(3)
        by_k = torch.einsum("tnh,nhd->thd", pulled, q)
        by_k = by_k - pulled.sum(1)[..., None] * keys if l2 else by_k
        by_v = torch.einsum("tnh,tnhe->the", columns, g)
        by_q = torch.einsum("the,thde->thd", g[each, only], turn)
        return torch.cat([part.flatten(1) for part in (by_q, by_k, by_v)], 1) @ torch.cat(weights, 1).mT

    return square


@torch.no_grad()
def sensitivities(
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
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
    tokens: Sequence[int] | None = None,
    tol: float = 1e-3,
    max_iter: int = 50,
    seed: int = 0,
) -> SingularValues:
    r"""How much each token by itself can move the output: :math:`\sigma_1(\partial Y / \partial x_k)`.

    Args:
        x: ``[n, D]`` tokens, float32 or float64.
        wq: see `sigma`, like all others.
        wk: see `sigma`.
        wv: see `sigma`.
        wo: see `sigma`.
        bq: see `sigma`.
        bk: see `sigma`.
        bv: see `sigma`.
        heads: see `sigma`.
        mask: see `sigma`, without batch axes.
        is_causal: see `sigma`.
        scale: see `sigma`.
        kind: see `sigma`.
        tokens: which tokens ``k``; None: all.
        tol: see `sigma`.
        max_iter: see `sigma`.
        seed: see `sigma`.

    Returns:
        `SingularValues` of the tokens ``[len(tokens)]``, without vectors. None exceeds `sigma`, and their squares sum to at least
        its square.

    Raises:
        ValueError: as `sigma`; ``x`` that is not ``[n, D]``; a token out of range.

    Cost:
        ``2 n (heads dv)²`` flops a token and iteration, and passes over ``n heads dv`` numbers. Memory: ``n`` probabilities a head and token,
        and some tens of MB.

    Accuracy:
        As `sigma`.

    Not differentiable: computed without recording.

    References:
        Replacing a token: arXiv:2102.05628.

    Example:
        >>> x, eye = torch.ones(4, 2), torch.eye(2)  # equal tokens: each holds a quarter of every output
        >>> sensitivities(x, eye, eye, eye).sigma
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    op = "attention.sensitivities"
    if x.dim() != 2 or 0 in x.shape:
        raise ValueError(f"{op}: x must be [n, D] and not empty, got shape {tuple(x.shape)}")
    n = x.shape[0]
    chosen = list(range(n)) if tokens is None else list(tokens)
    if not chosen or not all(0 <= token < n for token in chosen):
        raise ValueError(f"{op}: tokens must be some of 0 to {n - 1}, got {chosen}")
    l2 = is_l2(op, kind)
    q, k, v, seen, _ = read(op, x[None], wq, wk, wv, wo, (bq, bk, bv), heads, mask, None)
    c = q.shape[3] ** -0.5 if scale is None else scale
    only, columns, rows, out = torch.tensor(chosen, device=x.device), [], q.new_empty(heads, len(chosen), n), []
    for block, p in probabilities(q, k, c, seen, is_causal=is_causal, l2=l2):
        columns.append(p[0, :, :, only])
        out.append((p @ v)[0])
        inside = ((only >= block.start) & (only < block.stop)).nonzero()[:, 0]
        rows[:, inside] = p[0][:, only[inside] - block.start]
    at = [part.transpose(0, 1) for part in (q[0], k[0], v[0], torch.cat(out, 1))]
    to_them, mix = torch.cat(columns, 1).permute(2, 1, 0), None if wo is None else wo @ wo.mT
    found = []
    together = max(1, _TOGETHER // (n * wv.shape[1]))
    for first in range(0, len(chosen), together):
        part = slice(first, first + together)
        square = _square_of(only[part], at, to_them[part], rows[:, part], (wq, wk, wv), mix, 2 * c if l2 else c, l2=l2)
        count = len(only[part])
        search, _ = solve(op, square, random_start(count, x.shape[1], x, seed), tol=tol, max_iter=max_iter)
        found.append(result(search, None, None, x, (count,), x.shape[1]))
    parts = zip(*(one[:5] for one in found), strict=True)
    return SingularValues._make([*(torch.cat(part) for part in parts), None, None])
