"""The two factors of every layer's weight gradient, for a whole batch and all outputs at once.

A layer whose weight gradient is a sum of outer products, ``J[n, c] = sum_t g[n, c, t] a[n, t]ᵀ``, is described by its
inputs ``a`` and by the gradients ``g`` of the outputs at the layer's output. `RULES` holds one rule per layer type.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["RULES", "Factors", "Part", "layer_factors"]


@dataclass(frozen=True)
class Part:
    """What a rule says about one call of a layer: ``J[n, c] = sum_t g[n, c, t] (a[n, t], 1)ᵀ`` for some parameters.

    Attributes:
        weight: the parameter that multiplies ``a``, or None.
        bias: the parameter that multiplies the constant 1, or None.
        a: ``[n, t, d_in]``.
        gradients: turns the gradient at the layer's output, ``[c, n, ...]``, into ``g [n, c, t, d_out]``.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    a: Tensor
    gradients: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Factors:
    """The factors of all uses of the same parameters: positions of different uses stand one after the other.

    That makes the gradient of a parameter that is used twice the sum of its uses, cross terms and all.
    """

    name: str
    a: Tensor  # [n, t, d_in]
    g: Tensor  # [n, c, t, d_out]
    bias: bool


def _linear(module: nn.Linear, inputs: tuple[Tensor, ...]) -> list[Part]:
    x = inputs[0].detach()
    return [
        Part(
            cast("nn.Parameter", module.weight),
            cast("nn.Parameter | None", module.bias),
            x.reshape(x.shape[0], -1, x.shape[-1]),
            lambda g: g.reshape(*g.shape[:2], -1, g.shape[-1]).movedim(0, 1),
        )
    ]


RULES: dict[type[nn.Module], Callable[[Any, tuple[Tensor, ...]], list[Part]]] = {nn.Linear: _linear}


@dataclass
class _Call:
    name: str
    parts: list[Part]
    edge: GradientEdge
    read: tuple[Tensor, int]  # the input and its version: a later change in place would falsify `a`


def _refuse(text: str) -> ValueError:
    return ValueError(f"empirical_ntk: {text}")


def _check_layers(model: nn.Module, wanted: dict[nn.Parameter, str]) -> None:
    for name, module in model.named_modules():
        where = f"got {type(module).__name__} {name!r}" if name else f"got {type(module).__name__}"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise _refuse(f"model must not mix samples, {where} in training mode; call model.eval()")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise _refuse(f"model must be deterministic, {where} in training mode; call model.eval()")
        if type(module) not in RULES and any(p in wanted for p in module.parameters(recurse=False)):
            known = ", ".join(rule.__name__ for rule in RULES)
            raise _refuse(f"model must hold its parameters in layers of type {known}, {where}")


def _selected(model: nn.Module, params: Sequence[str] | None) -> dict[nn.Parameter, str]:
    named = dict(model.named_parameters())
    for name in () if params is None else params:
        if name not in named:
            raise _refuse(f"params must name parameters of the model, got {name!r}")
    selected = {p: n for n, p in named.items() if p.requires_grad and (params is None or n in params)}
    if not selected:
        raise _refuse("params must hold at least one parameter that requires a gradient, got none")
    return selected


