"""The safetensors file format: tensors and a few words about them in one file, which other tools map into memory.

Eight bytes, the length of a JSON header as a little-endian number; the header, which says for each tensor its type, its shape
and where its bytes are; the bytes. ``safetensors.torch.load_file`` reads these files, and `load` reads its own.
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load", "save"]

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write all or nothing: an interruption leaves the file as it was."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, t in plain.items():
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for t in plain.values():
            file.write(t.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and what was said about them.

    Raises:
        ValueError: a file that is not whole, or not of this format.
    """
    data = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        about = header.pop("__metadata__", {})
        values = memoryview(data)[8 + length :]
        return {name: _tensor(values, **entry) for name, entry in header.items()}, about
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{path.name} must be a whole safetensors file, got one of {len(data)} bytes") from error


def _tensor(data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    some = bytearray(data[slice(*data_offsets)])
    flat = torch.frombuffer(some, dtype=_TYPES[dtype]) if some else torch.empty(0, dtype=_TYPES[dtype])
    return flat.view(shape)
