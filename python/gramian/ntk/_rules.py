"""What the parameter gradient of each type of layer is made of.

Most layers' gradients are sums of outer products, ``J[n, c] = sum_t g[n, c, t] a[n, t]ᵀ``: `RULES` says for each type of layer
what ``a`` is and how ``g`` follows from the gradient at the layer's output. A layer without a rule is differentiated by
itself, sample by sample, with torch.func.
"""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


__all__ = [
    "MOST_ONE_HOT",
    "RULES",
    "Call",
    "Gradients",
    "Part",
    "by_samples",
    "quietly",
    "refusal",
    "sample_axis",
    "tensors_in",
]

Gradients = list["Tensor | None"]  # at each output of a call: [c, n, ...], or None where nothing depends on it


@dataclass(frozen=True)
class Call:
    """One call of a layer: what went in, what came out."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Part:
    """Some parameters of one call, ``J[n, c] = sum_t g[n, c, t] (a[n, t], 1)ᵀ``.

    Attributes:
        weight: the parameter that multiplies ``a``, or None; its entries are the features of ``g`` times those of ``a``.
        bias: the parameter that multiplies the constant 1, or None.
        a: makes ``[n, t, d_in]``, which may be many times the layer's input; None: the gradient of ``weight`` is ``sum_t g``
            itself, its entries the features of ``g``.
        g: turns the gradients at the call's outputs into ``[n, c, t, d_out]``.
        equal: ``a`` holds class numbers, ``[n, t, 1]``, that stand for one-hot vectors.
        turned: the entries of ``weight`` are features of ``a`` times features of ``g``, in this order.
        taps: the features of ``a`` are in the order (taps, inputs), the entries of ``weight`` in that of (inputs, taps).
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    a: Callable[[], Tensor] | None
    g: Callable[[Gradients], Tensor]
    equal: bool = False
    turned: bool = False
    taps: int = 1


def tensors_in(output: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


def refusal(text: str) -> ValueError:
    return ValueError(f"empirical_ntk: {text}")


def _first(gradients: Gradients) -> Tensor:
    return cast("Tensor", gradients[0])


def _input(call: Call) -> Tensor:
    return cast("Tensor", (call.args or tuple(call.kwargs.values()))[0])


def _positions_last(g: Tensor) -> Tensor:
    """``[c, n, d, ...]`` to ``[n, c, t, d]``."""
    return g.flatten(3).permute(1, 0, 3, 2) if g.ndim > 3 else g.movedim(0, 1).unsqueeze(2)


def _linear(call: Call) -> list[Part]:
    module, x = cast("nn.Linear", call.module), _input(call).detach()
    positions = x[0, ..., 0].numel()

    def g(gradients: Gradients) -> Tensor:
        return _first(gradients).reshape(-1, len(x), positions, module.out_features).movedim(0, 1)

    weight, bias = cast("nn.Parameter", module.weight), cast("nn.Parameter | None", module.bias)
    return [Part(weight, bias, lambda: x.reshape(len(x), positions, -1), g)]


def _patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *, taps_first: bool = False
) -> Tensor:
    """``[..., d, *size]`` to ``[..., positions, d * kernel]``: what each position of a convolution reads.

    With ``taps_first`` the features are ``kernel * d``, and are copied d at a time.
    """
    axes = len(kernel)
    lead = x.ndim - axes - 1
    if taps_first:
        x = x.movedim(lead, -1).contiguous().movedim(-1, lead)
    for axis, (k, s, step) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(axis - axes - axis, (k - 1) * step + 1, s)[..., ::step]
    positions, taps = range(lead + 1, lead + 1 + axes), range(lead + 1 + axes, x.ndim)
    x = x.permute(*range(lead), *positions, *((*taps, lead) if taps_first else (lead, *taps)))
    return x.reshape(*x.shape[:lead], math.prod(x.shape[lead : lead + axes]), -1)


def _in_groups(x: Tensor, groups: int) -> Tensor:
    """``[..., t, d]`` to ``[..., group, t, d / groups]``."""
    return x.reshape(*x.shape[:-1], groups, -1).transpose(-2, -3)


def _convolution(call: Call) -> list[Part]:
    module, x = cast("nn.Conv2d", call.module), _input(call).detach()
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode

    def a() -> Tensor:
        padded = F.pad(x, module._reversed_padding_repeated_twice, mode)
        taps_first = groups == 1
        return _patches(padded, module.kernel_size, module.stride, module.dilation, taps_first=taps_first)

    weight, bias, groups = cast("nn.Parameter", module.weight), cast("nn.Parameter | None", module.bias), module.groups
    if groups == 1:
        taps = math.prod(module.kernel_size)
        return [Part(weight, bias, a, lambda gradients: _positions_last(_first(gradients)), taps=taps)]

    def grouped(gradients: Gradients) -> Tensor:
        g = _in_groups(_positions_last(_first(gradients)), groups)  # [n, c, group, t, d_out]
        reads = _in_groups(a(), groups)[:, None]  # [n, 1, group, t, d_in]
        product: Tensor = g.mT @ reads
        return product.flatten(2).unsqueeze(2)

    parts = [Part(weight, None, None, grouped)]
    if bias is not None:
        parts.append(Part(None, bias, None, lambda gradients: _positions_last(_first(gradients))))
    return parts


