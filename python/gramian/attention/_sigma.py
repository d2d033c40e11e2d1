"""The spectral norm of the Jacobian of attention, with respect to its tokens or to (q, k, v)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from ._ops import Kind, four, is_l2, jvp, vjp

if TYPE_CHECKING:
    from collections.abc import Callable

Method = Literal["lanczos", "power"]


class SingularValues(NamedTuple):
    """The largest singular values of Jacobians. Every value is a lower bound on the one it stands for, up to rounding.

    Within ``residual`` of a value there is some singular value: that is no upper bound on the largest. ``left`` and ``right``
    are singular vectors of the shapes of the output and of the input, None where they were not asked for.
    """

    sigma: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    left: Tensor | None
    right: Tensor | None


def _wide_norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return size


def _unit(x: Tensor, size: Tensor) -> Tensor:
    """``x`` over its size; zero where there is nothing left of it: an invariant subspace is complete."""
    return torch.where(size == 0, 0, x / size).to(x.dtype)


def _apart(x: Tensor, basis: list[Tensor]) -> Tensor:
    """``x`` without its part in the span of ``basis``. Twice is enough."""
    if basis:
        rows = torch.stack(basis, 1)
        for _ in range(2):
            x = x - ((rows @ x[..., None]).mT @ rows)[:, 0]
    return x


class _Search:
    """Singular values of a batch of operators; each stops on its own, all are multiplied until the last has."""

    def __init__(self, batch: int, top: int, tol: float, dtype: torch.dtype) -> None:
        self.top, self.tol, self.floor = top, tol, 8 * torch.finfo(dtype).eps
        self.sigma = torch.zeros(batch, top, dtype=torch.float64)
        self.residual = torch.full((batch, top), math.inf, dtype=torch.float64)
        self.iterations = torch.zeros(batch, dtype=torch.int64)
        self.converged = torch.zeros(batch, dtype=torch.bool)

    def update(self, step: int, sigma: Tensor, residual: Tensor, complete: Tensor) -> bool:
        """Take the values of a step; True when every operator is done. What is not finite never converges."""
        found = min(self.top, sigma.shape[1])
        self.sigma[:, :found] = sigma[:, :found]
        self.residual[:, :found] = torch.maximum(residual[:, :found], self.floor * sigma[:, :found])
        self.iterations[~self.converged] = step
        finite = self.sigma.isfinite().all(-1)
        self.converged |= (self.residual <= max(self.tol, self.floor) * self.sigma).all(-1) & finite
        self.converged |= complete & finite
        self.residual[complete & finite] = torch.minimum(self.residual, self.floor * self.sigma)[complete & finite]
        return bool((self.converged | ~finite).all())


def _lanczos(
    forward: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    start: Tensor,
    search: _Search,
    max_iter: int,
) -> tuple[Tensor, Tensor]:
    """Golub-Kahan bidiagonalisation, both bases kept orthogonal; returns left and right vectors ``[batch, top, size]``."""
    batch, eps = start.shape[0], torch.finfo(start.dtype).eps
    left: list[Tensor] = []
    right = [_unit(start, _wide_norm(start)[:, None])]
    small = torch.zeros(batch, max_iter, max_iter, dtype=torch.float64)
    largest = torch.zeros(batch, 1, dtype=torch.float64)
    p = q = torch.zeros(batch, 1, 1, dtype=torch.float64)
    for step in range(max_iter):
        u = forward(right[-1])
        largest = torch.maximum(largest, _wide_norm(u)[:, None])
        u = _apart(u, left)
        alpha = _wide_norm(u)[:, None]
        alpha = torch.where(alpha <= 8 * eps * largest, 0, alpha)
        left.append(_unit(u, alpha))
        w = _apart(transpose(left[-1]), right)
        beta = _wide_norm(w)[:, None]
        beta = torch.where(beta <= 8 * eps * largest, 0, beta)
        small[:, step, step] = alpha[:, 0]
        finite = (alpha + beta).isfinite()
        matrix = small[:, : step + 1, : step + 1]
        p, sigma, q = torch.linalg.svd(torch.where(matrix.isfinite(), matrix, 0))
        sigma = torch.where(finite, sigma, math.nan)
        done = search.update(step + 1, sigma, beta * p[:, -1].abs(), (beta == 0)[:, 0])
        if done or step + 1 == max_iter:
            break
        small[:, step, step + 1] = beta[:, 0]
        right.append(_unit(w, beta))
    top = min(search.top, p.shape[-1])

    def vectors(basis: list[Tensor], turn: Tensor) -> Tensor:
        rows = torch.stack(basis, 1)
        return turn[:, :, :top].mT.to(rows.dtype) @ rows

    return vectors(left, p), vectors(right[: len(left)], q.mT)


def _power(
    forward: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    start: Tensor,
    search: _Search,
    max_iter: int,
) -> tuple[Tensor, Tensor]:
    """Power iteration on the product with the transpose; residuals from that product, over sigma."""
    right = _unit(start, _wide_norm(start)[:, None])
    for step in range(max_iter):
        u = forward(right)
        sigma = _wide_norm(u)[:, None]
        left = _unit(u, sigma)
        w = transpose(left)
        residual = _wide_norm(w - sigma.to(w.dtype) * right)[:, None]
        if search.update(step + 1, sigma, residual, (sigma == 0)[:, 0]) or step + 1 == max_iter:
            break
        size = _wide_norm(w)[:, None]
        right = torch.where(size > 0, _unit(w, size), right)
    return left[:, None], right[:, None]


def _solve(
    op: str,
    forward: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    method: str,
    top: int,
    tol: float,
    max_iter: int,
) -> tuple[_Search, Tensor, Tensor]:
    if method not in ("lanczos", "power"):
        raise ValueError(f"{op}: method must be 'lanczos' or 'power', got {method!r}")
    if top < 1 or (method == "power" and top != 1):
        wanted = "1 with method='power'" if method == "power" else "1 or more"
        raise ValueError(f"{op}: top must be {wanted}, got {top}")
    if top > start.shape[1]:
        raise ValueError(f"{op}: top must be at most the size of the input, {start.shape[1]}, got {top}")
    if max_iter < top:
        raise ValueError(f"{op}: max_iter must be at least top = {top}, got {max_iter}")
    if not tol >= 0:
        raise ValueError(f"{op}: tol must be 0 or more, got {tol}")
    search = _Search(start.shape[0], top, tol, start.dtype)
    steps = min(max_iter, start.shape[1]) if method == "lanczos" else max_iter
    left, right = (_lanczos if method == "lanczos" else _power)(forward, transpose, start, search, steps)
    return search, left, right


def _start(batch: int, size: int, like: Tensor, seed: int) -> Tensor:
    """The same direction for every element, drawn in float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, generator=generator, dtype=torch.float64)
    return drawn.to(like).expand(batch, size)


