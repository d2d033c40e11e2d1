"""The factors of every layer's parameter gradient, for a whole batch of samples and all outputs at once.

Most layers' gradients are sums of outer products, ``J[n, c] = sum_t g[n, c, t] a[n, t]ᵀ``: `RULES` says for each type of layer
what ``a`` is and how ``g`` follows from the gradient at the layer's output. A layer without a rule is differentiated by
itself, sample by sample, with torch.func.
"""

from __future__ import annotations

import inspect
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrize import is_parametrized
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch.autograd.graph import Node

__all__ = ["RULES", "Call", "Factors", "Part", "Recording", "factors_of", "record"]

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


@dataclass(frozen=True)
class Factors:
    """All uses of some parameters: positions of different uses stand one after the other.

    That makes the gradient of a parameter that is used twice the sum of its uses, cross terms and all.
    """

    name: str
    a: Tensor  # [n, t, d_in]
    g: Tensor  # [n, c, t, d_out]
    bias: bool
    equal: bool = False


def refusal(text: str) -> ValueError:
    return ValueError(f"empirical_ntk: {text}")


# ---- The rules ----


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


_MOST_ONE_HOT = 512  # classes up to which an Embedding's input is written out, so that it may be materialised


def _embedding(call: Call) -> list[Part]:
    module, index = cast("nn.Embedding", call.module), _input(call)
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise refusal("model must have embeddings without max_norm and scale_grad_by_freq, got one")
    index = index.reshape(index.shape[0], -1)
    kept = (index != module.padding_idx).unsqueeze(-1) if module.padding_idx is not None else None
    equal = module.num_embeddings > _MOST_ONE_HOT
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


def _sample_axis(module: nn.Module, position: int) -> int:
    """Where a layer's inputs and outputs have their samples: states of recurrent layers always on the second axis."""
    if position > 0 and isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return int(isinstance(module, nn.RNNBase))
    return 0 if getattr(module, "batch_first", True) else 1


def _by_samples(call: Call, parameters: dict[str, nn.Parameter], samples: int) -> list[Part]:
    """The rule of a module without one: its own gradients of each sample, by torch.func."""
    module = call.module
    bound = inspect.signature(module.forward).bind(*call.args, **call.kwargs)
    given, spec = pytree.tree_flatten_with_path(bound.arguments)
    axes: list[int | None] = []
    for path, x in given:
        axis = _sample_axis(module, len([a for a in axes if a is not None]) if isinstance(module, nn.RNNBase) else 0)
        has_samples = isinstance(x, Tensor) and x.ndim > axis and x.shape[axis] == samples
        axes.append(axis if has_samples and "attn_mask" not in pytree.keystr(path) else None)
    values = [x.detach() if isinstance(x, Tensor) else x for _, x in given]
    tensors = [x for x, axis in zip(values, axes, strict=True) if axis is not None]
    kept_axes = [axis for axis in axes if axis is not None]
    held = {name: p.detach() for name, p in parameters.items()}

    @cache
    def jacobians(cotangents: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        used = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]
        sides = [_sample_axis(module, i) for i in used]

        def one(weights: dict[str, Tensor], *sample: Tensor) -> tuple[Tensor, ...]:
            pieces = iter(sample)
            merged = [x if axis is None else next(pieces).unsqueeze(axis) for x, axis in zip(values, axes, strict=True)]
            arguments = inspect.BoundArguments(bound.signature, pytree.tree_unflatten(merged, spec))
            outputs = _tensors(torch.func.functional_call(module, weights, arguments.args, arguments.kwargs))
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
            by_name = _quietly(lambda: mapped(found, *tensors))
        except RuntimeError:  # no vmap takes it: recurrent layers write in place, PReLU's batching rule is wrong
            slices = zip(*(c.unbind(1 + s) for c, s in zip(found, sides, strict=True)), strict=True)
            pieces = zip(*(x.unbind(axis) for x, axis in zip(tensors, kept_axes, strict=True)), strict=True)
            rows = [one_by_one(c, *sample) for c, sample in zip(slices, pieces, strict=True)]
            by_name = {name: torch.stack([row[name] for row in rows]) for name in held}
        return {name: j.flatten(2).unsqueeze(2) for name, j in by_name.items()}

    def part(name: str) -> Part:
        return Part(parameters[name], None, None, lambda gradients: jacobians(tuple(gradients))[name])

    return [part(name) for name in parameters]


