"""Mutual information: critics of all pairs, bounds, the neural estimator, and estimates from nearest neighbours."""

from ._critic import PairwiseCritic, SeparableCritic, pairwise_scores, separable_scores

__all__ = ["PairwiseCritic", "SeparableCritic", "pairwise_scores", "separable_scores"]
