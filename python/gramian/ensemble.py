"""How much of a network's error is variance, and where the variance comes from: training sets or optimisation."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ._progress import progress_bar
from ._warnings import NumericalWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Loss: TypeAlias = Literal["squared", "probability", "cross_entropy", "zero_one"]

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

_accumulate = torch.ops.gramian.ensemble_accumulate_.default
torch.library.register_fake("gramian::ensemble_accumulate_", lambda *_: None)

_CHUNK = 1 << 20  # values of a temporary, where predictions are read in pieces


class Decomposition(NamedTuple):
    """Parts of the mean error of an ensemble, float64, in the unit of the loss.

    ``error = bias2 + variance`` and ``variance = optimisation + sampling``, exact but for rounding where all are defined.

    Attributes:
        error: mean loss over sets, seeds and points.
        bias2: loss of the central prediction: squared bias plus whatever noise the targets have; for ``"cross_entropy"``
            the divergence of the geometric-mean prediction from the target, plus the target's entropy.
        variance: of the predictions, about the central one.
        optimisation: the part from the seed, given the training set.
        sampling: the part from the training set, averaged over seeds.
        main_bias: of ``"zero_one"`` alone, else NaN: share of points where the most frequent prediction is wrong (Domingos).
        main_variance: likewise, share of predictions that differ from the most frequent one.
    """

    error: Tensor
    bias2: Tensor
    variance: Tensor
    optimisation: Tensor
    sampling: Tensor
    main_bias: Tensor
    main_variance: Tensor


# ---- The accumulator ----


def _check_loss(op: str, loss: str) -> None:
    if loss not in get_args(Loss):
        raise ValueError(f"{op}: loss must be one of {', '.join(get_args(Loss))}, got {loss}")


def _check_target(op: str, target: Tensor, loss: str, classes: int | None) -> Tensor:
    """Return the target as ``[n, c]``, one-hot if it was labels."""
    if target.is_floating_point():
        if target.dim() == 1 and loss == "squared":
            return target[:, None]
        if target.dim() != 2 or target.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{op}: target must be labels [n] or float32 or float64 [n, c], "
                f"got {target.dtype} of shape {tuple(target.shape)}"
            )
        return target
    if target.dim() != 1:
        raise ValueError(f"{op}: target must be labels [n] or floats [n, c], got shape {tuple(target.shape)}")
    most = int(target.max()) if len(target) else -1
    if classes is None or most >= classes or (len(target) and int(target.min()) < 0):
        raise ValueError(f"{op}: target must have labels from 0 to below classes = {classes}, got up to {most}")
    return nn.functional.one_hot(target.long(), classes).to(torch.get_default_dtype())


def _transform(predictions: Tensor, loss: str) -> Tensor:
    if loss == "probability":
        return predictions.softmax(-1)
    return predictions.log_softmax(-1) if loss == "cross_entropy" else predictions


def _log_sum(log_probabilities: Tensor) -> Tensor:
    """``-log Z`` of a mean of log-probabilities: what averaging them costs, never negative."""
    return -log_probabilities.logsumexp(-1)


def _cross(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """``-sum y log p``, with ``0 log 0 = 0``."""
    return -torch.where(target == 0, 0, target * log_probabilities).sum(-1)


class _Set:
    """Sums over the models of one training set."""

    def __init__(self, n: int, c: int) -> None:
        self.seeds = 0
        self.sums = torch.zeros(n, c, dtype=torch.float64)
        self.squares = torch.zeros(n, dtype=torch.float64)


# What of a set enters the decomposition, summed over sets: `deviation` [n, c] of the set's mean from the target, the rest [n].
_FOLDED = ("deviation", "norm", "within", "within_unbiased", "within_of_mean", "cost", "cross")


class BiasVariance:
    r"""Decompose the error of an ensemble without keeping its predictions.

    Feed it the predictions of models that were trained on several training sets with several seeds each, in any order and any
    number at a time; accumulators of different processes merge. With :math:`h` a model's prediction, :math:`S` its
    training set, :math:`O` its seed and :math:`y` the target,

    .. math:: E|h - y|^2 = |E h - y|^2 + E_S \mathrm{Var}_O(h|S) + \mathrm{Var}_S(E_O[h|S]),

    bias, optimisation and sampling parts (Neal et al., arXiv:1810.08591, by the law of total variance). For
    ``"cross_entropy"`` means are geometric and distances are Kullback-Leibler divergences; the same identity holds twice.

    Sets that overlap (bootstrap samples of one pool) are not independent: the sampling part is then that of resampling the
    pool, not of drawing a new one. Seeds must be independent between sets, too.

    Memory: 8 (c + 1) bytes a point and set that is not closed; nothing that grows with the number of models. `close` a set
    when its last model is in, and memory does not grow with the number of sets either. Adding a batch of models reads each
    prediction once. Non-finite predictions make their own point's results non-finite, and all means.

    Example:
        >>> target = torch.zeros(1, 1)
        >>> parts = BiasVariance(target)
        >>> for training_set, predictions in enumerate([[1.0, 3.0], [2.0, 6.0]]):
        ...     parts.update(torch.tensor(predictions)[:, None, None], training_set)
        >>> result = parts.result(unbiased=False)
        >>> [float(part) for part in result[:5]]
        [12.5, 9.0, 3.5, 2.5, 1.0]
    """

    def __init__(self, target: Tensor, *, loss: Loss = "squared", classes: int | None = None) -> None:
        """Take the target of every point.

        Args:
            target: ``[n, c]`` float32 or float64, the dtype of the predictions; for ``"squared"`` also ``[n]``. Or labels ``[n]``
                of integers, which stand for their one-hot vectors of ``classes`` entries.
            loss: ``"squared"``: sum over outputs of the squared difference. ``"probability"``: the same of the softmax of the
                predictions (Brier). ``"cross_entropy"``: of the softmax of the predictions, in nats. ``"zero_one"``: of the
                largest prediction, or of predicted labels; its parts are those of Kohavi and Wolpert.
            classes: number of outputs, where the target is labels.

        Raises:
            ValueError: a target that does not fit the loss.
        """
        _check_loss("BiasVariance", loss)
        self.loss, self.target = loss, _check_target("BiasVariance", target, loss, classes).contiguous()
        self._any_dtype = not target.is_floating_point()  # zeros and ones are exact in both
        self._sets: dict[int, _Set] = {}
        self._closed: dict[int, int] = {}  # seeds of each
        self._folded: dict[str, Tensor] = {}

    @property
    def seeds(self) -> dict[int, int]:
        """Number of models of each set."""
        return dict(sorted((self._closed | {key: one.seeds for key, one in self._sets.items()}).items()))

    def update(self, predictions: Tensor, training_set: int) -> None:
        """Add models that were trained on one set.

        Args:
            predictions: ``[m, n, c]`` or of one model ``[n, c]``, dtype of the target; logits where the loss asks for
                probabilities. For ``"zero_one"`` also predicted labels, ``[m, n]`` or ``[n]`` of integers.
            training_set: any integer that names the set.

        Raises:
            ValueError: shape or dtype that does not fit the target, a set that was closed.
        """
        n, c = self.target.shape
        if training_set in self._closed:
            raise ValueError(f"BiasVariance: training_set must not be closed, got {training_set}")
        predicted = self._models(predictions)
        one = self._sets.get(training_set)
        if one is None:
            one = self._sets[training_set] = _Set(n, c)
        one.seeds += len(predicted)
        if self.loss == "zero_one":
            one.sums.scatter_add_(1, predicted.mT, torch.ones((), dtype=torch.float64).expand(n, len(predicted)))
        elif self.loss == "squared":
            _accumulate(predicted, self.target, one.sums, one.squares)
        else:
            keep = self.loss == "probability"
            for part in torch.split(predicted, max(1, _CHUNK // max(1, n * c))):
                moved = _transform(part, self.loss)
                _accumulate(moved, self.target if keep else None, one.sums, one.squares if keep else None)

    def _models(self, predictions: Tensor) -> Tensor:
        n, c = self.target.shape
        labels = self.loss == "zero_one" and not predictions.is_floating_point()
        shape = (n,) if labels else (n, c)
        whole = predictions if predictions.dim() == len(shape) + 1 else predictions[None]
        if whole.shape[1:] != shape or whole.dim() != len(shape) + 1:
            raise ValueError(
                f"BiasVariance: predictions must be [m, {', '.join(map(str, shape))}], got shape {tuple(predictions.shape)}"
            )
        if self.loss == "zero_one":
            predicted = whole if labels else whole.argmax(-1)
            if predicted.numel() and (int(predicted.min()) < 0 or int(predicted.max()) >= c):
                raise ValueError(f"BiasVariance: predictions must be labels below {c}, got {int(predicted.max())}")
            return predicted.long()
        if self._any_dtype and whole.dtype in (torch.float32, torch.float64):
            self.target = self.target.to(whole.dtype)
        if whole.dtype != self.target.dtype:
            raise ValueError(
                f"BiasVariance: predictions must have the dtype of the target ({self.target.dtype}), got {whole.dtype}"
            )
        return whole.detach()

    def close(self, training_set: int) -> None:
        """Fold a set whose last model is in into the sums over sets, and free its memory.

        Raises:
            ValueError: a set that is not open.
        """
        if training_set not in self._sets:
            raise ValueError(f"BiasVariance: training_set must be open, got {training_set}")
        one = self._sets.pop(training_set)
        self._closed[training_set] = one.seeds
        self._folded = self._plus(self._folded, self._fold(one))

    def merge(self, other: BiasVariance) -> None:
        """Add all that another accumulator of the same target and loss has seen.

        Raises:
            ValueError: another loss or target, or a set that one side has closed and the other has, too.
        """
        if self.loss != other.loss or not torch.equal(self.target.double(), other.target.double()):
            raise ValueError(
                f"BiasVariance: other must have the loss {self.loss} and the same target, got {other.loss}"
            )
        twice = sorted((self._closed.keys() & other.seeds.keys()) | (other._closed.keys() & self.seeds.keys()))
        if twice:
            raise ValueError(f"BiasVariance: other must not have a set that either side has closed, got {twice}")
        for key, theirs in other._sets.items():
            one = self._sets.setdefault(key, _Set(*self.target.shape))
            one.seeds += theirs.seeds
            one.sums += theirs.sums
            one.squares += theirs.squares
        self._closed |= other._closed
        self._folded = self._plus(self._folded, other._folded)

    def state_dict(self) -> dict[str, Any]:
        """Return all that was accumulated, for ``torch.save``. Tensors are not copied."""
        sets = {key: (one.seeds, one.sums, one.squares) for key, one in self._sets.items()}
        return {"loss": self.loss, "sets": sets, "closed": dict(self._closed), "folded": dict(self._folded)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace all that was accumulated by what `state_dict` returned.

        Raises:
            ValueError: a state of another loss.
        """
        if state["loss"] != self.loss:
            raise ValueError(f"BiasVariance: state must be of the loss {self.loss}, got {state['loss']}")
        self._sets = {}
        for key, (seeds, sums, squares) in state["sets"].items():
            one = self._sets[key] = _Set(0, 0)
            one.seeds, one.sums, one.squares = seeds, sums.clone(), squares.clone()
        self._closed, self._folded = dict(state["closed"]), dict(state["folded"])

    @staticmethod
    def _plus(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: a[key] + b[key] for key in _FOLDED} if a and b else a or b

    def _fold(self, one: _Set) -> dict[str, Tensor]:
        target, nothing = self.target, torch.zeros_like(one.squares)
        mean = one.sums / one.seeds
        if self.loss == "cross_entropy":
            cost = _log_sum(mean)  # of the seeds' geometric mean: the set's part of the variance of optimisation
            parts = (mean + cost[:, None], nothing, nothing, nothing, nothing, cost, _cross(target, mean))
            return dict(zip(_FOLDED, parts, strict=True))
        # Of votes the squares are the counts, and the whole loss is half the squared one.
        squares = one.squares if self.loss != "zero_one" else nothing + one.seeds
        norm = torch.linalg.vector_norm(mean, dim=1).square()
        within = (squares - one.seeds * norm).clamp_min(0)  # NaN stays
        deviation = mean
        if self.loss == "zero_one":
            deviation = mean - target
            norm = deviation.square().sum(1)
        apart = within / (one.seeds - 1) if one.seeds > 1 else nothing + torch.nan
        parts = (deviation, norm, within / one.seeds, apart, apart / one.seeds, nothing, nothing)
        return dict(zip(_FOLDED, parts, strict=True))

    def result(self, *, unbiased: bool = True, per_point: bool = False) -> Decomposition:
        """Decompose the error of what was seen so far.

        Args:
            unbiased: estimators whose expectation does not depend on the number of sets and seeds. They may be negative, and are
                returned as they are. False: the plain formulas on the empirical distribution (plug-in), which take variance of
                optimisation for variance of sampling, and either for bias. The divergences of ``"cross_entropy"`` and the
                main predictions have no unbiased estimators: those are always plug-in.
            per_point: a value for each point, ``[n]``, rather than their mean.

        Returns:
            Float64. Every set counts the same, and every seed within its set. What the data cannot tell is NaN: with one set,
            the bias, the whole variance and the sampling part; with one seed, the optimisation part and the sampling part (the
            whole variance is still told by several sets).

        Raises:
            ValueError: nothing was added.

        Warns:
            NumericalWarning: a part is NaN for want of sets or seeds.
        """
        seeds = self.seeds
        if not seeds:
            raise ValueError("BiasVariance: result must follow an update, got none")
        folded = self._folded
        for one in self._sets.values():
            folded = self._plus(folded, self._fold(one))
        sets, target = len(seeds), self.target.double()
        nan = torch.full_like(folded["norm"], torch.nan)
        main_bias = main_variance = nan
        if self.loss == "cross_entropy":
            mean = folded["deviation"] / sets
            sampling, optimisation = _log_sum(mean), folded["cost"] / sets
            error, bias = folded["cross"] / sets, _cross(target, mean + sampling[:, None])
            variance = optimisation + sampling
        else:
            norm, between = folded["norm"] / sets, (folded["deviation"] / sets).square().sum(1)
            error, bias = norm + folded["within"] / sets, between
            optimisation, sampling = folded["within"] / sets, norm - between
            if unbiased:
                apart = sampling * sets / (sets - 1) if sets > 1 else nan
                optimisation = folded["within_unbiased"] / sets
                bias, sampling = bias - apart / sets, apart - folded["within_of_mean"] / sets
                # What several sets with one seed each still tell is the whole.
                variance = apart + (folded["within_unbiased"] - folded["within_of_mean"]) / sets
                variance = apart if max(seeds.values()) == 1 else variance
            else:
                variance = optimisation + sampling
            if self.loss == "zero_one":
                error, bias, variance, optimisation, sampling = (
                    part / 2 for part in (error, bias, variance, optimisation, sampling)
                )
                share = folded["deviation"] / sets + target
                # Equal shares are equal but for rounding: 1/3 + 1/3 against 2/3. The lowest label wins.
                main = (share >= share.max(1, keepdim=True).values - 1e-9).byte().argmax(1, keepdim=True)
                main_bias, main_variance = 1 - target.gather(1, main)[:, 0], 1 - share.gather(1, main)[:, 0]
        if sets == 1:
            bias, variance, sampling = nan, nan, nan
        if min(seeds.values()) == 1:
            optimisation, sampling = nan, nan
            if max(seeds.values()) > 1:
                variance, bias = (nan, nan) if unbiased else (variance, bias)
        if sets == 1 or min(seeds.values()) == 1:
            missing = "one training set" if sets == 1 else "one seed"
            warnings.warn(f"BiasVariance: variance of {missing} is not defined, returned as NaN", NumericalWarning, 2)
        parts = Decomposition(error, bias, variance, optimisation, sampling, main_bias, main_variance)
        return parts if per_point else Decomposition(*(part.mean() for part in parts))


