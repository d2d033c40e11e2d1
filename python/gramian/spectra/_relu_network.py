"""A piecewise linear network as a graph of affine maps and kinks, run on any subdivision of its input."""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.fx
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHUNK", "Network", "Subdivision", "check_end", "check_frequencies"]

CHUNK = 1 << 18  # pieces or edges times frequencies at once: temporaries of 2 MB stay in cache

_AFFINE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
)
_FIXED_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", "view", "size", "contiguous", getattr}
_SUMS = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.isub,
    torch.add,
    torch.sub,
    operator.neg,
    torch.neg,
    "add",
    "sub",
}
_PRODUCTS = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, "mul", "div"}


class Subdivision(Protocol):
    """The points at which a network is known, between which it is linear as far as it was run."""

    def split(self, z: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Add the points where a unit of ``z`` crosses zero; return how other values grow by them, and ``z`` grown."""

    def activate(self, z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply an activation to the grown ``z``."""


class Network:
    """A module as torch.fx sees it, in float64: what is affine runs as it is, a kink first splits the domain.

    `split.split(z)` may lengthen the batch; it returns what lengthens all other values likewise, and the new `z`, on
    which `split.activate(z, activation)` is then linear in every part.
    """

    def __init__(self, op: str, model: nn.Module) -> None:
        self.op = op
        try:
            self.graph = torch.fx.symbolic_trace(nn.Sequential(copy.deepcopy(model).double()))
        except Exception as error:
            raise ValueError(
                f"{op}: model must be a graph that torch.fx can trace, got {type(model).__name__}: {error}"
            ) from error
        self.modules = dict(self.graph.named_modules())
        self.last_use: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in self.graph.graph.nodes:
            for used in node.all_input_nodes:
                self.last_use[used] = node
            self.kink(node)  # refuses before any work

    def refuse(self, what: str) -> None:
        raise ValueError(
            f"{self.op}: model must be piecewise linear (ReLU, LeakyReLU, PReLU or abs between affine layers), got {what}"
        )

    def kink(self, node: torch.fx.Node) -> Callable[[Tensor], Tensor] | None:
        """The activation of a node, None if it is affine; refuses what is neither."""
        target: Any = node.target
        if node.op == "call_module":
            module = self.modules[target]
            if isinstance(module, nn.ReLU):
                return torch.relu
            if isinstance(module, (nn.LeakyReLU, nn.PReLU)):
                return copy.copy(module)
            if isinstance(module, _FIXED_MODULES) and module.training:
                self.refuse(f"{type(module).__name__} {target!r} in training mode")
            if not isinstance(module, _AFFINE_MODULES + _FIXED_MODULES):
                self.refuse(f"{type(module).__name__} {target!r}")
            return None
        if node.op in ("call_function", "call_method"):
            if target in (torch.relu, nn.functional.relu, "relu", "relu_"):
                return torch.relu
            if target in (torch.abs, operator.abs, abs, "abs"):
                return torch.abs
            if target is nn.functional.leaky_relu:
                slope: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
                return lambda z: nn.functional.leaky_relu(z, slope)
            if target in _PRODUCTS and sum(self.varies(a) for a in node.args) > 1:
                self.refuse(f"a product, {node.name!r}")
            if target in (operator.truediv, torch.div, "div") and any(self.varies(a) for a in node.args[1:]):
                self.refuse(f"a quotient, {node.name!r}")
            if target not in _SHAPES | _SUMS | _PRODUCTS:
                self.refuse(getattr(target, "__name__", str(target)))
        return None

    def varies(self, node: Any) -> bool:
        """Whether a node depends on the input."""
        if not isinstance(node, torch.fx.Node) or node.op == "get_attr":
            return False
        return node.op == "placeholder" or any(self.varies(used) for used in node.all_input_nodes)

    @torch.no_grad()
    def run(self, x: Tensor, split: Subdivision) -> Tensor:
        """Return the output for the batch that `x` has grown to."""
        env: dict[torch.fx.Node, Any] = {}
        target: Any
        for node in self.graph.graph.nodes:
            if node.op == "output":
                result: Tensor = env[node.args[0]]
                return result
            activation, target = self.kink(node), node.target
            if node.op == "placeholder":
                env[node] = x
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(self.graph)
            elif activation is not None:
                (source, *_) = node.all_input_nodes
                spread, z = split.split(env[source])
                for other, value in env.items():
                    if isinstance(value, Tensor) and other is not source and other.op != "get_attr":
                        env[other] = spread(value)
                env[source], env[node] = z, split.activate(z, activation)
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
                if node.op == "call_module":
                    env[node] = self.modules[str(node.target)](*args, **kwargs)
                elif node.op == "call_function":
                    env[node] = target(*args, **kwargs)
                else:
                    env[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            for used in node.all_input_nodes:
                if self.last_use[used] is node:
                    del env[used]
        raise RuntimeError("gramian bug: a graph without output")


def check_end(op: str, name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"{op}: {name} must be floating point, got {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{op}: {name} must be finite, got NaN or infinity")
    return x.detach().double()


def check_frequencies(op: str, frequencies: Tensor, dim: int) -> Tensor:
    if frequencies.dim() != dim or frequencies.is_complex() or (dim == 2 and frequencies.shape[1] != 2):
        wanted = "[k]" if dim == 1 else "[k, 2]"
        raise ValueError(f"{op}: frequencies must be real {wanted}, got shape {tuple(frequencies.shape)}")
    return frequencies.detach().double()