def _quietly(batched: Callable[[], Any]) -> Any:
    """Run a vmap; an operation without a batching rule is looped over, which torch warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return batched()


# ---- Recording ----


def _tensors(output: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]


@dataclass
class _Recorded:
    name: str
    call: Call
    parts: list[Part]
    edges: list[GradientEdge | None]
    read: list[tuple[Tensor, int]]  # the inputs and their versions: a later change in place would falsify `a`
    own: frozenset[nn.Parameter]  # without a rule: the parameters that the module as a whole is differentiated by


@dataclass
class Recording:
    """A forward pass: the model's output and the calls of the layers whose parameters are wanted."""

    out: Tensor
    calls: list[_Recorded]
    wanted: dict[nn.Parameter, str]
    seeds: Tensor  # [c, n, C]: what is differentiated
    held: tuple[slice, list[Gradients]] | None = None  # of the last backward pass

    @property
    def bytes(self) -> tuple[int, int]:
        """What the layers' inputs take, and their gradients for each output."""
        size, calls = self.out.element_size(), [call.call for call in self.calls]
        inputs = sum(x.numel() for call in calls for x in _tensors((call.args, call.kwargs)))
        return size * inputs, size * sum(x.numel() for call in calls for x in _tensors(call.output))


def check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"got {type(module).__name__} {name!r}" if name else f"got {type(module).__name__}"
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch_norm and module.running_mean is None:
            raise refusal(f"model must not mix samples, {where} without running statistics")
        if batch_norm and module.training:
            raise refusal(f"model must not mix samples, {where} in training mode; call model.eval()")
        dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        dropout |= isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0
        if dropout and module.training:
            raise refusal(f"model must be deterministic, {where} in training mode; call model.eval()")


def selected(model: nn.Module, params: Sequence[str] | None) -> dict[nn.Parameter, str]:
    named = dict(model.named_parameters())
    for name in () if params is None else params:
        if name not in named:
            raise refusal(f"params must name parameters of the model, got {name!r}")
    selected = {p: n for n, p in named.items() if p.requires_grad and (params is None or n in params)}
    if not selected:
        raise refusal("params must hold at least one parameter that requires a gradient, got none")
    return selected