@contextmanager
def _recorded(model: nn.Module, wanted: dict[nn.Parameter, str], samples: int) -> Iterator[list[_Call]]:
    """Collect the calls of the layers that hold wanted parameters; no hook is left behind, whatever happens."""
    calls: list[_Call] = []
    handles = []

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs[0].shape[0] != samples:
                raise _refuse(
                    f"model must keep the samples on the first axis, got {inputs[0].shape[0]} of {samples} at {name!r}"
                )
            parts = [
                Part(
                    part.weight if part.weight in wanted else None,
                    part.bias if part.bias in wanted else None,
                    part.a,
                    part.gradients,
                )
                for part in RULES[type(module)](module, inputs)
            ]
            # The edge, not the tensor: an activation in place would make the tensor stand for its own output.
            calls.append(_Call(name, parts, get_gradient_edge(output), (inputs[0], inputs[0]._version)))

        return hook

    try:
        for name, module in model.named_modules():
            if any(p in wanted for p in module.parameters(recurse=False)):
                handles.append(module.register_forward_hook(hook_of(name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _seeds(out: Tensor, outputs: str | int) -> Tensor:
    """Return what is differentiated: ``[c, n, C]``, one cotangent of the model's output for each row."""
    if outputs == "sum":
        return torch.ones_like(out)[None]
    eye = torch.eye(out.shape[1], dtype=out.dtype, device=out.device)
    rows = eye if isinstance(outputs, str) else eye[outputs : outputs + 1]
    return rows[:, None, :].expand(-1, out.shape[0], -1)


def _gather(calls: list[_Call], grads: Sequence[Tensor | None], wanted: dict[nn.Parameter, str]) -> list[Factors]:
    used = [(part, grad) for call, grad in zip(calls, grads, strict=True) if grad is not None for part in call.parts]
    partners: dict[nn.Parameter, set[tuple[nn.Parameter | None, nn.Parameter | None]]] = {}
    for part, _ in used:
        for parameter in (part.weight, part.bias):
            if parameter is not None:
                partners.setdefault(parameter, set()).add((part.weight, part.bias))

    uses: dict[tuple[nn.Parameter | None, nn.Parameter | None], list[tuple[Tensor, Tensor]]] = {}
    for part, grad in used:
        pairs = [(part.weight, part.bias)]
        # A parameter with more than one partner stands alone, so that all its uses come together.
        if any(p is not None and len(partners[p]) > 1 for p in pairs[0]):
            pairs = [(part.weight, None), (None, part.bias)]
        for weight, bias in pairs:
            if weight is not None or bias is not None:
                a = part.a if weight is not None else part.a[..., :0]
                uses.setdefault((weight, bias), []).append((a, part.gradients(grad)))

    factors = []
    for (weight, bias), pairs_of in uses.items():
        names = [wanted[p] for p in (weight, bias) if p is not None]
        a, g = pairs_of[0]
        if len(pairs_of) > 1:
            a, g = torch.cat([a for a, _ in pairs_of], 1), torch.cat([g for _, g in pairs_of], 2)
        factors.append(Factors(" + ".join(names), a, g, bias is not None))
    return factors


def layer_factors(model: nn.Module, x: Tensor, outputs: str | int, params: Sequence[str] | None) -> list[Factors]:
    """Run the model once and its backward pass once for all outputs; return the factors of every layer.

    The outputs go through the backward pass as one batch. The model, its ``.grad`` and its hooks stay as they were.
    """
    wanted = _selected(model, params)
    _check_layers(model, wanted)
    with torch.enable_grad(), _recorded(model, wanted, x.shape[0]) as calls:
        out = model(x)
        if not isinstance(out, Tensor) or out.ndim not in (1, 2) or out.shape[0] != x.shape[0]:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise _refuse(f"model must return [n, c] for n = {x.shape[0]} samples, got {got}")
        if out.ndim == 1:
            out = out[:, None]
        if not isinstance(outputs, str) and not 0 <= outputs < out.shape[1]:
            raise _refuse(f"outputs must be an output below {out.shape[1]}, got {outputs}")
        for call in calls:
            if call.read[0]._version != call.read[1]:
                raise _refuse(f"model must not change the input of {call.name!r} in place")
        seeds = _seeds(out, outputs)
        edges = [call.edge for call in calls]
        if not edges or not out.requires_grad:
            raise _refuse("params must reach the output, got a model whose output does not depend on them")
        if seeds.shape[0] == 1:
            grads = torch.autograd.grad(out, edges, seeds[0], allow_unused=True)
            batched: list[Tensor | None] = [None if g is None else g[None] for g in grads]
        else:
            batched = list(torch.autograd.grad(out, edges, seeds, allow_unused=True, is_grads_batched=True))
    factors = _gather(calls, batched, wanted)
    if not factors:
        raise _refuse("params must reach the output, got a model whose output does not depend on them")
    return factors
