"""Bootstrap intervals of a decomposition, from inner products of the models' errors."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ._decomposition import (
    CHUNK,
    Decomposition,
    Loss,
    bias_variance,
    check_loss,
    check_target,
    cross,
    log_sum,
    transform,
    whole_of,
)

__all__ = ["Intervals", "bootstrap"]


class Intervals(NamedTuple):
    """A decomposition and its bootstrap interval; the main-prediction parts have none (NaN).

    Attributes:
        estimate: of all models.
        low: lower end of each part's interval.
        high: upper end.
    """

    estimate: Decomposition
    low: Decomposition
    high: Decomposition


def bootstrap(
    predictions: Tensor,
    target: Tensor,
    *,
    loss: Loss = "squared",
    classes: int | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    kind: Literal["percentile", "basic"] = "percentile",
    generator: torch.Generator | None = None,
) -> Intervals:
    r"""Give bootstrap intervals of a decomposition: training sets are drawn again, and seeds within each.

    The parts are quadratic in the predictions, so a replicate needs only the inner products of all models' deviations from
    the target: one Gram matrix, read once from the predictions. Variances of a replicate are means over pairs of distinct models
    (:math:`|h - h'|^2 / 2` within a set, and between sets), so that a model drawn twice does not pass for two equal ones.
    ``"cross_entropy"`` is not quadratic: its replicates are plug-in, from the log-probabilities themselves.

    Args:
        predictions: as for `bias_variance`.
        target: as for `bias_variance`.
        loss: as for `bias_variance`.
        classes: as for `bias_variance`.
        replicates: number of draws.
        level: coverage asked for, between 0 and 1.
        kind: ``"percentile"``, or ``"basic"``, its reflection about the estimate.
        generator: of the draws; torch's own by default.

    Returns:
        The estimate (unbiased; plug-in for ``"cross_entropy"``) and both ends, float64. Parts that are NaN stay NaN.

    Raises:
        ValueError: what `bias_variance` refuses, a level or number of replicates out of range.

    Cost:
        ``2 M² n c`` flops in float64 for ``M`` models, then ``2 M²`` a replicate; memory ``M²``. For ``"cross_entropy"``
        ``2 M n c`` a replicate.

    Accuracy:
        Float64. The ends are quantiles of random draws: they repeat with the generator.

    Not differentiable. The intervals speak of other sets and seeds, not of other test points.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, for both kinds of interval.

    Example:
        >>> found = bootstrap(torch.randn(8, 6, 50, 1), torch.zeros(50, 1), replicates=200)
        >>> bool(found.low.variance < found.estimate.variance < found.high.variance)
        True
    """
    check_loss("bootstrap", loss)
    if not 0 < level < 1:
        raise ValueError(f"bootstrap: level must be between 0 and 1, got {level}")
    if replicates < 1:
        raise ValueError(f"bootstrap: replicates must be at least 1, got {replicates}")
    if kind not in ("percentile", "basic"):
        raise ValueError(f"bootstrap: kind must be percentile or basic, got {kind}")
    estimate = bias_variance(predictions, target, loss=loss, classes=classes, unbiased=loss != "cross_entropy")
    whole = whole_of("bootstrap", predictions, target, loss)
    aim = check_target("bootstrap", target, loss, classes or (whole.shape[3] if whole.dim() == 4 else None)).double()
    sets, seeds = whole.shape[:2]
    # How often each set is drawn, and what share of each set's draws each seed takes.
    times = _draws(replicates, sets, generator)
    shares = _draws(replicates * sets, seeds, generator).view(replicates, sets, seeds) / seeds
    if loss == "cross_entropy":
        found = _plug_in_replicates(whole, aim, times / sets, shares)
    else:
        found = _pair_replicates(_gram(whole, aim, loss), times, shares) * (0.5 if loss == "zero_one" else 1)
    known = torch.stack(list(estimate[:5]))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
    low, high = torch.nanquantile(found, ends, dim=1)
    if kind == "basic":
        low, high = 2 * known - high, 2 * known - low
    nan = torch.full((2,), torch.nan, dtype=torch.float64, device="cpu")
    low, high = (torch.cat([torch.where(known.isnan(), torch.nan, end), nan]) for end in (low, high))
    return Intervals(estimate, Decomposition(*low.unbind()), Decomposition(*high.unbind()))


def _draws(rows: int, count: int, generator: torch.Generator | None) -> Tensor:
    """How often each of `count` things comes up in as many draws, ``[rows, count]`` float64."""
    drawn = torch.randint(count, (rows, count), generator=generator, device="cpu")
    return torch.zeros(rows, count, dtype=torch.float64, device="cpu").scatter_add_(
        1, drawn, torch.ones((), dtype=torch.float64, device="cpu").expand_as(drawn)
    )


def _gram(whole: Tensor, target: Tensor, loss: str) -> Tensor:
    """Inner products of the models' deviations from the target, mean over points, ``[sets, seeds, sets, seeds]``."""
    sets, seeds, n = whole.shape[:3]
    gram = torch.zeros(sets * seeds, sets * seeds, dtype=torch.float64, device="cpu")
    step = max(1, CHUNK // (sets * seeds * target.shape[1]))
    for begin in range(0, n, step):
        part = whole[:, :, begin : begin + step]
        if loss == "zero_one":
            labels = part.argmax(-1) if part.dim() == 4 else part.long()
            part = nn.functional.one_hot(labels, target.shape[1])
        deviations = (transform(part.double(), loss) - target[begin : begin + step]).flatten(2).flatten(0, 1)
        gram.addmm_(deviations, deviations.mT)
    return (gram / n).view(sets, seeds, sets, seeds)


def _pair_replicates(gram: Tensor, times: Tensor, shares: Tensor) -> Tensor:
    """Error, bias, variance, optimisation and sampling of each replicate, ``[5, replicates]``."""
    sets, seeds = gram.shape[:2]
    errors = gram.view(sets * seeds, -1).diagonal().view(sets, seeds)
    apart = (errors[:, :, None, None] + errors - 2 * gram) / 2
    found = []
    for drawn, share in zip(
        *(torch.split(t, max(1, CHUNK // (sets * seeds * sets))) for t in (times, shares)), strict=True
    ):
        error = ((share * errors).sum(2) * drawn).sum(1) / sets
        half = torch.einsum("rsi,sitj->rstj", share, apart)
        means = torch.einsum("rstj,rtj->rst", half, share)
        pairs = drawn[:, :, None] * drawn[:, None] * (1 - torch.eye(sets, dtype=torch.float64, device="cpu"))
        variance = (means * pairs).sum((1, 2)) / pairs.sum((1, 2))  # 0 / 0 where one set was drawn every time
        distinct = 1 - share.square().sum(2)
        told = drawn * (distinct > 1e-9)  # sets that drew two seeds or more
        within = means.diagonal(dim1=1, dim2=2) / distinct.clamp_min(1e-9)
        optimisation = (within * told).sum(1) / told.sum(1)
        found.append(torch.stack([error, error - variance, variance, optimisation, variance - optimisation]))
    return torch.cat(found, 1)


def _plug_in_replicates(whole: Tensor, target: Tensor, times: Tensor, shares: Tensor) -> Tensor:
    sets, _, n, c = whole.shape
    total = torch.zeros(5, len(times), dtype=torch.float64, device="cpu")
    step = max(1, CHUNK // (sets * c * len(times)))
    for begin in range(0, n, step):
        logs = whole[:, :, begin : begin + step].double().log_softmax(-1)
        aim = target[begin : begin + step]
        means = torch.einsum("rsi,sinc->rsnc", shares, logs)
        cost, error = log_sum(means), (cross(aim, means) * times[:, :, None]).sum((1, 2))
        sampling = log_sum(((means + cost[..., None]) * times[:, :, None, None]).sum(1)).sum(1)
        optimisation = (cost * times[:, :, None]).sum((1, 2))
        variance = optimisation + sampling
        total += torch.stack([error, error - variance, variance, optimisation, sampling])
    return total / n
