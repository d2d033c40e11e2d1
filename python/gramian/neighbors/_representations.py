"""What the layers of a model make of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gramian._progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Representations(NamedTuple):
    """What layers made of a data set: ``[n, d]`` by name of the layer, and the targets if the batches had any."""

    layers: dict[str, Tensor]
    targets: Tensor | None


def representations(
    model: nn.Module, data: Iterable[Any], layers: Sequence[str] = ("",), *, pool: bool = False, progress: bool = False
) -> Representations:
    r"""Run a model over batches and keep what its layers give.

    The model runs in eval mode without gradients, and is left as it was, also after an exception.

    Args:
        model: any module.
        data: batches, for example a ``DataLoader`` that does not shuffle: tensors, or tuples whose first entry goes to the
            model; a second one, if it is a tensor, is kept as the targets.
        layers: names as in ``model.named_modules()``; ``""`` is the model's own output.
        pool: average over all axes after the second (positions of an image) instead of flattening them.
        progress: show a bar over the batches (with tqdm installed).

    Returns:
        ``Representations(layers, targets)``: ``[n, d]`` of each layer in the order of ``data``, on the device and in the dtype
        of the layer; ``targets`` ``[n, ...]`` or None.

    Raises:
        ValueError: an unknown layer, one that gives no tensor or runs more or less often than once a batch, no batches.

    Cost:
        A forward pass; memory what is returned.

    Accuracy:
        The model's own.

    Not differentiable.

    References:
        Representations are judged without labels in arXiv:2206.01251.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> found = representations(model, torch.randn(10, 3).split(4), ["1", ""])
        >>> {name: tuple(rows.shape) for name, rows in found.layers.items()}
        {'1': (10, 5), '': (10, 2)}
    """
    op = "representations"
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(f"{op}: layers must name modules of the model ({', '.join(modules)}), got {name}")
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}
    targets: list[Tensor] = []

    def keep(name: str, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise ValueError(f"{op}: layers must give tensors [n, ...], got {type(output).__name__} from {name!r}")
        kept[name].append(output.flatten(2).mean(2) if pool and output.ndim > 2 else output.flatten(1))

    hooks = [
        modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name in layers
    ]
    training = {module: module.training for module in model.modules()}
    batches = 0
    try:
        model.eval()
        with torch.no_grad():
            for batch in progress_bar(data, op, shown=progress):
                inputs, *rest = batch if isinstance(batch, tuple | list) else (batch,)
                model(inputs)
                batches += 1
                if rest and isinstance(rest[0], Tensor):
                    targets.append(rest[0])
                for name, parts in kept.items():
                    if len(parts) != batches:
                        raise ValueError(f"{op}: layers must run once a batch, got {name!r} in other numbers")
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    if batches == 0:
        raise ValueError(f"{op}: data must have batches, got none")
    return Representations(
        {name: torch.cat(parts) for name, parts in kept.items()},
        torch.cat(targets) if targets else None,
    )
