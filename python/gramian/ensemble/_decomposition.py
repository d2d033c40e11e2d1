"""The decomposition of an ensemble's error, and the accumulator that finds it without keeping predictions."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from gramian import _fake
from gramian._warnings import NumericalWarning

Loss: TypeAlias = Literal["squared", "probability", "cross_entropy", "zero_one"]

__all__ = [
    "CHUNK",
    "BiasVariance",
    "Decomposition",
    "Loss",
    "bias_variance",
    "check_loss",
    "check_target",
    "cross",
    "log_sum",
    "transform",
    "whole_of",
]

CHUNK = 1 << 20  # values of a temporary, where predictions are read in pieces
FEW = 1 << 14  # values of sets that are folded together: below, a call costs more than what it computes

_accumulate = torch.ops.gramian.ensemble_accumulate_.default
_fake.register("ensemble_accumulate_")(lambda *_: None)


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


def check_loss(op: str, loss: str) -> None:
    if loss not in get_args(Loss):
        raise ValueError(f"{op}: loss must be one of {', '.join(get_args(Loss))}, got {loss}")


def check_target(op: str, target: Tensor, loss: str, classes: int | None) -> Tensor:
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


def transform(predictions: Tensor, loss: str) -> Tensor:
    if loss == "probability":
        return predictions.softmax(-1)
    return predictions.log_softmax(-1) if loss == "cross_entropy" else predictions


def log_sum(log_probabilities: Tensor) -> Tensor:
    """``-log Z`` of a mean of log-probabilities: what averaging them costs, never negative."""
    return -log_probabilities.logsumexp(-1)


def cross(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """``-sum y log p``, with ``0 log 0 = 0``."""
    return -torch.where(target == 0, 0, target * log_probabilities).sum(-1)


class _Set:
    """Sums over the models of one training set, or of each of several with as many seeds."""

    def __init__(self, *shape: int, device: torch.device) -> None:
        self.seeds = 0
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape[:-1], dtype=torch.float64, device=device)


# What of a set enters the decomposition, summed over sets: `deviation` [n, c] of the set's central prediction from the target, and [n]:
# `norm`, its square; `within`, the variance over seeds, and `apart`, its unbiased estimate. For cross-entropy `deviation` is the
# logarithm of the central prediction, `norm` the whole loss and `within` what averaging costs.
_FOLDED = ("deviation", "norm", "within", "apart")


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
        check_loss("BiasVariance", loss)
        self.loss, self.target = loss, check_target("BiasVariance", target, loss, classes).contiguous()
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
            one = self._sets[training_set] = _Set(n, c, device=self.target.device)
        one.seeds += len(predicted)
        self._add(predicted, one.sums, one.squares)

    def _add_sets(self, whole: Tensor) -> None:
        """Add closed sets with as many models each, ``[sets, m, n, c]`` or, of labels, ``[sets, m, n]``, which are named from 0 on."""
        n, c = self.target.shape
        for group in torch.split(whole, max(1, FEW // max(1, n * c))):
            some = _Set(len(group), n, c, device=self.target.device)
            some.seeds = whole.shape[1]
            for of_set, sums, squares in zip(group, some.sums, some.squares, strict=True):
                self._add(self._models(of_set), sums, squares)
            self._folded = self._folded or self._nothing()
            self._fold(some, self._folded)
        self._closed = dict.fromkeys(range(len(whole)), whole.shape[1])

    def _add(self, predicted: Tensor, sums: Tensor, squares: Tensor) -> None:
        if self.loss == "zero_one":
            sums.scatter_add_(1, predicted.mT, sums.new_ones(()).expand_as(predicted.mT))
        elif self.loss == "squared":
            _accumulate(predicted, self.target, sums, squares)
        else:
            keep = self.loss == "probability"
            for part in torch.split(predicted, max(1, CHUNK // max(1, sums.numel()))):
                moved = transform(part, self.loss)
                _accumulate(moved, self.target if keep else None, sums, squares if keep else None)

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
        self._folded = self._folded or self._nothing()
        self._fold(one, self._folded)

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
        n, c = self.target.shape
        for key, theirs in other._sets.items():
            one = self._sets.setdefault(key, _Set(n, c, device=self.target.device))
            one.seeds += theirs.seeds
            one.sums += theirs.sums
            one.squares += theirs.squares
        self._closed |= other._closed
        if other._folded:
            self._folded = self._folded or self._nothing()
            for name, part in other._folded.items():
                self._folded[name] += part

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
            one = self._sets[key] = _Set(0, 0, device=self.target.device)
            one.seeds, one.sums, one.squares = seeds, sums.clone(), squares.clone()
        self._closed = dict(state["closed"])
        self._folded = {key: part.clone() for key, part in state["folded"].items()}

    def _nothing(self) -> dict[str, Tensor]:
        """Sums over no sets."""
        n, c = self.target.shape
        one = _Set(n, c, device=self.target.device)
        return dict(zip(_FOLDED, (one.sums, one.squares, one.squares.clone(), one.squares.clone()), strict=True))

    def _fold(self, one: _Set, total: dict[str, Tensor]) -> None:
        """Add a set, or several, to sums over sets."""
        seeds, several = one.seeds, one.sums.dim() == 3

        def add(name: str, part: Tensor, weight: float = 1) -> None:
            if several:
                part = part.sum(0) if len(part) > 1 else part[0]  # not copied
            total[name].add_(part, alpha=weight)

        if self.loss == "cross_entropy":
            mean = one.sums / seeds
            cost = log_sum(mean)  # of the seeds' geometric mean: the set's part of the variance of optimisation
            add("deviation", mean + cost[..., None])
            add("norm", cross(self.target, mean))
            add("within", cost)
            return
        add("deviation", one.sums, 1 / seeds)
        norm = torch.linalg.vector_norm(one.sums, dim=-1).square_().mul_(1 / seeds**2)
        if self.loss == "zero_one":  # of votes the squares are the counts, and the whole loss is half the squared one
            total["deviation"].sub_(self.target, alpha=len(one.sums) if several else 1)
            add("norm", (one.sums / seeds - self.target).square().sum(-1))
            within = 1 - norm
        else:
            add("norm", norm)
            within = norm.neg_().add_(one.squares, alpha=1 / seeds)
        within.clamp_min_(0)  # NaN stays
        add("within", within)
        add("apart", within, seeds / (seeds - 1) if seeds > 1 else torch.nan)

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
        folded = self._folded or self._nothing()
        if self._sets and self._folded:
            folded = {key: part.clone() for key, part in folded.items()}
        for one in self._sets.values():
            self._fold(one, folded)
        sets, parts = len(seeds), folded.copy()
        deviation = parts.pop("deviation")
        if self.loss == "cross_entropy":
            mean = deviation / sets
            parts["sampling"] = log_sum(mean)
            parts["bias"] = cross(self.target.double(), mean + parts["sampling"][:, None])
        else:
            parts["bias"] = torch.linalg.vector_norm(deviation, dim=1).square_()
        if self.loss == "zero_one":
            target, share = self.target.double(), deviation / sets + self.target
            # Equal shares are equal but for rounding: 1/3 + 1/3 against 2/3. The lowest label wins.
            main = (share >= share.max(1, keepdim=True).values - 1e-9).byte().argmax(1, keepdim=True)
            parts["main_bias"], parts["main_variance"] = (1 - of.gather(1, main)[:, 0] for of in (target, share))
        if sets == 1 or min(seeds.values()) == 1:
            missing = "one training set" if sets == 1 else "one seed"
            warnings.warn(f"BiasVariance: variance of {missing} is not defined, returned as NaN", NumericalWarning, 2)
        if per_point:
            return Decomposition(*self._decompose(parts, unbiased))
        means = dict(zip(parts, torch.stack([*parts.values()]).mean(1).tolist(), strict=True))
        found = torch.tensor(self._decompose(means, unbiased), dtype=torch.float64, device=deviation.device)
        return Decomposition(*found.unbind())

    def _decompose(self, sums: dict[str, Any], unbiased: bool) -> tuple[Any, ...]:
        """The parts from sums over sets, of each point or means over points: all is linear in them."""
        sets, seeds = len(self.seeds), self.seeds.values()
        nan = sums["norm"] * math.nan
        optimisation, norm = sums["within"] / sets, sums["norm"] / sets
        if self.loss == "cross_entropy":
            error, bias, sampling = norm, sums["bias"], sums["sampling"]
            variance = optimisation + sampling
        else:
            bias = sums["bias"] / sets**2
            error, sampling = norm + optimisation, norm - bias
            if unbiased:
                between = sampling * sets / (sets - 1) if sets > 1 else nan
                bias = bias - between / sets
                # Of a mean over I seeds the variance over seeds is 1 / I: the unbiased estimate less the plain one.
                variance, sampling = between + optimisation, between - (sums["apart"] - sums["within"]) / sets
                optimisation = sums["apart"] / sets
                # What several sets with one seed each still tell is the whole.
                variance = between if max(seeds) == 1 else variance
            else:
                variance = optimisation + sampling
            if self.loss == "zero_one":
                error, bias, variance, optimisation, sampling = (
                    part / 2 for part in (error, bias, variance, optimisation, sampling)
                )
        if sets == 1:
            bias, variance, sampling = nan, nan, nan
        if min(seeds) == 1:
            optimisation, sampling = nan, nan
            if max(seeds) > 1:
                variance, bias = (nan, nan) if unbiased else (variance, bias)
        return error, bias, variance, optimisation, sampling, sums.get("main_bias", nan), sums.get("main_variance", nan)


def whole_of(op: str, predictions: Tensor, target: Tensor, loss: str) -> Tensor:
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
        Sums over up to 32 models in the dtype about the first of them, else float64: the error of the variance is relative to
        the variance, also where all predictions lie far from zero. Distance from the target enters the variance by one
        float64 subtraction: predictions r standard deviations away from it lose 2 log10(r) of its 16 digits.

    Not differentiable. The same bits for every number of threads. NaN propagates to its own point, and to the mean.

    References:
        Neal et al., A Modern Take on the Bias-Variance Tradeoff in Neural Networks, arXiv:1810.08591.

    Example:
        >>> bias_variance(torch.tensor([[[1.0], [3.0]], [[2.0], [6.0]]]), torch.zeros(1), unbiased=False).sampling
        tensor(1., dtype=torch.float64)
    """
    check_loss("bias_variance", loss)
    whole = whole_of("bias_variance", predictions, target, loss)
    if classes is None and whole.dim() == 4:
        classes = whole.shape[3]
    parts = BiasVariance(target, loss=loss, classes=classes)
    parts._add_sets(whole)
    return parts.result(unbiased=unbiased, per_point=per_point)
