"""Gradients of ops: the one place that knows torch's autograd internals.

``torch.library.register_autograd`` breaks ``torch.func.grad`` and ``jacrev`` and gives silently zero forward-mode tangents;
a wrapper ``torch.autograd.Function`` with a ``jvp`` makes ``torch.compile(fullgraph=True)`` refuse. Registering a
single-level Function at the Autograd key, as below, does all of it: reverse and forward mode, both nested in any order,
``vmap`` over them, ``compile`` and ``export``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._functorch.autograd_function import (  # type: ignore[attr-defined]
    enable_single_level_autograd_function as _allow_single_level,
)
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

__all__ = ["register"]

_library = torch.library.Library("gramian", "FRAGMENT")  # type: ignore[no-untyped-call]


def _needs_grad(args: tuple[Any, ...]) -> bool:
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)


class _Primals:
    """A context whose saved tensors have lost their tangents of the level that is being differentiated."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.saved_tensors = tuple(
            forward_ad.unpack_dual(t).primal if isinstance(t, torch.Tensor) else t  # type: ignore[no-untyped-call]
            for t in ctx.saved_tensors
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def register(
    op: OpOverload,
    *,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
    jvp: Callable[..., Any],
) -> None:
    """Register the derivative of ``op``, an op of this library without keyword-only arguments.

    Args:
        op: the overload, e.g. ``torch.ops.gramian.neighbors_knn.default``.
        setup_context: ``(ctx, inputs, output)``; saves with both ``save_for_backward`` and ``save_for_forward``, and marks
            outputs such as indices with ``mark_non_differentiable``.
        backward: ``(ctx, *output_gradients)``, one gradient (or None) for each argument; made of differentiable ops.
        jvp: ``(ctx, *input_tangents)``, one tangent for each output.
    """

    def below(keys: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keys & torch._C._after_autograd_keyset, *args)

    def forward(*args_and_keys: Any) -> Any:
        *args, keys = args_and_keys
        # A Function runs with gradients off; the outer levels of nested torch.func transforms still have theirs to record.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below(keys, *args)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs[:-1], output)

    def backward_with_keys(ctx: Any, *gradients: Any) -> Any:
        result = backward(ctx, *gradients)
        return (*result, None) if isinstance(result, tuple) else (result, None)

    def jvp_with_keys(ctx: Any, *tangents: Any) -> Any:
        # Forward mode is off here too, and on again for the outer levels: with this level's own tangents taken away.
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(_Primals(ctx), *tangents[:-1])

    function = type(
        op._opname,
        (torch.autograd.function._SingleLevelFunction,),
        {
            "forward": staticmethod(forward),
            "setup_context": staticmethod(setup),
            "backward": staticmethod(backward_with_keys),
            "jvp": staticmethod(jvp_with_keys),
        },
    )

    defaults = tuple(argument.default_value for argument in op._schema.arguments)

    def kernel(keys: Any, *args: Any) -> Any:
        args = (*args, *defaults[len(args) :])  # the dispatcher drops trailing defaults
        if not _needs_grad(args):
            return below(keys, *args)
        with _allow_single_level():
            return function.apply(*args, keys)  # type: ignore[attr-defined]

    _library.impl(op._opname, kernel, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]