def _transposed_convolution(call: Call) -> list[Part]:
    module, x = cast("nn.ConvTranspose2d", call.module), _input(call).detach()
    axes, groups = len(module.kernel_size), module.groups

    def a() -> Tensor:
        positions: Tensor = x.flatten(2)
        return positions.mT

    def read(gradients: Gradients) -> Tensor:
        # The weight's gradient is that of a convolution which reads the gradient and writes the input.
        g, pads = _first(gradients), []
        for axis in reversed(range(axes)):
            k, s, step = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
            before = cast("tuple[int, ...]", module.padding)[axis]
            needed = (x.shape[2 + axis] - 1) * s + (k - 1) * step + 1
            pads += [before, needed - before - g.shape[3 + axis]]
        return _patches(F.pad(g, pads), module.kernel_size, module.stride, module.dilation).movedim(0, 1)

    def grouped(gradients: Gradients) -> Tensor:
        g = _in_groups(read(gradients), groups)  # [n, c, group, t, d_out kernel]
        writes = _in_groups(a(), groups)[:, None]  # [n, 1, group, t, d_in]
        product: Tensor = writes.mT @ g
        return product.flatten(2).unsqueeze(2)

    weight, bias = cast("nn.Parameter", module.weight), cast("nn.Parameter | None", module.bias)
    parts = [Part(weight, None, a, read, turned=True) if groups == 1 else Part(weight, None, None, grouped)]
    if bias is not None:
        parts.append(Part(None, bias, None, lambda gradients: _positions_last(_first(gradients))))
    return parts


MOST_ONE_HOT = 512  # classes up to which an Embedding's input is written out, so that it may be materialised


def _embedding(call: Call) -> list[Part]:
    module, index = cast("nn.Embedding", call.module), _input(call)
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise refusal("model must have embeddings without max_norm and scale_grad_by_freq, got one")
    index = index.reshape(index.shape[0], -1)
    kept = (index != module.padding_idx).unsqueeze(-1) if module.padding_idx is not None else None
    equal = module.num_embeddings > MOST_ONE_HOT
    dtype = module.weight.dtype

    def a() -> Tensor:
        return index.unsqueeze(-1).to(dtype) if equal else F.one_hot(index, module.num_embeddings).to(dtype)

    def g(gradients: Gradients) -> Tensor:
        first = _first(gradients)
        first = first.reshape(first.shape[0], *index.shape, -1).movedim(0, 1)
        return first if kept is None else first * kept[:, None]

    return [Part(cast("nn.Parameter", module.weight), None, a, g, equal=equal, turned=True)]


def _affine(call: Call, normal: Callable[[], Tensor], summed: Sequence[int]) -> list[Part]:
    """Parts of ``normal * weight + bias``; the gradient ``[c, n, ...]`` is summed over the axes that share an entry."""
    weight, bias = (cast("nn.Parameter | None", getattr(call.module, name, None)) for name in ("weight", "bias"))

    def by_entry(g: Tensor) -> Tensor:
        return (g.sum(tuple(summed)) if summed else g).flatten(2).movedim(0, 1).unsqueeze(2)

    parts = []
    if weight is not None:
        parts.append(Part(weight, None, None, lambda gradients: by_entry(_first(gradients) * normal())))
    if bias is not None:
        parts.append(Part(None, bias, None, lambda gradients: by_entry(_first(gradients))))
    return parts


def _layer_norm(call: Call) -> list[Part]:
    module, x = cast("nn.LayerNorm", call.module), _input(call).detach()
    return _affine(
        call,
        lambda: F.layer_norm(x, module.normalized_shape, eps=module.eps),
        range(2, x.ndim - len(module.normalized_shape) + 1),
    )


def _rms_norm(call: Call) -> list[Part]:
    module, x = cast("nn.RMSNorm", call.module), _input(call).detach()
    return _affine(
        call,
        lambda: F.rms_norm(x, list(module.normalized_shape), eps=module.eps),
        range(2, x.ndim - len(module.normalized_shape) + 1),
    )


def _group_norm(call: Call) -> list[Part]:
    module, x = cast("nn.GroupNorm", call.module), _input(call).detach()
    return _affine(call, lambda: F.group_norm(x, module.num_groups, eps=module.eps), range(3, x.ndim + 1))


def _batch_norm(call: Call) -> list[Part]:
    module, x = cast("nn.BatchNorm2d", call.module), _input(call).detach()

    def normal() -> Tensor:
        return F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)

    return _affine(call, normal, range(3, x.ndim + 1))


RULES: dict[type[nn.Module], Callable[[Call], list[Part]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _transposed_convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.ConvTranspose3d: _transposed_convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
}


def sample_axis(module: nn.Module, position: int) -> int:
    """Where a layer's inputs and outputs have their samples: states of recurrent layers always on the second axis."""
    if position > 0 and isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return int(isinstance(module, nn.RNNBase))
    return 0 if getattr(module, "batch_first", True) else 1


def by_samples(call: Call, parameters: dict[str, nn.Parameter], samples: int) -> list[Part]:
    """The rule of a module without one: its own gradients of each sample, by torch.func."""
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
