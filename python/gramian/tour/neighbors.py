"""Neighbours: what each layer makes of the images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gramian import neighbors
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_NEIGHBORS = 10
_COLUMNS = {"same": "nearest: same digit", "dimension": "intrinsic dimension"}


def section(subject: Subject, measure: Measure) -> Section:
    """Measure every layer before and after training, and set the ops beside plain PyTorch."""
    before, after = (representations(subject.snapshots[epoch], subject.images) for epoch in (0, -1))
    names = ["pixels", *(f"hidden layer {number}" for number in range(1, len(after) - 1)), "outputs"]
    course = [
        [numbers(layer, subject.labels) for layer in pair]
        for pair in progress(list(zip(before, after, strict=True)), "neighbours", "layer")
    ]

    last = representations(subject.snapshots[-1], _shifted(subject.images, 1 if subject.quick else 3))[-2]
    size = "{} x {}".format(*last.shape)
    sides = [
        versus(f"{_NEIGHBORS} neighbours of {size}", measure, nearest, plain_nearest, last),
    ]

    last_hidden = course[-2]
    return Section(
        title="Neighbours",
        about="Of every layer, before → after training: how often the nearest image shows the same digit; the dimension "
        "that the ratio of the distances to the two nearest tells.",
        header=("layer", *_COLUMNS.values()),
        rows=[
            (f"{name} ({layer.shape[1]})", *(f"{old[key]:.3g} → {new[key]:.3g}" for key in _COLUMNS))
            for name, layer, (old, new) in zip(names, after, course, strict=True)
        ],
        finding=f"In the last hidden layer training takes the intrinsic dimension from "
        f"{last_hidden[0]['dimension']:.1f} to {last_hidden[1]['dimension']:.1f}.",
        versus=sides,
        figure=_figure(subject, names, after, course),
        caption="every layer in its two main directions; its measures",
    )


def representations(network: nn.Sequential, images: Tensor) -> list[Tensor]:
    """Return the images, every hidden layer behind its ReLU, and the outputs."""
    layers = [images]
    with torch.no_grad():
        for module in network:
            after = module(layers[-1])
            layers = [*layers, after] if isinstance(module, nn.Linear) else [*layers[:-1], after]
    return layers


def numbers(layer: Tensor, labels: Tensor) -> dict[str, float]:
    """Leave-one-out accuracy of the nearest neighbour and intrinsic dimension (TwoNN) of one layer."""
    two = neighbors.knn(layer, 2, exclude_self=True)
    first, second = two.distances.double().unbind(1)
    return {
        "same": float((labels[two.indices[:, 0]] == labels).double().mean()),
        "dimension": float((len(layer) - 1) / (second / first).log().sum()),
    }


def nearest(x: Tensor) -> Tensor:
    """Distances to the nearest rows."""
    return neighbors.knn(x, _NEIGHBORS, exclude_self=True).distances


def plain_nearest(x: Tensor) -> Tensor:
    """Distances to the nearest rows."""
    distances = torch.cdist(x, x).fill_diagonal_(math.inf)
    return distances.topk(_NEIGHBORS, largest=False).values


def _shifted(images: Tensor, side: int) -> Tensor:
    """Every image, moved by up to a pixel each way: `side` squared as many."""
    squares = nn.functional.pad(images.view(-1, 8, 8), (side // 2,) * 4)
    return torch.cat(
        [squares[:, row : row + 8, column : column + 8].flatten(1) for row in range(side) for column in range(side)]
    )


def _figure(subject: Subject, names: list[str], layers: list[Tensor], course: list[list[dict[str, float]]]) -> Figure:
    figure = plot.figure(11, 6)
    panels: Any = figure.subfigures(2, 1)
    clouds, measures = panels
    clouds.suptitle("Layers after training, in their two main directions, coloured by digit", fontsize=10)
    for axis, name, layer in zip(clouds.subplots(1, len(layers)), names, layers, strict=True):
        centered = layer - layer.mean(0)
        main = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -2:]
        points = (centered @ main).T
        axis.scatter(*points, c=subject.labels, cmap="tab10", s=3, linewidths=0)
        axis.set_title(name, loc="center")
        plot.picture(axis)

    for axis, (key, title) in zip(measures.subplots(1, len(_COLUMNS)), _COLUMNS.items(), strict=True):
        for when, color in enumerate((plot.BEFORE, plot.AFTER)):
            label = ("before training", "after training")[when]
            axis.plot([pair[when][key] for pair in course], "o-", color=color, label=label)
        axis.set_title(title)
        axis.set_xticks(range(len(names)), [name.replace("hidden layer", "hidden") for name in names])
    axis.legend()

    return figure