def _owners(
    model: nn.Module, wanted: dict[nn.Parameter, str]
) -> Iterator[tuple[str, nn.Module, dict[str, nn.Parameter]]]:
    """Modules that are watched, with their wanted parameters; some compute with their children's parameters themselves."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        whole = isinstance(module, nn.MultiheadAttention) or is_parametrized(module)
        if whole:
            inside.append(f"{name}." if name else "")
        own = {n: p for n, p in module.named_parameters(recurse=whole) if p in wanted}
        if own:
            yield name, module, own


@contextmanager
def _watched(model: nn.Module, wanted: dict[nn.Parameter, str], samples: int) -> Iterator[list[_Recorded]]:
    """Collect the calls of the layers that hold wanted parameters; no hook is left behind, whatever happens."""
    calls: list[_Recorded] = []
    handles = []

    def hook_of(name: str, own: dict[str, nn.Parameter]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            call = Call(module, args, kwargs, output)
            axis = _sample_axis(module, 0)
            inputs = _tensors((args, kwargs))
            found = inputs[0].shape[axis] if inputs and inputs[0].ndim > axis else None
            if found != samples:
                raise refusal(f"model must keep the samples on the first axis, got {found} of {samples} at {name!r}")
            rule = RULES.get(type(module))
            parts = rule(call) if rule else []
            ruled = set(own.values()) <= {p for part in parts for p in (part.weight, part.bias)}
            if not ruled:
                parts = _by_samples(call, own, samples)
            # The edge, not the tensor: an activation in place would make the tensor stand for its own output.
            edges = [get_gradient_edge(x) if x.requires_grad else None for x in _tensors(output)]
            read = [(x, x._version) for x in inputs]
            calls.append(_Recorded(name, call, parts, edges, read, frozenset(() if ruled else own.values())))

        return hook

    try:
        for name, module, own in _owners(model, wanted):
            # Before the user's hooks: what they make of the output is not the layer's.
            handles.append(module.register_forward_hook(hook_of(name, own), prepend=True, with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _reached(starts: Iterable[Tensor], stops: set[Node]) -> set[Tensor]:
    """Leaves of the graph that a path from some tensors reaches without a node of `stops`."""
    pending: list[Node | None] = [get_gradient_edge(x).node for x in starts if x.requires_grad]
    seen: set[Node] = set()
    found = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen or node in stops:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        pending += [following for following, _ in node.next_functions]
    return found


def _used_elsewhere(out: Tensor, calls: list[_Recorded]) -> set[Tensor]:
    """Leaves that reach the output other than by the layer that was watched for them, as by ``F.linear(x, layer.weight)``."""

    def beyond(some: list[_Recorded]) -> set[Tensor]:
        stops = {edge.node for call in some for edge in call.edges if edge is not None}
        return _reached([out, *(x for call in some for x, _ in call.read)], stops)

    whole = {call.own for call in calls if call.own}
    elsewhere = beyond([call for call in calls if not call.own]) - {p for own in whole for p in own}
    for own in whole:
        elsewhere |= beyond([call for call in calls if call.own == own]) & own
    return elsewhere


def _generator_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def record(model: nn.Module, x: Tensor, outputs: str | int | Tensor, params: Sequence[str] | None) -> Recording:
    """Run the model forward once. The model, its ``.grad`` and its hooks stay as they were."""
    wanted = selected(model, params)
    check(model)
    states = _generator_states(x.device)
    with torch.enable_grad(), _watched(model, wanted, x.shape[0]) as calls:
        out = model(x)
    if not all(map(torch.equal, states, _generator_states(x.device))):
        raise refusal("model must be deterministic, got one that draws random numbers; call model.eval()")
    if not isinstance(out, Tensor) or out.ndim not in (1, 2) or out.shape[0] != x.shape[0]:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise refusal(f"model must return [n, c] for n = {x.shape[0]} samples, got {got}")
    whole = Call(model, (x,), {}, out)
    with torch.enable_grad():
        out = out[:, None] if out.ndim == 1 else out
    if isinstance(outputs, int) and not 0 <= outputs < out.shape[1]:
        raise refusal(f"outputs must be an output below {out.shape[1]}, got {outputs}")
    if isinstance(outputs, Tensor) and (outputs.ndim != 2 or len(outputs) != out.shape[1] or outputs.shape[1] == 0):
        raise refusal(f"outputs must be a projection [{out.shape[1]}, r], got shape {tuple(outputs.shape)}")
    for call in calls:
        if any(tensor._version != version for tensor, version in call.read):
            raise refusal(f"model must not change the input of {call.name!r} in place")
    if not out.requires_grad:
        raise refusal("params must reach the output, got a model whose output does not depend on them")
    found = _used_elsewhere(out, calls)
    elsewhere = {p: name for p, name in wanted.items() if p in found}
    if elsewhere:  # no layer's rule knows all uses: the model as a whole is differentiated by these
        for call in calls:
            call.parts = [
                replace(
                    part,
                    weight=None if part.weight in elsewhere else part.weight,
                    bias=None if part.bias in elsewhere else part.bias,
                )
                for part in call.parts
            ]
        parts = _by_samples(whole, {name: p for p, name in elsewhere.items()}, len(x))
        edge = get_gradient_edge(whole.output)
        calls.append(_Recorded("", whole, parts, [edge], [(x, x._version)], frozenset(elsewhere)))
    if isinstance(outputs, str) and outputs == "sum":
        seeds = torch.ones_like(out)[None]
    else:
        eye = torch.eye(out.shape[1], dtype=out.dtype, device=out.device)
        if isinstance(outputs, Tensor):
            rows = outputs.detach().to(eye).mT
        else:
            rows = eye if isinstance(outputs, str) else eye[outputs : outputs + 1]
        seeds = rows[:, None, :].expand(-1, out.shape[0], -1)
    return Recording(out, calls, wanted, seeds)


# ---- From a recording to factors ----


# Gradients of one output up to which all outputs go through the network as a batch. Of more than fits into a cache they go one by
# one: that took a transformer's backward passes (64 tokens, 32 samples) from 1.88 to 1.00 s.
_BATCHED_BYTES = 8 << 20


def _backward(recording: Recording, seeds: Tensor) -> list[Gradients]:
    """Gradients at every output of every call, ``[seeds, ...]``."""
    edges = [edge for call in recording.calls for edge in call.edges if edge is not None]

    def one(seed: Tensor) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(recording.out, edges, seed, retain_graph=True, allow_unused=True)
        return tuple(torch.empty(0) if g is None else g for g in found)

    def in_turn() -> list[Tensor]:
        together: list[Tensor] = []
        for at, seed in enumerate(seeds):
            each = one(seed)
            together = together or [g.new_empty(len(seeds), *g.shape) for g in each]
            for to, g in zip(together, each, strict=True):
                to[at] = g
        return together

    if len(seeds) == 1:
        found = [g[None] for g in one(seeds[0])]
    elif recording.bytes[1] > _BATCHED_BYTES:
        found = in_turn()
    else:
        try:
            found = list(_quietly(lambda: torch.func.vmap(one)(seeds)))
        except RuntimeError:  # batching rules of backward operations are wrong or missing (PReLU in torch 2.13)
            found = in_turn()
    remaining = iter(found)
    gradients: list[Gradients] = []
    for call in recording.calls:
        each = [None if edge is None else next(remaining) for edge in call.edges]
        gradients.append([None if g is None or g.numel() == 0 else g for g in each])
    return gradients


def _written_out(part: Part, g: Tensor) -> tuple[Part, Tensor]:
    """The same with the gradient itself for ``g``, its entries in the order of the parameter's."""
    if part.a is None:
        return part, g
    if part.equal:
        raise refusal(
            f"model must not share an embedding of more than {_MOST_ONE_HOT} classes with a layer of another type"
        )
    product = torch.einsum("ncto,nti->ncio" if part.turned else "ncto,nti->ncoi", g, part.a())
    if part.taps > 1:
        product = torch.unflatten(product, -1, (part.taps, -1)).mT
    return replace(part, a=None), product.flatten(2).unsqueeze(2)


