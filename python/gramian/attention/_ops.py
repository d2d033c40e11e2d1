"""The derivative of attention along a direction, its transpose, and both in one pass over the probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from gramian import _autograd, _fake

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["dot", "l2"]

_jvp = torch.ops.gramian.attention_jvp.default
_vjp = torch.ops.gramian.attention_vjp.default
_jtj = torch.ops.gramian.attention_jtj.default
_linearize = torch.ops.gramian.attention_linearize.default


class Gradients(NamedTuple):
    """Parts of a vector in the space of (q, k, v), each of the shape of its input."""

    q: Tensor
    k: Tensor
    v: Tensor


class _Dual:
    """A tensor and its tangent. Forward mode by hand: torch's own does not nest inside the derivative of an op."""

    def __init__(self, value: Tensor, tangent: Tensor) -> None:
        self.value, self.tangent = value, tangent
        self.shape = value.shape

    @property
    def mT(self) -> _Dual:  # noqa: N802  as torch spells it
        return self.linear(lambda x: x.mT)

    def linear(self, function: Callable[[Tensor], Tensor]) -> _Dual:
        return _Dual(function(self.value), function(self.tangent))

    def sum(self, dim: int, *, keepdim: bool = False) -> _Dual:
        return self.linear(lambda x: x.sum(dim, keepdim=keepdim))

    def __getitem__(self, index: Any) -> _Dual:
        return self.linear(lambda x: x[index])

    def __add__(self, other: _Dual) -> _Dual:
        return _Dual(self.value + other.value, self.tangent + other.tangent)

    def __sub__(self, other: _Dual) -> _Dual:
        return _Dual(self.value - other.value, self.tangent - other.tangent)

    def __mul__(self, other: _Dual) -> _Dual:
        return _Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)

    def __rmul__(self, factor: float) -> _Dual:
        return self.linear(lambda x: factor * x)

    def __matmul__(self, other: _Dual) -> _Dual:
        return _Dual(self.value @ other.value, self.tangent @ other.value + self.value @ other.tangent)


def _softmax(scores: Any, mask: Tensor | None, is_causal: bool) -> Any:
    if isinstance(scores, _Dual):
        p = _softmax(scores.value, mask, is_causal)
        return _Dual(p, p * (scores.tangent - (p * scores.tangent).sum(-1, keepdim=True)))
    if mask is None and not is_causal:
        return scores.softmax(-1)
    hidden = torch.zeros((), dtype=torch.bool, device=scores.device)
    if mask is not None:
        hidden = hidden | ~mask
    if is_causal:
        hidden = hidden | torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    hidden = hidden.expand(scores.shape)
    blind = hidden.all(-1, keepdim=True)
    return scores.masked_fill(hidden & ~blind, -math.inf).softmax(-1).masked_fill(blind, 0)


def _probabilities(q: Any, k: Any, mask: Tensor | None, is_causal: bool, scale: float | None, l2: bool) -> Any:
    c = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (2 * c if l2 else c) * (q @ k.mT)
    if l2:
        scores = scores - c * (k * k).sum(-1)[..., None, :]
    return _softmax(scores, mask, is_causal)


# The ops' formulas in plain torch, O(n m) memory, of tensors or duals: what their derivatives are made of.


