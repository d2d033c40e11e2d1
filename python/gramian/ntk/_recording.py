"""One forward pass with its layers' inputs, and from it the factors of every layer's parameter gradient.

For a whole batch of samples and all outputs at once; what a layer's factors are stands in `_rules.py`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ._by_samples import by_samples, quietly
from ._rules import MOST_ONE_HOT, RULES, Call, Gradients, Part, refusal, sample_axis, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch.autograd.graph import Node

__all__ = ["Factors", "Recording", "check", "factors_of", "record", "selected"]


@dataclass(frozen=True)
class Factors:
    """All uses of some parameters: positions of different uses stand one after the other.

    That makes the gradient of a parameter that is used twice the sum of its uses, cross terms and all.
    """

    name: str
    a: Tensor  # [n, t, d_in], or images that patches are read from (see `Part.a`)
    pieces: list[Tensor]  # of some outputs each, as the backward passes gave them: [n, c, t, d_out]
    bias: bool
    equal: bool = False

    @property
    def g(self) -> Tensor:
        """``[n, c, t, d_out]`` of all outputs."""
        return self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces, 1)

    @property
    def flat(self) -> Tensor:
        """``a`` as ``[n, t, d_in]``, written out."""
        return _flat(self.a)

    @property
    def d_in(self) -> int:
        """Features of ``a``, counting 1 more for a bias."""
        return self.a.shape[2 if self.a.ndim == 3 else 3 :].numel() + self.bias

    @property
    def bytes(self) -> int:
        inputs = self.a.untyped_storage().nbytes() if self.a.ndim == 5 else self.a.numel() * self.a.element_size()
        return inputs + sum(piece.numel() * piece.element_size() for piece in self.pieces)


def _flat(a: Tensor) -> Tensor:
    return a.flatten(3).flatten(1, 2) if a.ndim == 5 else a


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
    held: tuple[slice, list[list[Gradients]]] | None = None  # of the last backward pass

    @cached_property
    def bytes(self) -> tuple[int, int]:
        """What the layers' inputs take, and their gradients for each output."""
        size, calls = self.out.element_size(), [call.call for call in self.calls]
        inputs = sum(x.numel() for call in self.calls for x, _ in call.read)
        return size * inputs, size * sum(x.numel() for call in calls for x in tensors_in(call.output))


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
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        # is_parametrized, without asking the module for an attribute that most have not: torch makes an error's text of it
        whole = isinstance(module, nn.MultiheadAttention) or "parametrizations" in module._modules
        if whole:
            inside += (f"{name}." if name else "",)
        held = module.named_parameters() if whole else module._parameters.items()
        own = {n: p for n, p in held if p in wanted}
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
            axis = sample_axis(module, 0)
            inputs = tensors_in(args) + (tensors_in(kwargs) if kwargs else [])
            found = inputs[0].shape[axis] if inputs and inputs[0].ndim > axis else None
            if found != samples:
                raise refusal(f"model must keep the samples on the first axis, got {found} of {samples} at {name!r}")
            rule = RULES.get(type(module))
            parts = rule(call) if rule else []
            ruled = set(own.values()) <= {p for part in parts for p in (part.weight, part.bias)}
            if not ruled:
                parts = by_samples(call, own, samples)
            # The edge, not the tensor: an activation in place would make the tensor stand for its own output.
            edges = [get_gradient_edge(x) if x.requires_grad else None for x in tensors_in(output)]
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
        parts = by_samples(whole, {name: p for p, name in elsewhere.items()}, len(x))
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


# Gradients of one output up to which all outputs go through the network as a batch. Of more than fits into a cache they go one by
# one: that took a transformer's backward passes (64 tokens, 32 samples) from 1.88 to 1.00 s.
_BATCHED_BYTES = 8 << 20


def _backward(recording: Recording, seeds: Tensor, *, apart: bool) -> list[list[Gradients]]:
    """Gradients at every output of every call, ``[seeds, ...]``; with ``apart`` they may come in pieces of some seeds each."""
    edges = [edge for call in recording.calls for edge in call.edges if edge is not None]

    def run(seed: Tensor, *, batched: bool = False) -> Gradients:
        return list(
            torch.autograd.grad(
                recording.out, edges, seed, retain_graph=True, allow_unused=True, is_grads_batched=batched
            )
        )

    def in_turn() -> list[Gradients]:
        if apart or len(seeds) == 1:
            return [[None if g is None else g[None] for g in run(seed)] for seed in seeds]
        together: Gradients = []
        for at, seed in enumerate(seeds):
            each = run(seed)
            together = together or [None if g is None else g.new_empty(len(seeds), *g.shape) for g in each]
            for to, g in zip(together, each, strict=True):
                if to is not None and g is not None:
                    to[at] = g
        return [together]

    if len(seeds) == 1 or recording.bytes[1] > _BATCHED_BYTES:
        found = in_turn()
    else:
        try:
            found = [quietly(lambda: run(seeds, batched=True))]
        except RuntimeError:  # batching rules of backward operations are wrong or missing (PReLU in torch 2.13)
            found = in_turn()

    def by_call(piece: Gradients) -> list[Gradients]:
        remaining = iter([None if g is None or g.numel() == 0 else g for g in piece])
        return [[None if edge is None else next(remaining) for edge in call.edges] for call in recording.calls]

    return [by_call(piece) for piece in found]