def factors_of(recording: Recording, outputs: slice = slice(None)) -> Iterator[Factors]:
    """Run the backward pass of some of the seeds; make the factors of all wanted parameters, one at a time."""
    wanted = recording.wanted
    uses: list[tuple[Part, Gradients]] = []
    if recording.held is None or recording.held[0] != outputs:
        recording.held = None  # before the next: two would not fit
        recording.held = outputs, _backward(recording, recording.seeds[outputs])
    for call, gradients in zip(recording.calls, recording.held[1], strict=True):
        if all(g is None for g in gradients):
            continue
        for part in call.parts:
            weight = part.weight if part.weight in wanted else None
            bias = part.bias if part.bias in wanted else None
            if weight is not None:
                uses.append((replace(part, bias=bias), gradients))
            elif bias is not None:
                uses.append((Part(None, bias, None, part.g), gradients))
    if not uses:
        raise refusal("params must reach the output, got a model whose output does not depend on them")

    # A parameter's gradient is summed over its uses. Weight and bias of a layer stay together where they always are.
    partners: dict[nn.Parameter, set[tuple[nn.Parameter | None, nn.Parameter | None]]] = {}
    for part, _ in uses:
        for parameter in (part.weight, part.bias):
            if parameter is not None:
                partners.setdefault(parameter, set()).add((part.weight, part.bias))
    grouped: dict[tuple[nn.Parameter | None, nn.Parameter | None], list[tuple[Part, Gradients]]] = {}
    for part, gradients in uses:
        pieces = [part]
        if part.weight is not None and part.bias is not None and len(partners[part.weight] | partners[part.bias]) > 1:
            pieces = [replace(part, bias=None), Part(None, part.bias, None, part.g)]
        for piece in pieces:
            grouped.setdefault((piece.weight, piece.bias), []).append((piece, gradients))

    for key, group in grouped.items():
        alike = len({(part.a is None, part.turned, part.equal, part.taps) for part, _ in group}) == 1
        pairs = [(part, part.g(gradients)) for part, gradients in group]
        pairs = pairs if alike else [_written_out(part, g) for part, g in pairs]
        inputs = [g.new_empty(g.shape[0], g.shape[2], 0) if part.a is None else part.a() for part, g in pairs]
        inputs = [a.to(g.dtype) for a, (_, g) in zip(inputs, pairs, strict=True)]  # autocast multiplied a in that type
        a, g = (
            (inputs[0], pairs[0][1]) if len(pairs) == 1 else (torch.cat(inputs, 1), torch.cat([g for _, g in pairs], 2))
        )
        name = " + ".join(wanted[p] for p in key if p is not None)
        yield Factors(name, a, g, key[1] is not None or a.shape[2] == 0, equal=pairs[0][0].equal)