def _result(
    search: _Search, left: Tensor | None, right: Tensor | None, like: Tensor, batch: tuple[int, ...]
) -> SingularValues:
    one = search.top == 1

    def shaped(x: Tensor) -> Tensor:
        return x.view(batch) if one else x.view((*batch, search.top))

    def joined(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.reshape(*batch, *(x.shape[2:] if one else x.shape[1:]))

    return SingularValues(
        shaped(search.sigma.to(like)),
        shaped(search.residual.to(like)),
        search.iterations.view(batch),
        search.converged.view(batch),
        joined(left),
        joined(right),
    )


def _check_weight(op: str, name: str, w: Tensor, rows: int, like: Tensor) -> None:
    if w.dim() != 2 or w.shape[0] != rows:
        hint = f"; nn.Linear keeps the transpose, pass {name}.T" if w.dim() == 2 and w.shape[1] == rows else ""
        raise ValueError(f"{op}: {name} must be [{rows}, out], for y = x W, got shape {tuple(w.shape)}{hint}")
    if w.dtype != like.dtype:
        raise ValueError(f"{op}: {name} must have the dtype of x ({like.dtype}), got {w.dtype}")


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
        method: ``"lanczos"``: Golub-Kahan-Lanczos with both bases reorthogonalised; ``"power"``: power iteration on ``JᵀJ``.
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
        ``20 n² d`` flops a head and iteration and ``16 n D heads d`` for the projections; memory ``O(n D)`` times the iterations.

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
    single = x.dim() == 2
    tokens = x[None] if single else x
    batch, n, width = tokens.shape
    for name, w in (("wq", wq), ("wk", wk), ("wv", wv)):
        _check_weight(op, name, w, width, x)
        if heads < 1 or w.shape[1] == 0 or w.shape[1] % heads:
            raise ValueError(f"{op}: {name} must have columns for {heads} heads, got shape {tuple(w.shape)}")
    if wo is not None:
        _check_weight(op, "wo", wo, wv.shape[1], x)
    for name, b, w in (("bq", bq, wq), ("bk", bk, wk), ("bv", bv, wv)):
        if b is not None and b.shape != w.shape[1:]:
            raise ValueError(f"{op}: {name} must have shape ({w.shape[1]},), got {tuple(b.shape)}")
    is_l2(op, kind)

    def split(y: Tensor) -> Tensor:
        return torch.unflatten(y, -1, (heads, -1)).transpose(1, 2)

    def joined(y: Tensor) -> Tensor:
        return y.transpose(1, 2).flatten(2)

    seen = None if mask is None else four(mask)
    keep: Tensor | None = None
    if key_padding_mask is not None:
        padding = key_padding_mask
        if padding.dtype != torch.bool or padding.shape[-1:] != (n,) or padding.shape not in ((n,), (batch, n)):
            raise ValueError(
                f"{op}: key_padding_mask must be bool [{batch}, {n}], got {padding.dtype} {tuple(padding.shape)}"
            )
        looked_at = (~padding).expand(batch, n)
        seen = looked_at[:, None, None, :] if seen is None else seen & looked_at[:, None, None, :]
        keep = None if padded_rows else looked_at[..., None]
    q, k, v = (split(tokens @ w if b is None else tokens @ w + b) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    options = {"mask": seen, "is_causal": is_causal, "scale": scale, "kind": kind}

    def forward(dx: Tensor) -> Tensor:
        dx = dx.view(batch, n, width)
        out = joined(jvp(q, k, v, split(dx @ wq), split(dx @ wk), split(dx @ wv), **options))  # type: ignore[arg-type]
        out = out if wo is None else out @ wo
        return (out if keep is None else out.masked_fill(~keep, 0)).reshape(batch, -1)

    def transpose(g: Tensor) -> Tensor:
        g = g.view(batch, n, -1)
        g = g if keep is None else g.masked_fill(~keep, 0)
        parts = vjp(q, k, v, split(g if wo is None else g @ wo.mT), **options)  # type: ignore[arg-type]
        gx = joined(parts.q) @ wq.mT + joined(parts.k) @ wk.mT + joined(parts.v) @ wv.mT
        return gx.reshape(batch, -1)

    search, left, right = _solve(
        op, forward, transpose, _start(batch, n * width, x, seed), method=method, top=top, tol=tol, max_iter=max_iter
    )
    return _result(
        search,
        torch.unflatten(left, 2, (n, -1)) if vectors else None,
        torch.unflatten(right, 2, (n, width)) if vectors else None,
        x,
        () if single else (batch,),
    )


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
        ``20 n m d`` flops a head and iteration.

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
    options = {"mask": mask, "is_causal": is_causal, "scale": scale, "kind": kind}

    def forward(direction: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(torch.split(direction, sizes, 1), shapes, strict=True)]
        return jvp(*every, *parts, **options).reshape(units, -1)  # type: ignore[arg-type]

    def transpose(g: Tensor) -> Tensor:
        out = g.view(*shapes[0][:3], shapes[2][3])
        parts = vjp(every[0], every[1], every[2], out, **options)  # type: ignore[arg-type]
        return torch.cat([part.reshape(units, -1) for part in parts], 1)

    search, _, _ = _solve(
        op, forward, transpose, _start(units, sum(sizes), q, seed), method=method, top=top, tol=tol, max_iter=max_iter
    )
    return _result(search, None, None, q, tuple(q.shape[:-2]))
