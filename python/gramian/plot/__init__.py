"""Figures of results, for print and for the colour-blind: `pip install 'gramian[plot]'`.

Each function draws into ``axes``, or into a figure of its own, and returns the axes. Lines differ in dash and marker as well as in
colour; maps of values have one hue of rising darkness, maps of signed values two.
"""

from ._estimates import decomposition, estimate, symbols
from ._functions import frequencies, lipschitz, pieces, regions, spectrum
from ._kernels import alignment, eigenvalues, kernel, progress
from ._representations import clid, clusters, dimension, distances, learning_curve

__all__ = [
    "alignment",
    "clid",
    "clusters",
    "decomposition",
    "dimension",
    "distances",
    "eigenvalues",
    "estimate",
    "frequencies",
    "kernel",
    "learning_curve",
    "lipschitz",
    "pieces",
    "progress",
    "regions",
    "spectrum",
    "symbols",
]
