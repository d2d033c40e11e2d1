"""Fake kernels: what an op returns of tensors that have no values, for ``torch.compile``, ``torch.export`` and ``meta``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["register"]

Kernel = TypeVar("Kernel", bound="Callable[..., Any]")


def register(op: str) -> Callable[[Kernel], Kernel]:
    """Registers the function that follows as the fake kernel of ``gramian::op``.

    torch also calls it for a mixture of tensors with and without values, where it would return memory that nobody has written:
    a mixture is refused.
    """

    def decorate(kernel: Kernel) -> Kernel:
        def checked(*args: Any, **kwargs: Any) -> Any:
            devices = {str(t.device) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            if len(devices) > 1:
                raise ValueError(f"{op}: tensors must be on one device, got {' and '.join(sorted(devices))}")
            return kernel(*args, **kwargs)

        torch.library.register_fake(f"gramian::{op}", checked)
        return kernel

    return decorate
