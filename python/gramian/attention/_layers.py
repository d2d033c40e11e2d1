"""Attention layers as they stand in networks: the constants of every layer of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ._adapters import Adapter, head_of, joint, three_linear
from ._bounds import closed_form_bound, schur_bound
from ._sigma import sigma

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ._search import Method, SingularValues


class LayerConstant(NamedTuple):
    """What `lipschitz` finds of one layer."""

    name: str
    sigma: SingularValues
    upper: Tensor
    heads: Tensor | None = None  # [batch, heads], each head with its part of the output projection
    schur: Tensor | None = None  # the other upper bound


def layer_table(layers: Sequence[LayerConstant]) -> str:
    r"""The constants of a model's layers as a table: :math:`\sigma_1` and upper bounds, largest over the batch.

    Args:
        layers: of `lipschitz`.

    Returns:
        Lines of text: a head, and one for each layer, with its name, ``sigma``, the probable bound and both certain ones.

    Raises:
        ValueError: no layers.

    Cost:
        Nothing to speak of.

    Accuracy:
        Four digits are shown.

    No tensors are made.

    References:
        As `lipschitz`.

    Example:
        >>> layer = torch.nn.MultiheadAttention(4, 2, batch_first=True)
        >>> layer_table(lipschitz(layer, torch.zeros(1, 3, 4))).splitlines()[0].split()
        ['layer', 'sigma', 'probable', 'schur', 'closed', 'form', 'converged']
    """
    if not layers:
        raise ValueError("attention.layer_table: layers must not be empty, got none")

    def largest(x: Tensor | None) -> str:
        return "" if x is None else f"{float(x.max()):.4g}"

    rows = [("layer", "sigma", "probable", "schur", "closed form", "converged")]
    for name, found, upper, _, schur in layers:
        done = "yes" if bool(found.converged.all()) else "no"
        rows.append(
            (name or "model", largest(found.sigma), largest(found.probable), largest(schur), largest(upper), done)
        )
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *(text.rjust(size) for text, size in zip(row[1:], wide[1:], strict=True))])
        for row in rows
    )


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
        `closed_form_bound`, ``heads`` or None, and `schur_bound`. `layer_table` prints them, `plot.lipschitz` draws them.

    Raises:
        ValueError: no self-attention is called, it has key and value inputs of their own, or a mask that does more than hide keys.

    Cost:
        One forward pass; for each layer `sigma`, `closed_form_bound` and `schur_bound`; with ``per_head``, `sigma` of each head.

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
        found = sigma(**arguments, **options)
        result.append(LayerConstant(name, found, closed_form_bound(**arguments), each, schur_bound(**arguments)))
    return result
