"""What the parameter gradient of each type of layer is made of.

Most layers' gradients are sums of outer products, ``J[n, c] = sum_t g[n, c, t] a[n, t]ᵀ``: `RULES` says for each type of layer
what ``a`` is and how ``g`` follows from the gradient at the layer's output.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cached_property
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
        a: makes ``[n, t, d_in]``, which may be many times the layer's input, or ``[n, t_1, t_2, p, d_in / p]``, a view of the
            images that patches are read from; None: the gradient of ``weight`` is ``sum_t g`` itself, its entries the
            features of ``g``.
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
    if isinstance(output, Tensor):  # pytree takes a hundred times as long
        return [output]
    if isinstance(output, tuple) and all(isinstance(x, Tensor) for x in output):
        return list(output)
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
    n, positions = x.shape[0], x.shape[1:-1].numel()

    def g(gradients: Gradients) -> Tensor:
        return _first(gradients).reshape(-1, n, positions, module.out_features).movedim(0, 1)

    weight, bias = cast("nn.Parameter", module.weight), cast("nn.Parameter | None", module.bias)
    return [Part(weight, bias, lambda: x.reshape(n, positions, -1), g)]


def _windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """``[..., *size]`` to ``[..., *positions, *kernel]``: a view, what each position of a convolution reads."""
    axes = len(kernel)
    for k, s, step in zip(kernel, stride, dilation, strict=True):
        x = x.unfold(-axes, (k - 1) * step + 1, s)[..., ::step]
    return x


def _patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """``[..., d, *size]`` to ``[..., positions, d * kernel]``, written out."""
    axes = len(kernel)
    x = _windows(x, kernel, stride, dilation)
    lead = x.ndim - 2 * axes - 1
    x = x.movedim(lead, lead + axes)
    return x.reshape(*x.shape[:lead], math.prod(x.shape[lead : lead + axes]), -1)


_ADJACENT = 16  # features that patches must have side by side to be read in place


def _patches_in_place(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """``[n, d, *size]`` to ``[n, positions, kernel * d]``, or as `Part` says to a view of the images, channels last."""
    axes = len(kernel)
    x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x = _windows(x, kernel, stride, dilation).movedim(1, -1)  # [n, *positions, *kernel, d]
    if axes == 2 and dilation[1] == 1 and x.device.type == "cpu" and kernel[1] * x.shape[-1] >= _ADJACENT:
        return x.flatten(4)
    return x.reshape(len(x), math.prod(x.shape[1 : 1 + axes]), -1)


def _in_groups(x: Tensor, groups: int) -> Tensor:
    """``[..., t, d]`` to ``[..., group, t, d / groups]``."""
    return x.reshape(*x.shape[:-1], groups, -1).transpose(-2, -3)


def _convolution(call: Call) -> list[Part]:
    module, x = cast("nn.Conv2d", call.module), _input(call).detach()
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode

    def a() -> Tensor:
        padded = F.pad(x, module._reversed_padding_repeated_twice, mode)
        patches = _patches_in_place if groups == 1 else _patches
        return patches(padded, module.kernel_size, module.stride, module.dilation)

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


class _Attention:
    """One call of multi-head attention, again: its projections, and the gradients at them from that at its output."""

    def __init__(self, call: Call) -> None:
        module = cast("nn.MultiheadAttention", call.module)
        bound = inspect.signature(module.forward).bind(*call.args, **call.kwargs)
        bound.apply_defaults()
        given = bound.arguments
        self.module, self.average = module, given["average_attn_weights"]
        self.together = given["query"] is given["key"] is given["value"]
        sides = [given[name].detach() for name in ("query", "key", "value")]
        self.inputs = sides if module.batch_first else [x.transpose(0, 1) for x in sides]  # [n, t, d]
        self.masks = (given["attn_mask"], given["key_padding_mask"])

    def _heads(self, x: Tensor) -> Tensor:
        """``[..., t, d]`` to ``[..., head, t, d / heads]``."""
        return torch.unflatten(x, -1, (self.module.num_heads, -1)).transpose(-2, -3)

    @cached_property
    def projected(self) -> list[Tensor]:
        """Queries, keys and values, ``[n, head, t, d / heads]``."""
        module = self.module
        if module._qkv_same_embed_dim:
            weights = module.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(w.detach() for w in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight))
        biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.detach().chunk(3)
        return [self._heads(F.linear(*side)) for side in zip(self.inputs, weights, biases, strict=True)]

    @cached_property
    def probabilities(self) -> Tensor:
        """``[n, head, t, s]``."""
        q, k, _ = self.projected
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        pairs, keys = self.masks
        if pairs is not None and pairs.ndim == 3:
            pairs = pairs.unflatten(0, (-1, self.module.num_heads))
        for mask in (pairs, None if keys is None else keys[:, None, None]):
            if mask is not None:
                scores = scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)

    def read(self) -> Tensor:
        """What the last projection multiplies, ``[n, t, d]``."""
        return (self.probabilities @ self.projected[2]).transpose(1, 2).flatten(2)

    def at_output(self, gradients: Gradients) -> Tensor:
        """``[n, c, t, d]``."""
        first = gradients[0]
        if first is None:  # nothing but the probabilities was used
            n, t, d = self.inputs[0].shape
            return self.probabilities.new_zeros(1, 1, 1, 1).expand(n, len(cast("Tensor", gradients[1])), t, d)
        return first.permute(1, 0, 2, 3) if self.module.batch_first else first.permute(2, 0, 1, 3)

    def at_projections(self, gradients: Gradients) -> list[Tensor]:
        """At queries, keys and values, ``[n, c, t, d]``: through softmax, ``dS = P (dP - Σ P dP)``."""
        (q, k, v), p = (x.unsqueeze(1) for x in self.projected), self.probabilities.unsqueeze(1)
        by_read = self._heads(self.at_output(gradients) @ self.module.out_proj.weight.detach())
        by_p = by_read @ v.mT
        if len(gradients) > 1 and gradients[1] is not None:
            shown = gradients[1].movedim(0, 1)
            by_p = by_p + (shown.unsqueeze(2) / self.module.num_heads if self.average else shown)
        by_scores = p * (by_p - (p * by_p).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        return [x.transpose(2, 3).flatten(3) for x in (by_scores @ k, by_scores.mT @ q, p.mT @ by_read)]


def _attention(call: Call) -> list[Part]:
    attention = _Attention(call)
    module, inputs = attention.module, attention.inputs
    if module.bias_k is not None or module.add_zero_attn:
        return []
    weight, bias = cast("nn.Parameter | None", module.in_proj_weight), cast("nn.Parameter | None", module.in_proj_bias)
    last = module.out_proj
    out_weight, out_bias = cast("nn.Parameter", last.weight), cast("nn.Parameter | None", last.bias)
    parts = [Part(out_weight, out_bias, attention.read, attention.at_output)]
    if weight is not None and attention.together:
        return [*parts, Part(weight, bias, lambda: inputs[0], lambda g: torch.cat(attention.at_projections(g), -1))]

    def projection(i: int, own: nn.Parameter | None) -> Part:
        def g(gradients: Gradients) -> Tensor:
            one, d = attention.at_projections(gradients)[i], module.embed_dim
            return F.pad(one, (i * d, (2 - i) * d)) if own is None else one  # one weight holds the rows of all three

        return Part(weight if own is None else own, bias if own is None else None, lambda: inputs[i], g)

    def summed(gradients: Gradients) -> Tensor:
        return torch.cat([x.sum(2, keepdim=True) for x in attention.at_projections(gradients)], -1)

    parts += map(projection, range(3), (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight))
    return parts if weight is not None or bias is None else [*parts, Part(None, bias, None, summed)]


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
    nn.MultiheadAttention: _attention,
}


def sample_axis(module: nn.Module, position: int) -> int:
    """Where a layer's inputs and outputs have their samples: states of recurrent layers always on the second axis."""
    if position > 0 and isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return int(isinstance(module, nn.RNNBase))
    return 0 if getattr(module, "batch_first", True) else 1
