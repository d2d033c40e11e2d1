"""The spectral norm of the Jacobian of attention, with respect to its tokens or to (q, k, v)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._linearize import linearize
from ._ops import Gradients, Kind, four, is_l2
from ._search import Method, SingularValues, left_vectors, random_start, result, solve
from ._tokens import read, split


def _of_layer(
    op: str,
    x: Tensor,
    wq: Tensor,
    wk: Tensor,
    wv: Tensor,
    wo: Tensor | None,
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
    padded_rows: bool = False,
    method: Method = "lanczos",
    top: int = 1,
    tol: float,
    max_iter: int,
    seed: int,
    vectors: bool = False,
) -> SingularValues:
    """`sigma` of ``x`` ``[batch, n, D]``."""
    is_l2(op, kind)
    q, k, v, seen, there = read(op, x, wq, wk, wv, wo, (bq, bk, bv), heads, mask, key_padding_mask)
    at = linearize(q, k, v, mask=seen, is_causal=is_causal, scale=scale, kind=kind)
    hidden = None if there is None or padded_rows else ~there[..., None]
    batch, n, width = x.shape
    w_in, widths = torch.cat([wq, wk, wv], 1), [wq.shape[1], wk.shape[1], wv.shape[1]]

    inner = x.new_empty(batch, n, sum(widths))  # gradients by q, k and v side by side
    by_inner = [split(part, heads) for part in torch.split(inner, widths, 2)]

    mix = None if wo is None else wo @ wo.mT

    def directions(dx: Tensor) -> list[Tensor]:
        return [split(part, heads) for part in torch.split(dx.view(batch, n, width) @ w_in, widths, 2)]

    def by_tokens(parts: Gradients) -> Tensor:
        for columns, part in zip(by_inner, parts, strict=True):
            columns.copy_(part)
        return (inner @ w_in.mT).reshape(batch, -1)

    def forward(dx: Tensor) -> Tensor:
        out = at.jvp(*directions(dx)).transpose(1, 2).flatten(2)
        out = out if wo is None else out @ wo
        return (out if hidden is None else out.masked_fill(hidden, 0)).reshape(batch, -1)

    def transpose(g: Tensor) -> Tensor:
        g = g.view(batch, n, -1)
        g = g if hidden is None else g.masked_fill(hidden, 0)
        return by_tokens(at.vjp(split(g if wo is None else g @ wo.mT, heads)))

    def square(dx: Tensor) -> Tensor:
        return transpose(forward(dx)) if hidden is not None else by_tokens(at.jtj(*directions(dx), mix=mix))

    size = n * width
    search, right = solve(
        op,
        square,
        random_start(batch, size, x, seed),
        halves=(forward, transpose),
        method=method,
        top=top,
        tol=tol,
        max_iter=max_iter,
    )
    return result(
        search,
        torch.unflatten(left_vectors(forward, right), 2, (n, -1)) if vectors else None,
        torch.unflatten(right, 2, (n, width)) if vectors else None,
        x,
        (batch,),
        size,
    )


@torch.no_grad()
def sigma(
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
    padded_rows: bool = False,
    method: Method = "lanczos",
    top: int = 1,
    tol: float = 1e-3,
    max_iter: int = 50,
    seed: int = 0,
    vectors: bool = False,
) -> SingularValues:
    r"""The local Lipschitz constant of an attention layer: :math:`\sigma_1(\partial Y / \partial X)` at its tokens ``x``.

    The largest ``top`` singular values of the Jacobian of ``Y = concat_h(P_h v_h) Wo`` with ``q = x Wq + bq`` and so on. It is a
    property of one input: a lower bound on the Lipschitz constant over any set that contains it, and no global bound.

    Args:
        x: ``[batch, n, D]`` tokens, float32 or float64; or ``[n, D]``.
        wq: ``[D, heads * d]``, for ``q = x Wq``: the transpose of ``nn.Linear.weight``; so are the others.
        wk: ``[D, heads * d]``.
        wv: ``[D, heads * dv]``.
        wo: ``[heads * dv, out]``; None: the heads' outputs side by side.
        bq: ``[heads * d]`` or None.
        bk: ``[heads * d]`` or None.
        bv: ``[heads * dv]`` or None; it does not change the Jacobian.
        heads: number of heads, each a block of columns.
        mask: bool, broadcast to ``[batch, heads, n, n]``, True where a query may look.
        key_padding_mask: bool ``[batch, n]`` (or ``[n]``), True where a token is padding, as in ``nn.MultiheadAttention``: it is not
            looked at.
        is_causal: token ``i`` looks at tokens ``j <= i`` only.
        scale: ``c`` of the scores; None: ``1 / sqrt(d)``.
        kind: ``"dot"`` or ``"l2"``.
        padded_rows: count the output rows of padded tokens as well. They are left out by default; the numbers differ.
        method: ``"lanczos"``: Golub-Kahan-Lanczos with reorthogonalisation, for ``top = 1`` by products with ``JᵀJ``, one pass over the
            probabilities each; ``"power"``: power iteration on ``JᵀJ``.
        top: how many singular values, largest first (1 with ``"power"``). A multiple one counts once.
        tol: stop when every residual is at most ``tol`` times its value.
        max_iter: products with ``J`` and with its transpose at most.
        seed: of the start vector, which is drawn in float64.
        vectors: return singular vectors too.

    Returns:
        :class:`SingularValues`: ``sigma`` ``[batch]`` (``[batch, top]`` for ``top > 1``; no batch axis for one ``[n, D]``) in units of
        ``Y`` per unit of ``x``, a lower bound up to rounding; ``residual``, within which of it lies some singular value, which
        is not an upper bound; ``iterations``; ``converged``; ``left`` ``[batch, n, out]``, ``right`` ``[batch, n, D]``. Input with a
        NaN or an infinity gives NaN that did not converge.

    Raises:
        ValueError: wrong shapes or dtypes, a weight in the other layout, masks that are not bool, unknown options.

    Cost:
        ``16 n² d`` flops a head and iteration while the probabilities fit into 1 GiB, 20 beyond, and ``16 n D heads d`` for the projections; memory ``O(n D)``
        times the iterations, and those probabilities.

    Accuracy:
        The value is better than its residual says (its error is about ``residual² / gap``); in float32 a few 1e-7 relative.

    Not differentiable: computed without recording. Deterministic for a seed, whatever the number of threads of the products.

    References:
        Local Lipschitz constants of attention: arXiv:2102.05628.

    Example:
        >>> x = torch.ones(5, 2)  # equal tokens: the mean of values, so sigma is that of the values' weight
        >>> eye = torch.eye(2)
        >>> round(sigma(x, eye, eye, 3 * eye).sigma.item(), 4)
        3.0
    """
    op = "attention.sigma"
    if x.dim() not in (2, 3) or 0 in x.shape:
        raise ValueError(f"{op}: x must be [batch, n, D] or [n, D] and not empty, got shape {tuple(x.shape)}")
    found = _of_layer(
        op,
        x[None] if x.dim() == 2 else x,
        wq,
        wk,
        wv,
        wo,
        bq=bq,
        bk=bk,
        bv=bv,
        heads=heads,
        mask=mask,
        key_padding_mask=key_padding_mask,
        is_causal=is_causal,
        scale=scale,
        kind=kind,
        padded_rows=padded_rows,
        method=method,
        top=top,
        tol=tol,
        max_iter=max_iter,
        seed=seed,
        vectors=vectors,
    )
    return found if x.dim() == 3 else SingularValues(*(None if part is None else part[0] for part in found))  # type: ignore[arg-type]


@torch.no_grad()
def op_sigma(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
    method: Method = "lanczos",
    top: int = 1,
    tol: float = 1e-3,
    max_iter: int = 50,
    seed: int = 0,
) -> SingularValues:
    r"""The largest singular values of the derivative of attention by ``(q, k, v)`` jointly, for each head by itself.

    Args:
        q: ``[batch, heads, n, d]`` float32 or float64; leading axes may be left out, here and below.
        k: ``[batch, heads, m, d]``; ``m`` may differ from ``n``.
        v: ``[batch, heads, m, dv]``.
        mask: bool, broadcast to ``[batch, heads, n, m]``, True where a query may look.
        is_causal: query ``i`` looks at keys ``j <= i`` only.
        scale: ``c`` of the scores; None: ``1 / sqrt(d)``.
        kind: ``"dot"`` or ``"l2"``.
        method: ``"lanczos"`` or ``"power"``, see :func:`sigma`.
        top: how many singular values, largest first (1 with ``"power"``).
        tol: stop when every residual is at most ``tol`` times its value.
        max_iter: products with ``J`` and with its transpose at most.
        seed: of the start vector.

    Returns:
        :class:`SingularValues` with the leading axes of ``q`` (and ``[..., top]`` for ``top > 1``), without vectors; lower bounds up to
        rounding, in units of ``v`` per unit of the inputs taken together.

    Raises:
        ValueError: as :func:`jvp`; unknown options.

    Cost:
        ``16 n m d`` flops a head and iteration while the probabilities fit into 1 GiB, 20 beyond.

    Accuracy:
        As :func:`sigma`.

    Not differentiable: computed without recording.

    References:
        Local Lipschitz constants of attention: arXiv:2102.05628.

    Example:
        >>> x = torch.zeros(4, 2)  # equal tokens: the mean of v, whose derivative has norm 1 / sqrt(4) * sqrt(4)
        >>> round(op_sigma(x, x, x).sigma.item(), 4)
        1.0
    """
    op = "attention.op_sigma"
    is_l2(op, kind)
    every = [four(x) for x in (q, k, v)]
    if 0 in q.shape or 0 in k.shape or 0 in v.shape:
        raise ValueError(f"{op}: q, k and v must not be empty, got shapes {[tuple(x.shape) for x in (q, k, v)]}")
    shapes = [x.shape for x in every]
    units = shapes[0][0] * shapes[0][1]
    sizes = [x[0, 0].numel() for x in every]
    at = linearize(*every, mask=mask, is_causal=is_causal, scale=scale, kind=kind)

    def split_up(direction: Tensor) -> list[Tensor]:
        return [part.reshape(shape) for part, shape in zip(torch.split(direction, sizes, 1), shapes, strict=True)]

    def joined(parts: Gradients) -> Tensor:
        return torch.cat([part.reshape(units, -1) for part in parts], 1)

    search, _ = solve(
        op,
        lambda direction: joined(at.jtj(*split_up(direction))),
        random_start(units, sum(sizes), q, seed),
        halves=(
            lambda direction: at.jvp(*split_up(direction)).reshape(units, -1),
            lambda g: joined(at.vjp(g.view(*shapes[0][:3], shapes[2][3]))),
        ),
        method=method,
        top=top,
        tol=tol,
        max_iter=max_iter,
    )
    return result(search, None, None, q, tuple(q.shape[:-2]), sum(sizes))