def _written_out(part: Part, pieces: list[Tensor]) -> tuple[Part, list[Tensor]]:
    """The same with the gradient itself for ``g``, its entries in the order of the parameter's."""
    if part.a is None:
        return part, pieces
    if part.equal:
        raise refusal(
            f"model must not share an embedding of more than {MOST_ONE_HOT} classes with a layer of another type"
        )
    sums = "ncto,nti->ncio" if part.turned else "ncto,nti->ncoi"
    products = [torch.einsum(sums, g, _flat(part.a())) for g in pieces]
    if part.taps > 1:
        products = [torch.unflatten(product, -1, (part.taps, -1)).mT for product in products]
    return replace(part, a=None), [product.flatten(2).unsqueeze(2) for product in products]


def factors_of(recording: Recording, outputs: slice = slice(None), *, apart: bool = False) -> Iterator[Factors]:
    """Run the backward pass of some of the seeds; make the factors of all wanted parameters, one at a time.

    With ``apart`` the gradients of outputs that went through the network in turn stay apart: putting them together takes
    as long as a quarter of a transformer's backward pass.
    """
    wanted = recording.wanted
    uses: list[tuple[Part, list[Gradients]]] = []
    if recording.held is None or recording.held[0] != outputs:
        recording.held = None  # before the next: two would not fit
        recording.held = outputs, _backward(recording, recording.seeds[outputs], apart=apart)
    for call, each in zip(recording.calls, zip(*recording.held[1], strict=True), strict=True):
        gradients: list[Gradients] = list(each)
        if all(g is None for g in gradients[0]):
            continue
        for part in call.parts:
            weight = part.weight if part.weight in wanted else None
            bias = part.bias if part.bias in wanted else None
            if weight is not None:
                uses.append((part if bias is part.bias else replace(part, bias=bias), gradients))
            elif bias is not None:
                uses.append((Part(None, bias, None, part.g), gradients))
    if not uses:
        raise refusal("params must reach the output, got a model whose output does not depend on them")

    # A parameter's gradient is summed over its uses. Weight and bias of a layer stay together where they always are.
    pairs = {(part.weight, part.bias) for part, _ in uses}
    partners = Counter(p for pair in pairs for p in pair if p is not None)
    grouped: dict[tuple[nn.Parameter | None, nn.Parameter | None], list[tuple[Part, list[Gradients]]]] = {}
    for part, gradients in uses:
        pieces = [part]
        if part.weight is not None and part.bias is not None and max(partners[part.weight], partners[part.bias]) > 1:
            pieces = [replace(part, bias=None), Part(None, part.bias, None, part.g)]
        for piece in pieces:
            grouped.setdefault((piece.weight, piece.bias), []).append((piece, gradients))

    for key, group in grouped.items():
        name = " + ".join(wanted[p] for p in key if p is not None)
        alike = len({(part.a is None, part.turned, part.equal, part.taps) for part, _ in group}) == 1
        uses_of = [(part, [part.g(piece) for piece in gradients]) for part, gradients in group]
        if not alike:
            uses_of = [_written_out(part, g) for part, g in uses_of]
        inputs = [_input_of(part, g[0]) for part, g in uses_of]
        if len(group) == 1:
            a, g = inputs[0], uses_of[0][1]
        else:
            a = torch.cat([_flat(a) for a in inputs], 1)
            g = [torch.cat(pieces, 2) for pieces in zip(*(g for _, g in uses_of), strict=True)]
        yield Factors(name, a, g, key[1] is not None or a.shape[-1] == 0, equal=uses_of[0][0].equal)


def _input_of(part: Part, g: Tensor) -> Tensor:
    if part.a is None:
        return g.new_empty(g.shape[0], g.shape[2], 0)
    return part.a().to(g.dtype)  # autocast multiplied it in that type
