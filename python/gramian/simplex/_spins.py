"""Arguments of all functions of spins: ints and tensors, doubled, that broadcast."""

from __future__ import annotations

import torch
from torch import Tensor


def together(op: str, named: dict[str, Tensor | int]) -> tuple[Tensor, ...]:
    """Broadcast int64 tensors, or refuse."""
    given = {name: torch.as_tensor(value) for name, value in named.items()}
    for name, value in given.items():
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{op}: {name} must be doubled spins of an integer dtype, got {kind}")
    return tuple(torch.broadcast_tensors(*(value.long() for value in given.values())))  # type: ignore[no-untyped-call]


def stacked(op: str, named: dict[str, Tensor | int]) -> tuple[Tensor, torch.Size]:
    """Return them as one ``[k, n]`` tensor, and the shape that ``n`` stands for."""
    if all(type(value) is int for value in named.values()):
        return torch.tensor([[value] for value in named.values()]), torch.Size()  # a tenth of the general way
    spins = together(op, named)
    return torch.stack(spins).reshape(len(spins), -1), spins[0].shape
