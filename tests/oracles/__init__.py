"""Every op of the library: how to draw arguments for it, and how far a result may be from the plain reference.

``OPS[name].draw(Draw(seed))`` gives arguments of ``torch.ops.gramian.<name>``; ``OPS[name].ratio(args, result)`` is the largest
error over the op's bound, at most 1 for a right answer. References are in NumPy's widest float.
"""

from tests.oracles import attention, engine, ensemble, information, neighbors, ntk, simplex, spectra
from tests.oracles.registry import OPS, Draw, Op

__all__ = [
    "OPS",
    "Draw",
    "Op",
    "attention",
    "engine",
    "ensemble",
    "information",
    "neighbors",
    "ntk",
    "simplex",
    "spectra",
]
