"""Mutual information: critics of all pairs, bounds, the neural estimator, and estimates from nearest neighbours."""

from ._critic import PairwiseCritic, SeparableCritic, pairwise_scores, separable_scores
from ._infonce import infonce_separable

__all__ = ["PairwiseCritic", "SeparableCritic", "infonce_separable", "pairwise_scores", "separable_scores"]
