"""Mutual information: critics of all pairs, bounds, the neural estimator, and estimates from nearest neighbours."""

from ._bounds import EmaDonskerVaradhan, bound, log_mean_exp, log_mean_exp_ema, pair_bound
from ._critic import PairwiseCritic, SeparableCritic, pairwise_scores, separable_scores
from ._infonce import infonce_separable
from ._ksg import ksg
from ._mine import MINE, Estimate, adaptive_clip_, derangement

__all__ = [  # noqa: RUF022  sorted as sorted() does
    "EmaDonskerVaradhan",
    "Estimate",
    "MINE",
    "PairwiseCritic",
    "SeparableCritic",
    "adaptive_clip_",
    "bound",
    "derangement",
    "infonce_separable",
    "ksg",
    "log_mean_exp",
    "log_mean_exp_ema",
    "pair_bound",
    "pairwise_scores",
    "separable_scores",
]
