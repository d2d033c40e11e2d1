"""What a report is about: models and data, from objects, import paths and files."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable


class Whole(nn.Module):
    """A TorchScript module as one layer: it takes no hooks, and nothing inside it does."""

    def __init__(self, scripted: nn.Module) -> None:
        super().__init__()
        self.scripted = scripted

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scripted(x)
        return out


def load_model(name: str) -> nn.Module:
    """Return the model that ``package.module:factory`` makes (or is), or that a TorchScript or exported file (.pt2) holds.

    A model is code: only load what you trust.
    """
    if name.endswith(".pt2"):
        exported = torch.export.load(name).module()
        for method in ("train", "eval"):  # an exported graph has no modes, and refuses to be asked
            exported.__dict__.pop(method, None)
        return exported
    module, colon, attribute = name.partition(":")
    if Path(name).is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return cast("nn.Module", torch.jit.load(name, map_location="cpu"))  # type: ignore[no-untyped-call]
    if not colon:
        raise ValueError(f"report: model must be package.module:factory or a file, got {name}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"report: model must be importable, got {name}: {error}") from error
    finally:
        sys.path.pop(0)
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise ValueError(  # noqa: TRY004  # what was named is wrong, not what was passed
            f"report: model must be or make a torch.nn.Module, got {type(model).__name__} from {name}"
        )
    return model


def load_data(name: str) -> Any:
    """Return samples, or (samples, labels), of a .pt, .npy or .npz file. Nothing in the file is run."""
    import numpy as np

    suffix = Path(name).suffix
    if not Path(name).is_file():
        raise ValueError(f"report: data must be a file, got {name}")
    if suffix == ".npy":
        return np.load(name, allow_pickle=False)
    if suffix == ".npz":
        with np.load(name, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    elif suffix in {".pt", ".pth"}:
        loaded = torch.load(name, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict):
            return loaded
        arrays = loaded
    else:
        raise ValueError(f"report: data must be a .pt, .npy or .npz file, got {name}")
    x = next((arrays[key] for key in ("x", "data", "images", "inputs") if key in arrays), None)
    if x is None:
        raise ValueError(f"report: data must have an entry x (and may have y), got {', '.join(arrays) or 'none'}")
    y = next((arrays[key] for key in ("y", "labels", "targets") if key in arrays), None)
    return x if y is None else (x, y)


def collect(data: Any, samples: int) -> tuple[Tensor, Tensor | None]:
    """The first samples, and labels if there are any, of a tensor, an array, a pair of those, or batches."""
    is_array = isinstance(data, Tensor) or hasattr(data, "__array__")
    pair = isinstance(data, tuple | list) and len(data) in (1, 2)
    if is_array or (pair and all(isinstance(part, Tensor) or hasattr(part, "__array__") for part in data)):
        batches: Iterable[Any] = [data]
    else:
        batches = data
    parts: list[list[Tensor]] = [[], []]
    for batch in batches:
        for kept, part in zip(parts, batch if isinstance(batch, tuple | list) else (batch,), strict=False):
            kept.append(torch.as_tensor(part)[:samples])
        if sum(map(len, parts[0])) >= samples:
            break
    if not parts[0] or parts[0][0].ndim == 0 or sum(map(len, parts[0])) < 3:
        raise ValueError("report: data must have at least 3 samples")
    x = torch.cat(parts[0])[:samples]
    y = torch.cat(parts[1])[:samples] if parts[1] else None
    return x, y if y is not None and len(y) == len(x) else None
