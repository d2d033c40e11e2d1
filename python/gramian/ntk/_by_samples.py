"""The rule of a layer without one: its own gradients of each sample, by torch.func."""

from __future__ import annotations

import inspect
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._rules import Call, Part, sample_axis, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["by_samples", "quietly"]


def by_samples(call: Call, parameters: dict[str, nn.Parameter], samples: int) -> list[Part]:
    """The parts of one call, a parameter each: its gradients are written out."""
    module = call.module
    bound = inspect.signature(module.forward).bind(*call.args, **call.kwargs)
    given, spec = pytree.tree_flatten_with_path(bound.arguments)
    axes: list[int | None] = []
    for path, x in given:
        axis = sample_axis(module, len([a for a in axes if a is not None]) if isinstance(module, nn.RNNBase) else 0)
        has_samples = isinstance(x, Tensor) and x.ndim > axis and x.shape[axis] == samples
        axes.append(axis if has_samples and "attn_mask" not in pytree.keystr(path) else None)
    values = [x.detach() if isinstance(x, Tensor) else x for _, x in given]
    tensors = [x for x, axis in zip(values, axes, strict=True) if axis is not None]
    kept_axes = [axis for axis in axes if axis is not None]
    held = {name: p.detach() for name, p in parameters.items()}

    @cache
    def jacobians(cotangents: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        used = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
        sides = [sample_axis(module, i) for i in used]

        def one(weights: dict[str, Tensor], *sample: Tensor) -> tuple[Tensor, ...]:
            pieces = iter(sample)
            merged = [x if axis is None else next(pieces).unsqueeze(axis) for x, axis in zip(values, axes, strict=True)]
            arguments = inspect.BoundArguments(bound.signature, pytree.tree_unflatten(merged, spec))
            outputs = tensors_in(torch.func.functional_call(module, weights, arguments.args, arguments.kwargs))
            return tuple(outputs[i].squeeze(side) for i, side in zip(used, sides, strict=True))

        def one_by_one(cotangent: tuple[Tensor, ...], *sample: Tensor) -> dict[str, Tensor]:
            weights = {name: p.requires_grad_() for name, p in held.items()}
            with torch.enable_grad():
                out = one(weights, *sample)
            each = [
                torch.autograd.grad(out, [*weights.values()], c, retain_graph=True, materialize_grads=True)
                for c in zip(*cotangent, strict=True)
            ]
            return {name: torch.stack(rows) for name, rows in zip(weights, zip(*each, strict=True), strict=True)}

        def jacobian(cotangent: tuple[Tensor, ...], *sample: Tensor) -> dict[str, Tensor]:
            pull = torch.func.vjp(lambda weights: one(weights, *sample), held)[1]
            return cast("dict[str, Tensor]", torch.func.vmap(lambda *v: pull(v)[0])(*cotangent))

        found = tuple(c for c in cotangents if c is not None)
        try:
            mapped = torch.func.vmap(jacobian, (tuple(1 + s for s in sides), *kept_axes))
            by_name = quietly(lambda: mapped(found, *tensors))
        except RuntimeError:  # no vmap takes it: recurrent layers write in place, PReLU's batching rule is wrong
            slices = zip(*(c.unbind(1 + s) for c, s in zip(found, sides, strict=True)), strict=True)
            pieces = zip(*(x.unbind(axis) for x, axis in zip(tensors, kept_axes, strict=True)), strict=True)
            rows = [one_by_one(c, *sample) for c, sample in zip(slices, pieces, strict=True)]
            by_name = {name: torch.stack([row[name] for row in rows]) for name in held}
        return {name: j.flatten(2).unsqueeze(2) for name, j in by_name.items()}

    def part(name: str) -> Part:
        return Part(parameters[name], None, None, lambda gradients: jacobians(tuple(gradients))[name])

    return [part(name) for name in parameters]


def quietly(batched: Callable[[], Any]) -> Any:
    """Run a vmap; an operation without a batching rule is looped over, which torch warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return batched()
