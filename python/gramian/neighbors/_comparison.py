"""CLID against accuracies: weights that fit them, and how well a score orders them."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from gramian._warnings import NumericalWarning


def clid_weights(learnability: Tensor, dimension: Tensor, target: Tensor) -> tuple[float, float]:
    r"""Weights of `clid` that fit known accuracies best: least squares with an intercept.

    Args:
        learnability: ``[m]``.
        dimension: ``[m]``.
        target: ``[m]``, for example the accuracies of linear probes.

    Returns:
        The two weights of the standardised terms.

    Raises:
        ValueError: different shapes, or fewer than three representations.

    Cost:
        A least-squares problem of ``m`` rows.

    Accuracy:
        float64, by QR; the smallest solution where the terms do not determine the weights.

    Not differentiable.

    References:
        The weighted variant (W-CLID) of Lu et al., arXiv:2206.01251.

    Example:
        >>> cl, dim = torch.tensor([0.1, 0.5, 0.4]), torch.tensor([9.0, 2.0, 6.0])
        >>> weights = clid_weights(cl, dim, 3 * cl)
        >>> round(weights[1], 6)
        0.0
    """
    if not learnability.shape == dimension.shape == target.shape or target.ndim != 1 or len(target) < 3:
        shapes = [tuple(t.shape) for t in (learnability, dimension, target)]
        raise ValueError(f"clid_weights: learnability, dimension and target must be [m] with m >= 3, got {shapes}")
    terms = [standardize(learnability.double(), "learnability"), standardize(dimension.double(), "dimension")]
    goal = target.double() - target.double().mean()
    first, second = torch.linalg.lstsq(torch.stack(terms, 1), goal[:, None], driver="gelsd").solution[:, 0].tolist()
    return first, second


def standardize(values: Tensor, name: str) -> Tensor:
    known = values[values.isfinite()]
    spread = known.std(correction=0) if len(known) else values.new_zeros(())
    if len(known) < len(values) or not spread > 0:
        warnings.warn(f"clid: {name} is undefined or equal for some, {values.tolist()}", NumericalWarning, stacklevel=3)
    return (values - known.mean()) / spread if spread > 0 else torch.where(values.isfinite(), 0.0, torch.nan)


class Correlations(NamedTuple):
    """How well a score orders accuracies: linear, of ranks, and of pairs."""

    pearson: float
    spearman: float
    kendall: float


def correlations(score: Tensor, accuracy: Tensor) -> Correlations:
    r"""Pearson's, Spearman's and Kendall's (tau-b) correlation of a score with accuracies.

    Args:
        score: ``[m]``.
        accuracy: ``[m]``.

    Returns:
        ``Correlations(pearson, spearman, kendall)``, each from -1 to 1; NaN where one side is constant.

    Raises:
        ValueError: shapes that differ, or fewer than two values.

    Cost:
        ``m^2`` comparisons.

    Accuracy:
        float64. Equal values share their mean rank.

    Not differentiable.

    References:
        Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945.

    Example:
        >>> correlations(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.1, 0.2, 0.3])).kendall
        1.0
    """
    if score.shape != accuracy.shape or score.ndim != 1 or len(score) < 2:
        raise ValueError(
            f"correlations: score and accuracy must be [m] with m >= 2, got {tuple(score.shape)}, {tuple(accuracy.shape)}"
        )
    a, b = score.double(), accuracy.double()
    signs = [(v[:, None] - v).sign() for v in (a, b)]
    ranks = [sign.sum(1) for sign in signs]  # rank differences from the middle, times two: equal values share theirs
    return Correlations(_cosine(a - a.mean(), b - b.mean()), _cosine(*ranks), _cosine(*(s.flatten() for s in signs)))


def _cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.square().sum() * b.square().sum()).sqrt()).item()
