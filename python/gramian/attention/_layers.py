"""Attention layers as they stand in networks: upper bounds in closed form, and constants of every layer of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ._adapters import Adapter, head_of, joint, three_linear
from ._ops import four
from ._sigma import Method, SingularValues, sigma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ROWS = 128  # of probabilities at a time


def _norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(x, 2)
    return size


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
    op = "attention.closed_form_bound"
    if x.dim() != 3 or 0 in x.shape:
        raise ValueError(f"{op}: x must be [batch, n, D] and not empty, got shape {tuple(x.shape)}")
    batch, n, width = x.shape
    for name, w in (("wq", wq), ("wk", wk), ("wv", wv)):
        if w.dim() != 2 or w.shape[0] != width or heads < 1 or w.shape[1] % heads:
            raise ValueError(
                f"{op}: {name} must be [{width}, {heads} heads x d], for y = x W, got shape {tuple(w.shape)}"
            )
    seen = None if mask is None else four(mask)
    there = torch.ones(batch, 1, n, 1, dtype=torch.bool, device=x.device)
    if key_padding_mask is not None:
        there = ~key_padding_mask.expand(batch, n)[:, None, :, None]
        seen = there.mT if seen is None else seen & there.mT

    q, k, v = (
        torch.unflatten(x @ w if b is None else x @ w + b, 2, (heads, -1)).transpose(1, 2)
        for w, b in ((wq, bq), (wk, bk), (wv, bv))
    )
    w_q, w_k, w_v = (torch.unflatten(w, 1, (heads, -1)).transpose(0, 1) for w in (wq, wk, wv))  # [heads, D, d]
    c = q.shape[3] ** -0.5 if scale is None else scale
    if wo is not None:
        out = torch.unflatten(wo, 0, (heads, -1))  # [heads, dv, out]
        v, w_v = v @ out, w_v @ out

    columns, sharpest = q.new_zeros(batch, heads, n), q.new_zeros(batch, heads)
    for first in range(0, n, _ROWS):
        rows = slice(first, first + _ROWS)
        scores = c * q[:, :, rows] @ k.mT
        allowed = torch.ones(scores.shape[2:], dtype=torch.bool, device=x.device)
        allowed = (allowed.tril(first) if is_causal else allowed)[None, None]
        if seen is not None:
            allowed = allowed & seen.expand(batch, -1, n, n)[:, :, rows]
        # A row that sees nothing has no probabilities; a padded one is not counted.
        p = scores.masked_fill(~allowed, -torch.inf).softmax(3).masked_fill(~allowed.any(3, keepdim=True), 0)
        p = p * there[:, :, rows]
        columns += p.sum(2)
        top = nn.functional.pad(p, (0, 1)).topk(2, 3).values  # of a single key there is no second
        sharpest = torch.maximum(sharpest, (top[..., 0] * (1 - top[..., 0] + top[..., 1])).amax(2))
    count = there.sum(2, keepdim=True).clamp(min=1)
    spread = torch.where(there, v - torch.where(there, v, 0).sum(2, keepdim=True) / count, 0)
    steep = _norm(w_q @ torch.where(there, k, 0).mT) + _norm(torch.where(there, q, 0) @ w_k.mT)
    bound: Tensor = (columns.amax(2).sqrt() * _norm(w_v) + abs(c) * steep * _norm(spread) * sharpest).sum(1)
    return bound


class LayerConstant(NamedTuple):
    """What `lipschitz` finds of one layer."""

    name: str
    sigma: SingularValues
    upper: Tensor
    heads: Tensor | None = None  # [batch, heads], each head with its part of the output projection


def _of_multihead(module: nn.MultiheadAttention) -> dict[str, Any]:
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise ValueError(
            "lipschitz: module must be self-attention without kdim, vdim, add_bias_kv and add_zero_attn, got one with"
        )
    width = module.embed_dim
    wq, wk, wv = (w.mT for w in torch.split(module.in_proj_weight, width))
    found = {"wq": wq, "wk": wk, "wv": wv, "wo": module.out_proj.weight.mT, "heads": module.num_heads}
    if module.in_proj_bias is not None:
        found |= dict(zip(("bq", "bk", "bv"), torch.split(module.in_proj_bias, width), strict=True))
    return found


def _tokens(module: nn.MultiheadAttention, x: Tensor) -> dict[str, Any]:
    return _of_multihead(module) | {"x": x if x.dim() == 2 or module.batch_first else x.transpose(0, 1)}


def _multihead(model: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    module = model.get_submodule(name)
    if not isinstance(module, nn.MultiheadAttention):
        return None
    given = [*args[:3], *(kwargs[key] for key in ("query", "key", "value")[len(args[:3]) :])]
    if any(other is not given[0] for other in given):
        raise ValueError(f"lipschitz: model must attend to its own tokens, got other keys or values at {name!r}")
    return _tokens(module, given[0])


def lipschitz(
    model: nn.Module,
    x: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
    method: Method = "lanczos",
    tol: float = 1e-3,
    max_iter: int = 50,
    seed: int = 0,
    per_head: bool = False,
    adapters: Iterable[Adapter] = (),
    **keywords: Any,
) -> list[LayerConstant]:
    """Local Lipschitz constants of all self-attention in a model, each at the tokens that reach it when ``x`` goes in.

    Args:
        model: a `torch.nn.MultiheadAttention`, or any module that calls some: a ``TransformerEncoderLayer``, an encoder; or modules like
            BERT's and ViT's (``query``, ``key``, ``value``, ``num_attention_heads``, and ``output.dense`` beside them) and GPT-2's
            (``c_attn``, ``c_proj``, ``num_heads``: causal), whose masks are read from their calls.
        x: what the model takes; to a ``MultiheadAttention``, its tokens ``[batch, n, D]`` (or ``[n, batch, D]``, as ``batch_first`` says).
        key_padding_mask: bool ``[batch, n]``, True for padding, as in `sigma`; the model is run without it, and masks that it passes to its attention itself are not read.
        is_causal: whether tokens look at those before them only.
        method: see `sigma`.
        tol: see `sigma`.
        max_iter: see `sigma`.
        seed: see `sigma`.
        per_head: each head by itself as well, with its part of the output projection.
        adapters: for other layers: functions of ``(model, name, args, kwargs)`` of a module's call, asked first, that return the arguments
            of `sigma`, with ``heads`` and ``wo``, or None if the module is of another kind.
        keywords: what the model is called with by name, such as ``attention_mask``.

    Returns:
        A `LayerConstant` for each call of self-attention, in order: its name in the model (``""`` for the model itself), its `SingularValues`, and
        `closed_form_bound`, and ``heads`` or None.

    Raises:
        ValueError: no self-attention is called, it has key and value inputs of their own, or a mask that does more than hide keys.

    Cost:
        One forward pass; for each layer `sigma` and `closed_form_bound`; with ``per_head``, `sigma` of each head.

    Accuracy:
        That of `sigma`.

    The model stays as it was. The result carries no gradient.

    References:
        Vuckovic, Baratin and Tachet des Combes, arXiv:2102.05628.

    Example:
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> [(found.name, bool(found.sigma.converged), bool(found.upper >= found.sigma.sigma)) for found in lipschitz(layer, torch.randn(1, 5, 8))]
        [('self_attn', True, True)]
    """
    calls: list[tuple[str, dict[str, Any]]] = []
    known = (*adapters, _multihead, three_linear, joint)

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found = next((one for one in (read(model, name, args, kwargs) for read in known) if one is not None), None)
            if found is not None:
                calls.append((name, found))

        return hook

    handles = []
    if isinstance(model, nn.MultiheadAttention):
        calls.append(("", _tokens(model, x)))
    else:
        try:
            for name, module in model.named_modules():
                handles.append(module.register_forward_pre_hook(hook_of(name), with_kwargs=True))
            with torch.no_grad():
                model(x, **keywords)
        finally:
            for handle in handles:
                handle.remove()
    if not calls:
        raise ValueError(f"lipschitz: model must call torch.nn.MultiheadAttention, got {type(model).__name__} without")
    options: dict[str, Any] = {"method": method, "tol": tol, "max_iter": max_iter, "seed": seed}
    result = []
    for name, given in calls:
        arguments: dict[str, Any] = {
            key: value.detach() if isinstance(value, Tensor) else value for key, value in given.items()
        }
        if arguments["x"].dim() == 2:
            arguments["x"] = arguments["x"][None]
        if key_padding_mask is not None:
            arguments["key_padding_mask"] = key_padding_mask
        if is_causal:
            arguments["is_causal"] = True
        each = None
        if per_head:
            parts = [sigma(**head_of(arguments, i), **options).sigma for i in range(arguments["heads"])]
            each = torch.stack(parts, 1)
        result.append(LayerConstant(name, sigma(**arguments, **options), closed_form_bound(**arguments), each))
    return result
