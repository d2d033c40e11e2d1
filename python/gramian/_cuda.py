"""Loads the CUDA kernels where they can run, and says why not where they cannot."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from . import _C


def load() -> str:
    """Load the CUDA library; return ``"ready"``, or the reason why CUDA tensors have no kernels here."""
    library = Path(_C.__file__).parent / "_ops_cuda.so"
    if not library.is_file():
        return "this build has no CUDA kernels"
    if os.environ.get("GRAMIAN_NO_CUDA"):
        return "GRAMIAN_NO_CUDA is set"
    if torch.version.cuda is None:
        return "this torch has no CUDA"
    if torch.cuda.device_count() == 0:  # by NVML: unlike is_available() it leaves the process free to fork
        return "no CUDA device"
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        return f"the CUDA library does not load: {error}"
    driver, needed = loaded.gramian_cuda_driver(), loaded.gramian_cuda_runtime()
    if driver // 1000 < needed // 1000:
        return f"the driver is for CUDA {_version(driver)}, the kernels need {_version(needed)}"
    loaded.gramian_ask_tf32(_ask_tf32)
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    return "ready"


@ctypes.CFUNCTYPE(ctypes.c_int)  # type: ignore[untyped-decorator]
def _ask_tf32() -> int:
    """What the kernels call where they may round products of float32; torch's stable ABI does not show the setting."""
    return int(torch.backends.cuda.matmul.fp32_precision == "tf32")


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


status = load()