def _plain_jvp(q: Any, k: Any, v: Any, dq: Any, dk: Any, dv: Any, *rest: Any) -> Any:
    p = _probabilities(q, k, *rest)
    scale, l2 = rest[2:]
    c = (2 if l2 else 1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    ds = dq @ k.mT + q @ dk.mT
    if l2:
        ds = ds - (k * dk).sum(-1)[..., None, :]
    ds = c * ds
    return (p * (ds - (p * ds).sum(-1, keepdim=True))) @ v + p @ dv


def _plain_vjp(q: Any, k: Any, v: Any, g: Any, *rest: Any) -> tuple[Any, ...]:
    p = _probabilities(q, k, *rest)
    scale, l2 = rest[2:]
    c = (2 if l2 else 1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    dp = g @ v.mT
    e = p * (dp - (p * dp).sum(-1, keepdim=True))
    gk = e.mT @ q
    if l2:
        gk = gk - e.sum(-2)[..., None] * k
    return c * (e @ k), c * gk, p.mT @ g


def _plain_jtj(q: Any, k: Any, v: Any, dq: Any, dk: Any, dv: Any, mix: Any, *rest: Any) -> tuple[Any, ...]:
    out = _plain_jvp(q, k, v, dq, dk, dv, *rest)
    if mix is not None:
        heads = out.shape[1]
        joined = _linear(out, lambda x: x.transpose(1, 2).flatten(2)) @ mix
        out = _linear(joined, lambda x: torch.unflatten(x, 2, (heads, -1)).transpose(1, 2))
    return _plain_vjp(q, k, v, out, *rest)


def _linear(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return x.linear(function) if isinstance(x, _Dual) else function(x)


def _register(op: Any, plain: Any, tensors: int, mix: bool = False) -> None:
    """Derivatives of an op by those of its plain formula; its first ``tensors`` arguments are differentiated."""

    def setup(ctx: Any, inputs: tuple[Any, ...], _: Any) -> None:
        saved = inputs[: tensors + mix + 1]  # ... and the mask
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.rest = inputs[tensors + mix + 1 : -1]  # a state only holds what follows from (q, k, v)

    def parts(ctx: Any) -> tuple[list[int], tuple[Tensor, ...], Any]:
        saved = ctx.saved_tensors
        places = [i for i, x in enumerate(saved[: tensors + mix]) if x is not None]

        def function(*inputs: Any) -> Any:
            arguments = list(saved)
            for place, value in zip(places, inputs, strict=True):
                arguments[place] = value
            return plain(*arguments, *ctx.rest)

        return places, tuple(saved[i] for i in places), function

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        places, inputs, function = parts(ctx)
        found = torch.func.vjp(function, *inputs)[1](gradients[0] if len(gradients) == 1 else gradients)
        result: list[Tensor | None] = [None] * (len(ctx.saved_tensors) + len(ctx.rest) + 1)
        for place, gradient in zip(places, found, strict=True):
            result[place] = gradient
        return tuple(result)

    def tangent(ctx: Any, *tangents: Tensor | None) -> Any:
        places, inputs, function = parts(ctx)
        given = [tangents[i] for i in places]
        duals = [_Dual(x, torch.zeros_like(x) if t is None else t) for x, t in zip(inputs, given, strict=True)]
        result = function(*duals)
        return result.tangent if isinstance(result, _Dual) else tuple(part.tangent for part in result)

    _autograd.register(op, setup_context=setup, backward=backward, jvp=tangent)


def _batched(op: Any, tensors: int, mix: bool = False) -> Any:
    """Another batch axis goes into the batch that the op has."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size

        def leading(x: Tensor, dim: int | None) -> Tensor:
            return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)

        in_dims = (*in_dims, *[None] * (len(arguments) - len(in_dims)))
        if mix and len(arguments) > tensors and in_dims[tensors] is not None:  # a mix for each: one call for each
            each = [
                op(
                    *[
                        leading(x, dim)[i] if isinstance(x, Tensor) else x
                        for x, dim in zip(arguments, in_dims, strict=True)
                    ]
                )
                for i in range(size)
            ]
            return tuple(torch.stack(part) for part in zip(*each, strict=True)), (0, 0, 0)
        given = list(arguments)
        batch = leading(given[0], in_dims[0]).shape[1]
        for i in range(tensors):
            given[i] = leading(given[i], in_dims[i]).flatten(0, 1)
        place = tensors + mix
        if len(given) > place and given[place] is not None:
            mask = leading(given[place], in_dims[place])
            given[place] = mask.expand(size, batch, *mask.shape[2:]).flatten(0, 1)
        result = op(*given[: place + 4])  # a state is that of another batch
        if isinstance(result, Tensor):
            return torch.unflatten(result, 0, (size, batch)), 0
        return tuple(torch.unflatten(x, 0, (size, batch)) for x in result), (0, 0, 0)

    return rule


_fake.register("attention_jvp")(lambda *x: x[0].new_empty((*x[0].shape[:3], x[2].shape[3])))
for _name in ("attention_vjp", "attention_jtj"):
    _fake.register(_name)(lambda *x: tuple(y.new_empty(y.shape) for y in x[:3]))
_fake.register("attention_linearize")(
    lambda q, *_: q.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.uint8)
)
torch.library.register_vmap("gramian::attention_jvp", _batched(_jvp, 6))
torch.library.register_vmap("gramian::attention_vjp", _batched(_vjp, 4))
torch.library.register_vmap("gramian::attention_jtj", _batched(_jtj, 6, mix=True))
_register(_jvp, _plain_jvp, 6)
_register(_vjp, _plain_vjp, 4)
_register(_jtj, _plain_jtj, 6, mix=True)


def four(x: Tensor) -> Tensor:
    """With leading axes of one, as the ops want it."""
    return x if x.dim() >= 4 else x[(None,) * (4 - x.dim())]


def is_l2(op: str, kind: str) -> bool:
    if kind not in ("dot", "l2"):
        raise ValueError(f"{op}: kind must be 'dot' or 'l2', got {kind!r}")
    return kind == "l2"


def jvp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
) -> Tensor:
    r"""The derivative of attention along ``(dq, dk, dv)``: :math:`dO = [P \circ (dS - r)] v + P dv`, fused and blocked.

    ``P`` is the softmax of the scores ``S = c q kᵀ`` (``kind="dot"``) or ``-c |q - k|²`` (``"l2"``), ``dS`` their derivative and
    ``r`` its mean along each row under ``P``.

    Args:
        q: ``[batch, heads, n, d]`` float32 or float64, any strides; leading axes may be left out, here and below.
        k: ``[batch, heads, m, d]``.
        v: ``[batch, heads, m, dv]``.
        dq: the direction in ``q``, of its shape; ``dk`` and ``dv`` likewise.
        dk: see ``dq``.
        dv: see ``dq``.
        mask: bool, broadcast to ``[batch, heads, n, m]``, True where a query may look: ``[m]`` or ``[batch, 1, 1, m]`` for padded
            keys. None: everywhere.
        is_causal: query ``i`` looks at keys ``j <= i`` only.
        scale: ``c``; None: ``1 / sqrt(d)``.
        kind: the score, ``"dot"`` or ``"l2"``.

    Returns:
        ``[batch, heads, n, dv]`` with the leading axes of ``q``, in units of ``v``. A row that sees no key has derivative 0.

    Raises:
        ValueError: wrong shape, dtype or device; nothing to attend to; a mask that is not bool; an unknown kind.

    Cost:
        ``12 n m d`` flops a head where ``d = dv``, 14 where what :func:`linearize` keeps would pass 32 MiB, half with
        ``is_causal``. Memory: ``O((n + m) d)`` for packed keys, and 96 rows of probabilities and tangents, ``768 m`` bytes in
        float32, a thread.

    Accuracy:
        A few roundings of the dtype times ``sqrt(m)``, relative to ``P |dS - r| |v| + P |dv|``; rows that are nearly one-hot
        lose nothing. A NaN or an infinity that a row sees makes that row NaN; so does one in a masked key or value.

    Differentiable in all six tensors, in both modes and to any order, by the plain formula (``O(n m)`` memory); works under
    ``torch.func``, ``torch.compile`` and ``vmap``; the same bits for every number of threads.

    References:
        The Jacobian of attention: arXiv:2102.05628; the formula is derived in docs/how-it-works/attention.md.

    Example:
        >>> x = torch.tensor([[1.0], [1.0]])  # equal tokens: attention is the mean, and so is its derivative
        >>> jvp(x, x, x, torch.zeros_like(x), torch.zeros_like(x), torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [2.]])
    """
    tensors = [four(x) for x in (q, k, v, dq, dk, dv)]
    out: Tensor = _jvp(*tensors, None if mask is None else four(mask), is_causal, scale, is_l2("attention.jvp", kind))
    return out.view(*q.shape[:-1], v.shape[-1])


def vjp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
) -> Gradients:
    r"""The gradients of attention for a gradient ``g`` of its output: the transpose of :func:`jvp`, fused and blocked.

    With ``E = P ∘ (g vᵀ - δ)`` and ``δ`` its row means under ``P``: ``gq = c E k``, ``gk = c Eᵀ q``, ``gv = Pᵀ g``.

    Args:
        q: ``[batch, heads, n, d]`` float32 or float64, any strides; leading axes may be left out, here and below.
        k: ``[batch, heads, m, d]``.
        v: ``[batch, heads, m, dv]``.
        g: ``[batch, heads, n, dv]``.
        mask: bool, broadcast to ``[batch, heads, n, m]``, True where a query may look. None: everywhere.
        is_causal: query ``i`` looks at keys ``j <= i`` only.
        scale: ``c``; None: ``1 / sqrt(d)``.
        kind: the score, ``"dot"`` or ``"l2"``.

    Returns:
        :class:`Gradients` ``(q, k, v)``, of the shapes of the inputs, in units of ``g`` times ``v`` per unit of the input.

    Raises:
        ValueError: wrong shape, dtype or device; nothing to attend to; a mask that is not bool; an unknown kind.

    Cost:
        ``12 n m d`` flops a head where ``d = dv``, 14 where what :func:`linearize` keeps would pass 32 MiB, half with
        ``is_causal``. Memory: that of :func:`jvp`, and up to eight copies of ``gk`` and ``gv``, which are added in order.

    Accuracy:
        As :func:`jvp`. A NaN or an infinity is propagated.

    Differentiable in all four tensors, in both modes and to any order, by the plain formula (``O(n m)`` memory); works under
    ``torch.func``, ``torch.compile`` and ``vmap``; the same bits for every number of threads.

    References:
        The Jacobian of attention: arXiv:2102.05628; the formula is derived in docs/how-it-works/attention.md.

    Example:
        >>> x = torch.tensor([[1.0], [1.0]])
        >>> vjp(x, x, x, torch.tensor([[1.0], [3.0]])).v  # every value got half of every gradient
        tensor([[2.],
                [2.]])
    """
    tensors = [four(x) for x in (q, k, v, g)]
    parts = _vjp(*tensors, None if mask is None else four(mask), is_causal, scale, is_l2("attention.vjp", kind))
    return Gradients(*(part.view(x.shape) for part, x in zip(parts, (q, k, v), strict=True)))


def jtj(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    *,
    mix: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
) -> Gradients:
    r"""The product :math:`J^\top M J (dq, dk, dv)` with the Jacobian of attention: one pass over the probabilities.

    Each block of query rows computes its probabilities once for the derivative and for its transpose. ``M`` couples the heads
    of a token, as an output projection does (``M = Wo Woᵀ``).

    Args:
        q: ``[batch, heads, n, d]`` float32 or float64, any strides; leading axes may be left out, here and below.
        k: ``[batch, heads, m, d]``.
        v: ``[batch, heads, m, dv]``.
        dq: the direction in ``q``, of its shape; ``dk`` and ``dv`` likewise.
        dk: see ``dq``.
        dv: see ``dq``.
        mix: ``M``, ``[heads * dv, heads * dv]``, heads outermost; None: the identity. The output is multiplied from the right.
        mask: bool, broadcast to ``[batch, heads, n, m]``, True where a query may look. None: everywhere.
        is_causal: query ``i`` looks at keys ``j <= i`` only.
        scale: ``c``; None: ``1 / sqrt(d)``.
        kind: the score, ``"dot"`` or ``"l2"``.

    Returns:
        :class:`Gradients` ``(q, k, v)``, of the shapes of the inputs.

    Raises:
        ValueError: wrong shape, dtype or device; nothing to attend to; a mask that is not bool; an unknown kind.

    Cost:
        ``20 n m d`` flops a head where ``d = dv``, 22 where what :func:`linearize` keeps would pass 32 MiB, half with
        ``is_causal``, and ``2 n (heads dv)²`` for the mix; :func:`jvp` and then :func:`vjp` take 24 or 28.
        Memory: that of :func:`vjp`, and with a mix 96 rows of probabilities of every head.

    Accuracy:
        As :func:`jvp`, twice. A NaN or an infinity is propagated.

    Differentiable in all tensors, in both modes and to any order, by the plain formula (``O(n m)`` memory); works under
    ``torch.func``, ``torch.compile`` and ``vmap``; the same bits for every number of threads.

    References:
        The Jacobian of attention: arXiv:2102.05628; the formula is derived in docs/how-it-works/attention.md.

    Example:
        >>> x, zero = torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1)
        >>> jtj(x, x, x, zero, zero, torch.tensor([[1.0], [3.0]])).v  # the mean, twice
        tensor([[2.],
                [2.]])
    """
    tensors = [four(x) for x in (q, k, v, dq, dk, dv)]
    four_mask = None if mask is None else four(mask)
    parts = _jtj(*tensors, mix, four_mask, is_causal, scale, is_l2("attention.jtj", kind))
    return Gradients(*(part.view(x.shape) for part, x in zip(parts, (q, k, v), strict=True)))