def _whole(op: str, predictions: Tensor, target: Tensor, loss: str) -> Tensor:
    """Return predictions as ``[sets, seeds, n, c]``, or as labels ``[sets, seeds, n]``."""
    if predictions.dim() == 3 and loss == "squared":
        predictions = predictions[..., None]
    labels = loss == "zero_one" and not predictions.is_floating_point()
    if predictions.dim() != (3 if labels else 4):
        raise ValueError(
            f"{op}: predictions must be [sets, seeds, n, c], got shape {tuple(predictions.shape)} {predictions.dtype}"
        )
    if predictions.shape[0] == 0 or predictions.shape[1] == 0 or predictions.shape[2] != len(target):
        raise ValueError(
            f"{op}: predictions must have a set, a seed and n = {len(target)} points, got shape {tuple(predictions.shape)}"
        )
    return predictions


def bias_variance(
    predictions: Tensor,
    target: Tensor,
    *,
    loss: Loss = "squared",
    classes: int | None = None,
    unbiased: bool = True,
    per_point: bool = False,
) -> Decomposition:
    r"""Decompose the mean error of an ensemble, :math:`|E h - y|^2 + E_S Var_O(h|S) + Var_S(E_O[h|S])`.

    Args:
        predictions: ``[sets, seeds, n, c]`` float32 or float64, of models trained on each set with several seeds; logits where
            the loss asks for probabilities. For ``"squared"`` also ``[sets, seeds, n]``, for ``"zero_one"`` also labels
            ``[sets, seeds, n]``. May be memory-mapped: one set is read at a time.
        target: ``[n, c]``, or labels ``[n]``: see `BiasVariance`.
        loss: ``"squared"``, ``"probability"``, ``"cross_entropy"`` or ``"zero_one"``: see `BiasVariance`.
        classes: number of classes where the target is labels; by default that of the predictions.
        unbiased: see `BiasVariance.result`.
        per_point: see `BiasVariance.result`.

    Returns:
        The parts, float64 scalars in the unit of the loss, or ``[n]``. With one set or one seed some are NaN.

    Raises:
        ValueError: shapes, dtypes or labels that do not fit.

    Cost:
        Reads the predictions once, about 3 flops each, and 8 (c + 1) bytes a point of memory.

    Accuracy:
        Sums over up to 16 models in the dtype about the first of them, else float64: the error of the variance is relative to
        the variance, also where all predictions lie far from zero. Distance from the target enters the variance by one
        float64 subtraction: predictions r standard deviations away from it lose 2 log10(r) of its 16 digits.

    Not differentiable. The same bits for every number of threads. NaN propagates to its own point, and to the mean.

    References:
        Neal et al., A Modern Take on the Bias-Variance Tradeoff in Neural Networks, arXiv:1810.08591.

    Example:
        >>> bias_variance(torch.tensor([[[1.0], [3.0]], [[2.0], [6.0]]]), torch.zeros(1), unbiased=False).sampling
        tensor(1., dtype=torch.float64)
    """
    _check_loss("bias_variance", loss)
    whole = _whole("bias_variance", predictions, target, loss)
    if classes is None and whole.dim() == 4:
        classes = whole.shape[3]
    parts = BiasVariance(target, loss=loss, classes=classes)
    for index, of_set in enumerate(whole):
        parts.update(of_set, index)
        parts.close(index)
    return parts.result(unbiased=unbiased, per_point=per_point)


