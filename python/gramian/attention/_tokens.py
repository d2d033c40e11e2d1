"""An attention layer at its tokens, as `sigma` and the bounds read it: checked, projected, by heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._ops import four

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS = 128  # of probabilities at a time


class Heads(NamedTuple):
    """Queries, keys and values by heads, and who looks where."""

    q: Tensor  # [batch, heads, n, d]
    k: Tensor
    v: Tensor  # [batch, heads, n, dv]
    seen: Tensor | None  # bool, broadcast to [batch, heads, n, n]: where queries look
    there: Tensor | None  # bool [batch, n]: tokens that are no padding


def split(y: Tensor, heads: int) -> Tensor:
    """``[batch, n, heads * d]`` to ``[batch, heads, n, d]``, a view."""
    return torch.unflatten(y, -1, (heads, -1)).transpose(1, 2)


def _check_weight(op: str, name: str, w: Tensor, rows: int, like: Tensor) -> None:
    if w.dim() != 2 or w.shape[0] != rows:
        hint = f"; nn.Linear keeps the transpose, pass {name}.T" if w.dim() == 2 and w.shape[1] == rows else ""
        raise ValueError(f"{op}: {name} must be [{rows}, out], for y = x W, got shape {tuple(w.shape)}{hint}")
    if w.dtype != like.dtype:
        raise ValueError(f"{op}: {name} must have the dtype of x ({like.dtype}), got {w.dtype}")


def read(
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
) -> Heads:
    """The heads at ``x`` ``[batch, n, D]``."""
    batch, n, width = x.shape
    for name, w, b in zip("qkv", (wq, wk, wv), biases, strict=True):
        _check_weight(op, f"w{name}", w, width, x)
        if heads < 1 or w.shape[1] == 0 or w.shape[1] % heads:
            raise ValueError(f"{op}: w{name} must have columns for {heads} heads, got shape {tuple(w.shape)}")
        if b is not None and b.shape != w.shape[1:]:
            raise ValueError(f"{op}: b{name} must have shape ({w.shape[1]},), got {tuple(b.shape)}")
    if wo is not None:
        _check_weight(op, "wo", wo, wv.shape[1], x)
    seen = None if mask is None else four(mask)
    there: Tensor | None = None
    if key_padding_mask is not None:
        padding = key_padding_mask
        if padding.dtype != torch.bool or padding.shape[-1:] != (n,) or padding.shape not in ((n,), (batch, n)):
            raise ValueError(
                f"{op}: key_padding_mask must be bool [{batch}, {n}], got {padding.dtype} {tuple(padding.shape)}"
            )
        there = (~padding).expand(batch, n)
        seen = there[:, None, None] if seen is None else seen & there[:, None, None]
    projected = (x @ w if b is None else x @ w + b for w, b in zip((wq, wk, wv), biases, strict=True))
    q, k, v = (split(y, heads) for y in projected)
    return Heads(q, k, v, seen, there)


def probabilities(
    q: Tensor, k: Tensor, c: float, seen: Tensor | None, *, is_causal: bool, l2: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows ``[batch, heads, rows, n]``, and which rows; a row that sees nothing has none."""
    batch, _, n, _ = q.shape
    for first in range(0, n, _ROWS):
        rows = slice(first, min(n, first + _ROWS))
        scores = (2 * c if l2 else c) * q[:, :, rows] @ k.mT
        if l2:
            scores = scores - c * k.square().sum(3)[:, :, None]
        allowed = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device)
        allowed = (allowed.tril(first) if is_causal else allowed)[None, None]
        if seen is not None:
            allowed = allowed & seen.expand(batch, -1, n, n)[:, :, rows]
        yield rows, scores.masked_fill(~allowed, -torch.inf).softmax(3).masked_fill(~allowed.any(3, keepdim=True), 0)
