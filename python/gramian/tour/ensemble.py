"""Ensembles: how much of the error on digits is variance, and whether the sample or the start brings it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gramian import ensemble
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.ensemble import Decomposition
    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_SAMPLES, _SETS, _SEEDS = 100, 4, 4


def section(subject: Subject, measure: Measure) -> Section:
    """Train small ensembles of several widths, and take their error on held-out digits apart."""
    widths, steps = ((8, 64), 30) if subject.quick else ((8, 32, 128), 150)
    targets = nn.functional.one_hot(subject.labels, 10).float()
    sets = ensemble.draw_sets(subject.learned, _SETS, _SAMPLES, how="split", generator=torch.Generator().manual_seed(0))
    parts, predictions = {}, torch.empty(0)
    for width in progress(widths, "ensembles", "width"):
        predictions = train(subject, width, sets, targets, steps)
        parts[width] = ensemble.bias_variance(predictions, targets[subject.held_out])
    first, last = parts[widths[0]], parts[widths[-1]]
    return Section(
        title="Bias, and variance by its source",
        about=f"{_SETS} disjoint sets of {_SAMPLES} digits, {_SEEDS} networks of one hidden layer on each. By the law of total variance "
        "the squared error on held-out digits is bias, and variance due to the start and due to the sample (arXiv:1810.08591).",
        header=("width", "error", "bias²", "variance due to the start", "due to the sample"),
        rows=[
            (str(width), *(f"{float(part):.3f}" for part in (p.error, p.bias2, p.optimisation, p.sampling)))
            for width, p in parts.items()
        ],
        finding=f"From width {widths[0]} to {widths[-1]} bias² goes from {float(first.bias2):.3f} to {float(last.bias2):.3f}, the variance "
        f"due to the start from {float(first.optimisation):.3f} to {float(last.optimisation):.3f}.",
        versus=[versus("parts of 256 networks' error", measure, ours, plain, predictions, targets[subject.held_out])],
        figure=_figure(parts),
        caption="parts of the error against width",
    )


def train(subject: Subject, width: int, sets: Tensor, targets: Tensor, steps: int) -> Tensor:
    """Predictions [sets, seeds, n, c] on the images held out."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(subject.images.shape[1], width), nn.ReLU(), nn.Linear(width, 10))

    groups = ensemble.train(
        make,
        subject.images,
        targets,
        sets,
        subject.images[subject.held_out],
        seeds=_SEEDS,
        steps=steps,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )
    return torch.stack([group.predictions for group in groups])


def ours(predictions: Tensor, target: Tensor) -> Tensor:
    """Error, bias², variance and its two parts, of sixteen times the networks."""
    return torch.stack(ensemble.bias_variance(predictions.repeat(4, 4, 1, 1), target)[:5]).float()


def plain(predictions: Tensor, target: Tensor) -> Tensor:
    """The same by means and variances of the whole."""
    p = predictions.repeat(4, 4, 1, 1)
    sets, seeds = p.shape[:2]
    of_set = p.mean(1)
    start = p.var(1).sum(2).mean()
    between = of_set.var(0).sum(1).mean()
    bias = (of_set.mean(0) - target).square().sum(1).mean() - between / sets
    sample = between - start / seeds
    return torch.stack([(p - target).square().sum(3).mean(), bias, start + sample, start, sample])


def _figure(parts: dict[int, Decomposition]) -> Figure:
    figure = plot.figure(5, 3.2)
    axes = figure.subplots()
    widths = [str(width) for width in parts]
    stacked = {
        "bias²": [float(p.bias2) for p in parts.values()],
        "variance due to the start": [float(p.optimisation) for p in parts.values()],
        "variance due to the sample": [float(p.sampling) for p in parts.values()],
    }
    base = torch.zeros(len(widths))
    for name, values in stacked.items():
        axes.bar(widths, values, bottom=base.tolist(), label=name)
        base = base + torch.tensor(values)
    axes.set(title="Squared error on held-out digits", xlabel="width")
    axes.legend()
    return figure