# ---- Bootstrap ----


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
    _check_loss("bootstrap", loss)
    if not 0 < level < 1:
        raise ValueError(f"bootstrap: level must be between 0 and 1, got {level}")
    if replicates < 1:
        raise ValueError(f"bootstrap: replicates must be at least 1, got {replicates}")
    if kind not in ("percentile", "basic"):
        raise ValueError(f"bootstrap: kind must be percentile or basic, got {kind}")
    estimate = bias_variance(predictions, target, loss=loss, classes=classes, unbiased=loss != "cross_entropy")
    whole = _whole("bootstrap", predictions, target, loss)
    aim = _check_target("bootstrap", target, loss, classes or (whole.shape[3] if whole.dim() == 4 else None)).double()
    sets, seeds = whole.shape[:2]
    # How often each set is drawn, and what share of each set's draws each seed takes.
    times = _draws(replicates, sets, generator)
    shares = _draws(replicates * sets, seeds, generator).view(replicates, sets, seeds) / seeds
    if loss == "cross_entropy":
        found = _plug_in_replicates(whole, aim, times / sets, shares)
    else:
        found = _pair_replicates(_gram(whole, aim, loss), times, shares) * (0.5 if loss == "zero_one" else 1)
    known = torch.stack(list(estimate[:5]))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(found, ends, dim=1)
    if kind == "basic":
        low, high = 2 * known - high, 2 * known - low
    nan = torch.full((2,), torch.nan, dtype=torch.float64)
    low, high = (torch.cat([torch.where(known.isnan(), torch.nan, end), nan]) for end in (low, high))
    return Intervals(estimate, Decomposition(*low.unbind()), Decomposition(*high.unbind()))


