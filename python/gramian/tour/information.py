"""Mutual information: what each layer tells of the label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gramian import information
from gramian.tour import plot
from gramian.tour.neighbors import representations
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_UNITS = 32


def section(subject: Subject, measure: Measure) -> Section:
    """Estimate I(layer; label) before and after training, and set the ops beside plain PyTorch."""
    labels = nn.functional.one_hot(subject.labels).float()
    layers = [representations(subject.snapshots[epoch], subject.images) for epoch in (0, -1)]
    names = ["pixels", *(f"hidden layer {number}" for number in range(1, len(layers[1]) - 1)), "outputs"]
    found = [
        [estimate(layer, labels, quick=subject.quick) for layer in pair]
        for pair in progress(list(zip(*layers, strict=True)), "mutual information", "layer")
    ]
    shares = labels.mean(0)
    entropy = -float((shares * shares.log()).sum())

    count = 128 if subject.quick else 1024
    torch.manual_seed(0)
    critic = information.PairwiseCritic(256, 10, (128, 128))
    hidden = layers[1][-2]
    points = torch.cat([_main(hidden), _main(subject.images)], 1)
    sides = [
        versus(
            f"critic of all {count} x {count} pairs",
            measure,
            scores,
            plain_scores,
            critic,
            hidden[:count],
            labels[:count],
        ),
        versus(f"nearest-neighbour estimate of {len(points)} rows", measure, nearest, plain_nearest, points),
    ]
    return Section(
        title="Mutual information",
        about="How many nats each layer tells of the label, by MINE (arXiv:1801.04062): the Donsker-Varadhan bound of a critic of "
        "all pairs, on images that the critic never saw. A deterministic layer cannot tell more than the pixels do, only "
        "tell it more plainly to a small critic.",
        header=("layer", "before training", "after training"),
        rows=[
            (f"{name} ({layer.shape[1]})", *(f"{e.value:.2f} ± {e.std:.2f}" for e in pair))
            for name, layer, pair in zip(names, layers[1], found, strict=True)
        ],
        finding=f"Of the label's {entropy:.2f} nats the same small critic finds {found[-2][0].value:.2f} in the last hidden layer "
        f"before training and {found[-2][1].value:.2f} after; in the pixels {found[0][1].value:.2f}.",
        versus=sides,
        figure=_figure(names, found, entropy),
        caption="nats that each layer tells of the label; the critics' course",
    )


def estimate(layer: Tensor, labels: Tensor, *, quick: bool) -> information.Estimate:
    """MINE with a critic of 32 units, on a layer that was brought to unit variance as a whole."""
    x = (layer - layer.mean(0)) / layer.std().clamp_min(1e-6)
    mine = information.MINE(x.shape[1], labels.shape[1], hidden=_UNITS, marginal="all_pairs", rate=0.1)
    steps = 20 if quick else 80
    return mine.fit(x, labels, steps=steps, batch=256, learning_rate=5e-3, evaluate_every=10, held_out=0.4)


def scores(critic: information.PairwiseCritic, x: Tensor, y: Tensor) -> Tensor:
    """Scores of all pairs."""
    with torch.no_grad():
        found: Tensor = critic(x, y)
    return found


def plain_scores(critic: information.PairwiseCritic, x: Tensor, y: Tensor) -> Tensor:
    """Scores of all pairs, all at once."""
    with torch.no_grad():
        first = nn.functional.linear(x, critic.first.weight[:, : critic.d_x])[:, None]
        h = (first + nn.functional.linear(y, critic.first.weight[:, critic.d_x :], critic.first.bias)).relu()
        found: Tensor = critic.last(critic.second(h).relu())
    return found[..., 0]


def nearest(points: Tensor) -> Tensor:
    """Estimate of Kraskov et al. between the first two columns and the others."""
    return information.ksg(points[:, :2], points[:, 2:])


def plain_nearest(points: Tensor) -> Tensor:
    """Estimate of Kraskov et al. between the first two columns and the others."""
    wide = points.double()
    apart = [torch.cdist(t, t, p=math.inf).fill_diagonal_(math.inf) for t in (wide[:, :2], wide[:, 2:])]
    radius = torch.maximum(*apart).topk(3, largest=False).values[:, -1:]
    counts = [(side < radius).sum(1).double() for side in apart]
    n, k = (torch.tensor(float(number), dtype=torch.float64).digamma() for number in (len(points), 3))
    return k + n - sum(((count + 1).digamma() for count in counts), start=torch.zeros_like(counts[0])).mean()


def _main(x: Tensor) -> Tensor:
    centered = x - x.mean(0)
    directions: Tensor = torch.linalg.eigh(centered.T @ centered).eigenvectors
    return centered @ directions[:, -2:]


def _figure(names: list[str], found: list[list[information.Estimate]], entropy: float) -> Figure:
    figure = plot.figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    for when, color in enumerate((plot.BEFORE, plot.AFTER)):
        values = [pair[when].value for pair in found]
        errors = [pair[when].std for pair in found]
        left.errorbar(
            range(len(values)), values, errors, fmt="o-", color=color, label=("before", "after")[when] + " training"
        )
    left.axhline(entropy, color="gray", linewidth=1, linestyle=":")
    left.set_xticks(range(len(names)), [name.replace("hidden layer", "hidden") for name in names])
    left.set_title("Nats told of the label (dotted: all there are)")
    left.legend()
    for name, pair in zip(names, found, strict=True):
        right.plot(pair[1].steps, pair[1].curve, label=name)
    right.set_title("Bound on held-out images, after training")
    right.set_xlabel("step of the critic")
    right.legend()
    return figure
