"""Groups of examples at equal progress of all, and how consistently an example is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from gramian._progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GroupProgress", "at_progress", "cscore"]


def at_progress(progress: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    r"""Read curves off where a run first reaches given levels of progress: runs are compared at equal progress, not time.

    Args:
        progress: ``[s]`` along the run, for example the training accuracy, or minus the training loss.
        values: ``[s, ...]`` recorded at the same moments.
        levels: ``[p]`` of progress.

    Returns:
        ``[p, ...]``: ``values`` linearly interpolated where ``progress`` first passes the level; NaN where it never does,
        and the first values for levels below the first progress.

    Raises:
        ValueError: shapes that do not fit.

    Cost:
        ``s + p log s``.

    Accuracy:
        Between recordings both are taken as linear.

    Differentiable in ``values``.

    References:
        Groups of examples are compared at equal progress in arXiv:2209.09658.

    Example:
        >>> at_progress(torch.tensor([0.0, 0.5, 0.4, 1.0]), torch.tensor([1.0, 2.0, 9.0, 3.0]), torch.tensor([0.25, 0.7]))
        tensor([1.5000, 6.0000])
    """
    if progress.ndim != 1 or values.shape[:1] != progress.shape or levels.ndim != 1 or len(progress) == 0:
        shapes = [tuple(v.shape) for v in (progress, values, levels)]
        raise ValueError(f"at_progress: progress and values must be [s, ...] and levels [p], got shapes {shapes}")
    highest = progress.cummax(0).values
    after = torch.searchsorted(highest, levels.to(progress.dtype))
    reached = after < len(progress)
    after = after.clamp(max=len(progress) - 1)
    before = (after - 1).clamp(min=0)
    span = progress[after] - progress[before]
    share = torch.where(span > 0, (levels - progress[before]) / span.where(span > 0, 1), 1).clamp(0, 1)
    shape = (-1, *[1] * (values.ndim - 1))
    weight = share.to(values.dtype).view(shape)
    found = values[before] + weight * (values[after] - values[before])
    return torch.where(reached.view(shape), found, torch.nan)


class GroupProgress:
    """Loss and accuracy of groups of samples along a run, to be read at equal progress of all.

    Attributes:
        names: of the groups.
    """

    def __init__(self, groups: dict[str, Tensor]) -> None:
        """Take for each group the indices, or a mask, of its samples."""
        self.names = tuple(groups)
        self._groups = list(groups.values())
        self._losses: list[Tensor] = []
        self._accuracies: list[Tensor] = []

    def record(self, logits: Tensor, labels: Tensor) -> None:
        """Record a moment of the run from the outputs for all samples, ``[n, c]``, and their labels ``[n]``."""
        with torch.no_grad():
            losses = nn.functional.cross_entropy(logits, labels, reduction="none").double()
            hits = (logits.argmax(1) == labels).double()
        self._losses.append(torch.stack([losses.mean(), *(losses[g].mean() for g in self._groups)]))
        self._accuracies.append(torch.stack([hits.mean(), *(hits[g].mean() for g in self._groups)]))

    def curves(self, measure: Literal["loss", "accuracy"] = "accuracy") -> tuple[Tensor, Tensor]:
        """Return the measure of all samples ``[s]`` and of the groups ``[s, groups]`` along the run."""
        if measure not in ("loss", "accuracy"):
            raise ValueError(f"GroupProgress: measure must be loss or accuracy, got {measure}")
        table = torch.stack(self._losses if measure == "loss" else self._accuracies)
        return table[:, 0], table[:, 1:]

    def at(self, levels: Tensor, measure: Literal["loss", "accuracy"] = "accuracy") -> Tensor:
        """Return the groups' measure ``[p, groups]`` where all samples together first reach the levels of it."""
        everyone, groups = self.curves(measure)
        sign = -1 if measure == "loss" else 1
        return at_progress(sign * everyone, groups, sign * levels)


def cscore(
    fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]],
    x: Tensor,
    labels: Tensor,
    *,
    runs: int = 10,
    share: float = 0.7,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Consistency scores: how often a sample is classified rightly by models that did not learn from it.

    Args:
        fit: takes samples and labels, trains a model, and returns a function from samples to outputs ``[n, c]``.
        x: ``[n, ...]`` samples.
        labels: ``[n]`` integer classes.
        runs: models to train, each from a random subset.
        share: of the samples in a subset, between 0 and 1.
        generator: of the subsets; torch's own without it.
        progress: show a bar over the runs (with tqdm installed).

    Returns:
        ``[n]`` float64 from 0 (hard) to 1 (easy); NaN for a sample that every subset contained.

    Raises:
        ValueError: numbers out of range, labels that do not fit.

    Cost:
        ``runs`` trainings.

    Accuracy:
        A mean of about ``runs (1 - share)`` hits or misses: its standard error is at most half over that number's root.

    Not differentiable.

    References:
        Jiang, Zhang, Talwar and Mozer, Characterizing structural regularities of labeled data in overparameterized models,
        arXiv:2002.03206; groups by this score in arXiv:2209.09658.

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([1, 0, 0, 0])
        >>> always_zero = lambda x, labels: lambda x: torch.eye(2)[torch.zeros(len(x), dtype=torch.int64)]
        >>> cscore(always_zero, x, labels, runs=20, share=0.5, generator=torch.Generator().manual_seed(0))
        tensor([0., 1., 1., 1.], dtype=torch.float64)
    """
    op, n = "cscore", len(x)
    if labels.shape != (n,):
        raise ValueError(f"{op}: labels must be [n] with n = {n} like x, got shape {tuple(labels.shape)}")
    if runs < 1:
        raise ValueError(f"{op}: runs must be positive, got {runs}")
    learned = round(n * share)
    if not 1 <= learned < n:
        raise ValueError(f"{op}: share must leave samples on both sides, got {share} of {n}")
    hits, tries = (torch.zeros(n, dtype=torch.float64, device="cpu") for _ in range(2))
    for _ in progress_bar(range(runs), op, shown=progress):
        order = torch.randperm(n, generator=generator, device="cpu")
        inside, outside = order[:learned], order[learned:]
        predict = fit(x[inside], labels[inside])
        with torch.no_grad():
            right = predict(x[outside]).argmax(1) == labels[outside]
        hits[outside] += right.double().cpu()
        tries[outside] += 1
    return hits.div(tries)
