"""How much of a network's error is variance, and where the variance comes from: training sets or optimisation."""

from ._bootstrap import Intervals, bootstrap
from ._decomposition import BiasVariance, Decomposition, bias_variance
from ._training import Trained, draw_sets, train

__all__ = [
    "BiasVariance",
    "Decomposition",
    "Intervals",
    "Trained",
    "bias_variance",
    "bootstrap",
    "draw_sets",
    "train",
]
