"""The geometry of learned functions, at hardware speed: compiled ops for PyTorch."""

import gc

try:
    import torch  # loads the library that the ops link against
except ImportError as error:
    raise ImportError("gramian needs torch 2.10 or newer: pip install torch") from error
if torch.__version__ < "2.10":
    raise ImportError(f"gramian needs torch 2.10 or newer, this is {torch.__version__}: pip install -U torch")
try:
    from . import _C
except ImportError as error:
    raise ImportError(f"gramian's compiled part does not load, build it again with `make install`: {error}") from error

# Torch leaves so many objects that one collection of them would be more than half of this import.
_collects = gc.isenabled()
gc.disable()
try:
    from . import _cuda as _cuda  # loads the CUDA kernels
    from . import (
        adversarial,
        attention,
        distributed,
        dynamics,
        engine,
        ensemble,
        information,
        neighbors,
        ntk,
        plot,
        simplex,
        spectra,
    )
    from ._report import report
    from ._warnings import NumericalWarning
finally:
    if _collects:
        gc.enable()

__version__: str = _C.build_info()["version"]
__all__ = [
    "NumericalWarning",
    "__version__",
    "adversarial",
    "attention",
    "distributed",
    "dynamics",
    "engine",
    "ensemble",
    "information",
    "neighbors",
    "ntk",
    "plot",
    "report",
    "simplex",
    "spectra",
]
