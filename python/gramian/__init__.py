"""The geometry of learned functions, at hardware speed: compiled ops for PyTorch."""

import torch  # noqa: F401  (loads the library that the ops link against)

from . import _C, neighbors

__version__: str = _C.build_info()["version"]
__all__ = ["__version__", "neighbors"]