def _draws(rows: int, count: int, generator: torch.Generator | None) -> Tensor:
    """How often each of `count` things comes up in as many draws, ``[rows, count]`` float64."""
    drawn = torch.randint(count, (rows, count), generator=generator)
    return torch.zeros(rows, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones((), dtype=torch.float64).expand_as(drawn)
    )


def _gram(whole: Tensor, target: Tensor, loss: str) -> Tensor:
    """Inner products of the models' deviations from the target, mean over points, ``[sets, seeds, sets, seeds]``."""
    sets, seeds, n = whole.shape[:3]
    gram = torch.zeros(sets * seeds, sets * seeds, dtype=torch.float64)
    step = max(1, _CHUNK // (sets * seeds * target.shape[1]))
    for begin in range(0, n, step):
        part = whole[:, :, begin : begin + step]
        if loss == "zero_one":
            labels = part.argmax(-1) if part.dim() == 4 else part.long()
            part = nn.functional.one_hot(labels, target.shape[1])
        deviations = (_transform(part.double(), loss) - target[begin : begin + step]).flatten(2).flatten(0, 1)
        gram.addmm_(deviations, deviations.mT)
    return (gram / n).view(sets, seeds, sets, seeds)


def _pair_replicates(gram: Tensor, times: Tensor, shares: Tensor) -> Tensor:
    """Error, bias, variance, optimisation and sampling of each replicate, ``[5, replicates]``."""
    sets, seeds = gram.shape[:2]
    errors = gram.view(sets * seeds, -1).diagonal().view(sets, seeds)
    apart = (errors[:, :, None, None] + errors - 2 * gram) / 2
    found = []
    for drawn, share in zip(
        *(torch.split(t, max(1, _CHUNK // (sets * seeds * sets))) for t in (times, shares)), strict=True
    ):
        error = ((share * errors).sum(2) * drawn).sum(1) / sets
        half = torch.einsum("rsi,sitj->rstj", share, apart)
        means = torch.einsum("rstj,rtj->rst", half, share)
        pairs = drawn[:, :, None] * drawn[:, None] * (1 - torch.eye(sets, dtype=torch.float64))
        variance = (means * pairs).sum((1, 2)) / pairs.sum((1, 2))  # 0 / 0 where one set was drawn every time
        distinct = 1 - share.square().sum(2)
        told = drawn * (distinct > 1e-9)  # sets that drew two seeds or more
        within = means.diagonal(dim1=1, dim2=2) / distinct.clamp_min(1e-9)
        optimisation = (within * told).sum(1) / told.sum(1)
        found.append(torch.stack([error, error - variance, variance, optimisation, variance - optimisation]))
    return torch.cat(found, 1)


def _plug_in_replicates(whole: Tensor, target: Tensor, times: Tensor, shares: Tensor) -> Tensor:
    sets, _, n, c = whole.shape
    total = torch.zeros(5, len(times), dtype=torch.float64)
    step = max(1, _CHUNK // (sets * c * len(times)))
    for begin in range(0, n, step):
        logs = whole[:, :, begin : begin + step].double().log_softmax(-1)
        aim = target[begin : begin + step]
        means = torch.einsum("rsi,sinc->rsnc", shares, logs)
        cost, error = _log_sum(means), (_cross(aim, means) * times[:, :, None]).sum((1, 2))
        sampling = _log_sum(((means + cost[..., None]) * times[:, :, None, None]).sum(1)).sum(1)
        optimisation = (cost * times[:, :, None]).sum((1, 2))
        variance = optimisation + sampling
        total += torch.stack([error, error - variance, variance, optimisation, sampling])
    return total / n


# ---- Training an ensemble ----


class Trained(NamedTuple):
    """Models of one training set that were trained together.

    Attributes:
        training_set: row of ``sets`` that they were trained on.
        first_seed: the first of them; the others follow.
        predictions: ``[m, n, c]`` at the points, without gradient.
        losses: ``[m]`` of the last step.
    """

    training_set: int
    first_seed: int
    predictions: Tensor
    losses: Tensor


def draw_sets(
    n: int,
    sets: int,
    size: int,
    *,
    how: Literal["bootstrap", "subset", "split"] = "bootstrap",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw training sets :math:`S_1, S_2, \dots` from a pool of samples.

    Args:
        n: number of samples of the pool.
        sets: number of training sets.
        size: number of samples of each.
        how: ``"bootstrap"`` draws with replacement. ``"subset"`` draws each set without replacement. ``"split"`` draws disjoint
            sets: the only ones that are independent.
        generator: of the draws; torch's own by default.

    Returns:
        Row numbers of the pool, ``[sets, size]`` int64.

    Raises:
        ValueError: more samples than the pool has, for ``"subset"`` and ``"split"``; sizes below 1.

    Cost:
        A permutation of the pool for each set.

    Accuracy:
        Exact.

    Not differentiable; repeats with the generator.

    References:
        arXiv:1810.08591 (bootstrap replicates of the training set).

    Example:
        >>> draw_sets(6, 2, 3, how="split").flatten().sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    if min(n, sets, size) < 1:
        raise ValueError(f"draw_sets: n, sets and size must be at least 1, got {n}, {sets} and {size}")
    if how not in ("bootstrap", "subset", "split"):
        raise ValueError(f"draw_sets: how must be bootstrap, subset or split, got {how}")
    if how == "bootstrap":
        return torch.randint(n, (sets, size), generator=generator)
    wanted = size if how == "subset" else sets * size
    if wanted > n:
        raise ValueError(f"draw_sets: size must be at most {n // (wanted // size)} for {n} samples, got {size}")
    if how == "split":
        return torch.randperm(n, generator=generator)[:wanted].view(sets, size)
    return torch.stack([torch.randperm(n, generator=generator)[:size] for _ in range(sets)])


def train(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    sets: Tensor,
    points: Tensor,
    *,
    seeds: int,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    batch: int | None = None,
    together: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    save_every: int = 500,
    shown: bool = False,
) -> Iterator[Trained]:
    r"""Train a network on each of several training sets :math:`S` with each of several seeds :math:`O`.

    The models of a set are trained together, as one network with stacked parameters (``torch.func.stack_module_state`` and
    ``vmap``), which spares most of the calls of small networks; a model that vmap cannot batch is called one by one. With a
    folder, finished models and the state of unfinished ones are kept there: called again with the same arguments after an
    interruption, training goes on where it stopped, to the same numbers.

    Args:
        make: returns a new model of one tensor ``[n, c]``; called with torch's generator seeded, another seed for each model.
        x: ``[samples, ...]`` pool of inputs.
        y: ``[samples, ...]`` targets, labels or floats.
        sets: ``[s, size]`` int64 rows of the pool for each training set, as from `draw_sets`.
        points: ``[n, ...]`` inputs at which the trained models predict.
        seeds: number of models of each set.
        steps: of the optimizer.
        loss: of a batch's outputs and targets, a scalar; by default cross-entropy for labels and mean squared error for floats.
        optimizer: makes one for a list of parameters, elementwise in them as SGD, Adam and AdamW are; by default SGD with rate
            0.1 and momentum 0.9.
        batch: samples of a step, each model in an order of its own; by default the whole set.
        together: models to train at once, by default all seeds of a set.
        seed: of the whole run.
        folder: where to keep the run.
        save_every: steps between copies of the state in the folder. An exception, Ctrl-C too, keeps the state as it was after
            the last step; only a killed process falls back to the last copy.
        shown: a progress bar.

    Returns:
        An iterator of groups of trained models, in the order of sets and seeds. It trains as it is read.

    Raises:
        ValueError: sizes that do not fit; a folder that holds a run of other arguments.

    Cost:
        The training. Memory: ``together`` models with their optimizer and activations.

    Accuracy:
        The models' own. A group of models rounds differently from each model alone.

    Repeats with ``seed``; leaves torch's generator as it was.

    References:
        arXiv:1810.08591.

    Example:
        >>> x = torch.linspace(-1, 1, 8)[:, None]
        >>> sets = draw_sets(8, sets=3, size=4)
        >>> parts = BiasVariance(x.sin())
        >>> for group in train(lambda: nn.Linear(1, 1), x, x.sin(), sets, x, seeds=2, steps=5):
        ...     parts.update(group.predictions, group.training_set)
        >>> parts.seeds
        {0: 2, 1: 2, 2: 2}
    """
    if sets.dim() != 2 or sets.dtype != torch.int64 or sets.numel() == 0:
        raise ValueError(f"train: sets must be [s, size] int64, got shape {tuple(sets.shape)} {sets.dtype}")
    if int(sets.min()) < 0 or int(sets.max()) >= len(x) or len(y) != len(x):
        raise ValueError(f"train: sets must name rows of x [{len(x)}] and y [{len(y)}], got up to {int(sets.max())}")
    together = seeds if together is None else together
    for name, number in {"seeds": seeds, "steps": steps, "together": together, "save_every": save_every}.items():
        if number < 1:
            raise ValueError(f"train: {name} must be at least 1, got {number}")
    if batch is not None and not 1 <= batch <= sets.shape[1]:
        raise ValueError(f"train: batch must be from 1 to the size of a set, {sets.shape[1]}, got {batch}")
    if loss is None:
        loss = nn.functional.mse_loss if y.is_floating_point() else nn.functional.cross_entropy
    if optimizer is None:
        optimizer = _sgd
    run = _Run(make, x, y, points, steps, loss, optimizer, batch, save_every, None if folder is None else Path(folder))
    if run.folder is not None:
        _claim(run.folder, run, sets, {"seeds": seeds, "together": together, "seed": seed})
    groups = [(s, first) for s in range(len(sets)) for first in range(0, seeds, together)]
    return _groups(run, groups, sets, seeds, together, seed, shown)


def _sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


class _Run(NamedTuple):
    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    points: Tensor
    steps: int
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    batch: int | None
    save_every: int
    folder: Path | None


def _digest(t: Tensor) -> str:
    return hashlib.sha256(t.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _claim(folder: Path, run: _Run, sets: Tensor, numbers: dict[str, int]) -> None:
    """Write what the run is into its folder, or compare with what is there."""
    with torch.random.fork_rng(devices=[]):
        model = run.make()
    trial = run.optimizer([torch.zeros(1, requires_grad=True)])
    tensors = {"x": run.x, "y": run.y, "points": run.points, "sets": sets}
    plain = {key: value for key, value in trial.defaults.items() if isinstance(value, (int, float, tuple, type(None)))}
    asked = {
        **{name: _digest(t.flatten() if t.dim() == 0 else t) for name, t in tensors.items()},
        **numbers,
        "steps": run.steps,
        "batch": run.batch,
        "loss": getattr(run.loss, "__name__", type(run.loss).__name__),
        "optimizer": [type(trial).__name__, {key: repr(value) for key, value in sorted(plain.items())}],
        "make": [str(model), [[name, list(p.shape)] for name, p in model.named_parameters()]],
    }
    manifest = folder / "run.json"
    if manifest.exists():
        kept = json.loads(manifest.read_text(encoding="utf-8"))
        other = [key for key, value in asked.items() if kept.get(key) != value]
        if other:
            raise ValueError(f"train: folder must hold a run of the same arguments, got another {', '.join(other)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = manifest.with_suffix(".partial")
    partial.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    partial.replace(manifest)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write all or nothing: an interruption leaves the file as it was."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _groups(
    run: _Run, groups: list[tuple[int, int]], sets: Tensor, seeds: int, together: int, seed: int, shown: bool
) -> Iterator[Trained]:
    for training_set, first in progress_bar(groups, "ensemble", shown=shown):
        count = min(together, seeds - first)
        path = None if run.folder is None else run.folder / f"set{training_set}-seed{first}.pt"
        if path is not None and path.exists():
            done = torch.load(path, weights_only=True)
        else:
            begin = seed + training_set * seeds + first
            with torch.random.fork_rng(devices=[]):
                done = _fit(run, sets[training_set], range(begin, begin + count), path)
            if path is not None:
                _save(path, done)
                path.with_suffix(".state").unlink(missing_ok=True)
        yield Trained(training_set, first, done["predictions"], done["losses"])


class _Stack:
    """Models as one: parameters ``[m, ...]``, called by vmap where the model allows it."""

    def __init__(self, models: list[nn.Module], loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> None:
        """Stack the models; a batch of x and y tries whether vmap can call them."""
        self.model, self.loss = models[0], loss
        self.params, self.buffers = torch.func.stack_module_state(models)
        self.batched = len(models) > 1
        if self.batched:
            kept = {name: buffer.clone() for name, buffer in self.buffers.items()}
            try:
                with torch.no_grad():
                    self.losses(*(t.expand(len(models), *t.shape) for t in (x, y)))
            except (RuntimeError, ValueError, NotImplementedError):
                self.batched = False
            self.buffers = kept

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``[m, b, c]`` of inputs ``[m, b, ...]``."""

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(self.model, (params, buffers), (x,))
            return result

        if self.batched:
            result: Tensor = torch.func.vmap(one, randomness="different")(self.params, self.buffers, x)
            return result
        picked = [[{name: t[i] for name, t in ts.items()} for ts in (self.params, self.buffers)] for i in range(len(x))]
        return torch.stack([one(params, buffers, x[i]) for i, (params, buffers) in enumerate(picked)])

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of each model on its own batch, ``[m]``."""
        if self.batched:
            result: Tensor = torch.func.vmap(self.loss, randomness="different")(self(x), y)
            return result
        return torch.stack([self.loss(out, aim) for out, aim in zip(self(x), y, strict=True)])


def _fit(run: _Run, rows: Tensor, seeds: range, path: Path | None) -> dict[str, Any]:
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(run.make())
    x, y, m = run.x[rows], run.y[rows], len(models)
    stack = _Stack(models, run.loss, x[: run.batch], y[: run.batch])
    parameters = [p.detach().requires_grad_() for p in stack.params.values()]
    stack.params = dict(zip(stack.params, parameters, strict=True))
    optimizer = run.optimizer(parameters)
    losses, step = torch.zeros(m), 0
    order = torch.empty(m, 0, dtype=torch.int64)  # samples that are still to come in this epoch
    resume = None if path is None else path.with_suffix(".state")
    if resume is not None and resume.exists():
        state = torch.load(resume, weights_only=True)
        with torch.no_grad():
            for parameter, kept in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(kept)
        optimizer.load_state_dict(state["optimizer"])
        stack.buffers, losses, step, order = state["buffers"], state["losses"], state["step"], state["order"]
        torch.set_rng_state(state["rng"])

    def keep() -> None:
        if resume is not None:
            state = {"parameters": [p.detach() for p in parameters], "optimizer": optimizer.state_dict()}
            now = {"buffers": stack.buffers, "losses": losses, "step": step, "order": order}
            _save(resume, state | now | {"rng": rng})

    consistent, rng, before = True, torch.get_rng_state(), order
    whole = (x.expand(m, *x.shape), y.expand(m, *y.shape))
    buffers = {name: t.clone() for name, t in stack.buffers.items()}
    try:
        while step < run.steps:
            if run.batch is None:
                inputs, targets = whole
            else:
                if order.shape[1] < run.batch:
                    order = torch.stack([torch.randperm(len(rows)) for _ in range(m)])
                picked, left = order[:, : run.batch], order[:, run.batch :]
                inputs, targets = x[picked], y[picked]
            now = stack.losses(inputs, targets)
            optimizer.zero_grad()
            now.sum().backward()  # type: ignore[no-untyped-call]  # a model's gradient is that of its own loss
            consistent = False
            optimizer.step()
            losses, step, rng = now.detach(), step + 1, torch.get_rng_state()
            if run.batch is not None:
                order = left
            before, buffers = order, {name: t.clone() for name, t in stack.buffers.items()}
            consistent = True
            if step % run.save_every == 0:
                keep()
    except BaseException:
        if consistent and step > 0:  # else the last copy stands
            order, stack.buffers = before, buffers
            keep()
        raise
    stack.model.eval()
    with torch.no_grad():
        pieces = [stack(part.expand(m, *part.shape)) for part in torch.split(run.points, max(1, _CHUNK // (64 * m)))]
    return {"predictions": torch.cat(pieces, 1), "losses": losses}
