"""How attention layers that are not torch's own are read: Hugging Face's BERT and ViT, GPT-2, and others by the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# (model, name of a module in it, the positional and keyword arguments of its call) to arguments of sigma; None: not this kind
Adapter = Callable[[nn.Module, str, tuple[Any, ...], Mapping[str, Any]], "dict[str, Any] | None"]

_HIDDEN = -1e4  # what models add to a score to hide a key is this or less; a mask that only moves scores is refused


def _seen(name: str, mask: Tensor | None) -> Tensor | None:
    """Where a query may look, of a mask that is boolean or added to the scores."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return mask
    hidden = mask <= _HIDDEN
    if not (hidden | (mask == 0)).all():
        raise ValueError(f"lipschitz: the mask of {name!r} must only hide keys, got one that moves scores")
    return ~hidden


def _hidden_states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["hidden_states"]
    return x


def _mask_of(name: str, kwargs: Mapping[str, Any]) -> dict[str, Tensor | None]:
    mask = _seen(name, kwargs.get("attention_mask"))
    if mask is not None and mask.dim() == 4 and mask.shape[1:3] == (1, 1):
        return {"key_padding_mask": ~mask[:, 0, 0]}
    return {"mask": mask}


def three_linear(
    model: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """BERT and ViT: ``query``, ``key``, ``value``, and the output projection in the module beside it."""
    module = model.get_submodule(name)
    parts: list[Any] = [getattr(module, part, None) for part in ("query", "key", "value")]
    heads = getattr(module, "num_attention_heads", None)
    if not isinstance(heads, int) or not all(isinstance(part, nn.Linear) for part in parts):
        return None
    if len(args) > 1 and args[1] is not None:
        kwargs = {"attention_mask": args[1]} | dict(kwargs)
    parent = model.get_submodule(name.rpartition(".")[0])
    dense = getattr(getattr(parent, "output", None), "dense", None)
    result: dict[str, Any] = {"x": _hidden_states(args, kwargs), "heads": heads} | _mask_of(name, kwargs)
    for letter, part in zip("qkv", parts, strict=True):
        result[f"w{letter}"], result[f"b{letter}"] = part.weight.mT, part.bias
    return result | {"wo": dense.weight.mT if isinstance(dense, nn.Linear) and parent is not module else None}


def joint(model: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """GPT-2: ``c_attn`` and ``c_proj``, whose weights are ``[in, out]``, causal."""
    module = model.get_submodule(name)
    both, out, heads = (getattr(module, part, None) for part in ("c_attn", "c_proj", "num_heads"))
    if not isinstance(both, nn.Module) or not isinstance(out, nn.Module) or not isinstance(heads, int):
        return None
    weight: Any = both.weight
    bias: Any = both.bias
    wo = out.weight
    wq, wk, wv = weight.chunk(3, 1)
    bq, bk, bv = bias.chunk(3)
    result = {"x": _hidden_states(args, kwargs), "wq": wq, "wk": wk, "wv": wv, "wo": wo, "bq": bq, "bk": bk, "bv": bv}
    return result | {"heads": heads, "is_causal": True} | _mask_of(name, kwargs)


def head_of(arguments: dict[str, Any], index: int) -> dict[str, Any]:
    """The arguments of one head alone."""
    heads, mask = arguments["heads"], arguments.get("mask")
    one = dict(arguments, heads=1)
    for letter in "qkv":
        one[f"w{letter}"] = arguments[f"w{letter}"].chunk(heads, 1)[index]
        bias = arguments.get(f"b{letter}")
        one[f"b{letter}"] = None if bias is None else bias.chunk(heads)[index]
    if arguments["wo"] is not None:
        one["wo"] = arguments["wo"].chunk(heads)[index]
    if mask is not None and mask.dim() == 4 and mask.shape[1] > 1:
        one["mask"] = mask[:, index : index + 1]
    return one
