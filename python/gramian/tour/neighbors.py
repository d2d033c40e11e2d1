"""Neighbours and clusters: what each layer makes of the images."""

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
_ITERATIONS, _FEW_ITERATIONS = 300, 25
_COLUMNS = {"same": "same digit", "learnability": "learnability", "dimension": "dimension", "probe": "linear probe"}


def section(subject: Subject, measure: Measure) -> Section:
    """Measure every layer before and after training, and set the ops beside plain PyTorch."""
    clusters = math.isqrt(len(subject.images))
    before, after = (representations(subject.snapshots[epoch], subject.images) for epoch in (0, -1))
    names = ["pixels", *(f"hidden layer {number}" for number in range(1, len(after) - 1)), "outputs"]
    course = [
        [numbers(layer, subject, clusters) for layer in pair]
        for pair in progress(list(zip(before, after, strict=True)), "neighbours and clusters", "layer")
    ]

    generator = torch.Generator().manual_seed(0)
    scores = neighbors.clid(dict(zip(names, after, strict=True)), n_clusters=clusters, generator=generator).score
    probes = torch.tensor([trained["probe"] for _, trained in course], dtype=torch.float64)
    agreement = neighbors.correlations(scores, probes)

    last = representations(subject.snapshots[-1], _shifted(subject.images, 1 if subject.quick else 3))[-2]
    size = "{} x {}".format(*last.shape)
    sides = [
        versus(f"{_NEIGHBORS} neighbours of {size}", measure, nearest, plain_nearest, last),
        versus(f"{clusters} clusters of {size}", measure, cluster, plain_cluster, last, last[:clusters]),
        versus("learnability of every layer", measure, learnability, plain_learnability, clusters, *after),
    ]

    last_hidden = course[-2]
    return Section(
        title="Neighbours and clusters",
        about=f"Of every layer, before → after training: how often the nearest image shows the same digit; how well "
        f"the nearest among the images before it predicts an image's cluster, of {clusters} by K-means, no labels used; "
        f"the dimension that the ratio of the two nearest distances tells; CLID, the last two in one score "
        f"(arXiv:2206.01251), after training; the accuracy of a linear probe on images held out.",
        header=("layer", *list(_COLUMNS.values())[:3], "CLID", _COLUMNS["probe"]),
        rows=[
            (
                f"{name} ({layer.shape[1]})",
                *(f"{old[key]:.3g} → {new[key]:.3g}" for key in list(_COLUMNS)[:3]),
                f"{score:.2f}",
                f"{old['probe']:.3f} → {new['probe']:.3f}",
            )
            for name, layer, score, (old, new) in zip(names, after, scores.tolist(), course, strict=True)
        ],
        finding=f"In the last hidden layer training takes the intrinsic dimension from "
        f"{last_hidden[0]['dimension']:.1f} to {last_hidden[1]['dimension']:.1f} and the learnability of clusters "
        f"from {last_hidden[0]['learnability']:.2f} to {last_hidden[1]['learnability']:.2f}. Over the layers, CLID and the "
        f"probe correlate with {agreement.pearson:.2f} (Pearson), {agreement.kendall:.2f} (Kendall).",
        versus=sides,
        figure=_figure(subject, names, after, course, clusters),
        caption="every layer in its two main directions; its measures; clusters of the pixels",
    )


def representations(network: nn.Sequential, images: Tensor) -> list[Tensor]:
    """Return the images, every hidden layer behind its ReLU, and the outputs."""
    layers = [images]
    with torch.no_grad():
        for module in network:
            after = module(layers[-1])
            layers = [*layers, after] if isinstance(module, nn.Linear) else [*layers[:-1], after]
    return layers


def numbers(layer: Tensor, subject: Subject, clusters: int) -> dict[str, float]:
    """Leave-one-out accuracy of the nearest neighbour, learnability, dimension (TwoNN) and a linear probe of one layer."""
    labels = subject.labels
    nearest_row = neighbors.knn(layer, 1, exclude_self=True).indices[:, 0]
    return {
        "same": float((labels[nearest_row] == labels).double().mean()),
        "learnability": float(learnability(clusters, layer)),
        "dimension": float(neighbors.twonn(layer, estimator="mle").value),
        "probe": probe(layer.double(), subject),
    }


def probe(layer: Tensor, subject: Subject) -> float:
    """Held-out accuracy of a linear classifier: ridge regression on one column for each digit."""
    known = slice(subject.learned)
    features = torch.cat([layer - layer[known].mean(0), torch.ones(len(layer), 1, dtype=layer.dtype)], 1)
    x, y = features[known], nn.functional.one_hot(subject.labels)[known].to(layer.dtype)
    gram = x.T @ x
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=layer.dtype)
    guesses = (features @ torch.linalg.solve(gram + ridge, x.T @ y)).argmax(1)
    return float((guesses == subject.labels)[subject.held_out].double().mean())


def nearest(x: Tensor) -> Tensor:
    """Distances to the nearest rows."""
    return neighbors.knn(x, _NEIGHBORS, exclude_self=True).distances


def plain_nearest(x: Tensor) -> Tensor:
    """Distances to the nearest rows."""
    distances = torch.cdist(x, x).fill_diagonal_(math.inf)
    return distances.topk(_NEIGHBORS, largest=False).values


def cluster(x: Tensor, start: Tensor) -> Tensor:
    """Centres of Lloyd's K-means."""
    return neighbors.kmeans(x, len(start), init=start, max_iter=_FEW_ITERATIONS).centers


def plain_cluster(x: Tensor, start: Tensor) -> Tensor:
    """Centres of Lloyd's K-means."""
    return _lloyd(x, start, _FEW_ITERATIONS)[0]


def learnability(clusters: int, *layers: Tensor) -> Tensor:
    """Share of rows whose K-means label is that of the nearest row before them, by cosine, for each layer."""
    shares = []
    for layer in layers:
        x = nn.functional.normalize(layer)
        labels = neighbors.kmeans(x, clusters, init=x[:clusters], max_iter=_ITERATIONS).labels
        past = neighbors.knn(x, 1, causal=True).indices[1:, 0]  # the first row has none, and counts as missed
        shares.append((labels[past] == labels[1:]).sum() / len(x))
    return torch.stack(shares)


def plain_learnability(clusters: int, *layers: Tensor) -> Tensor:
    """Share of rows whose K-means label is that of the nearest row before them, by cosine, for each layer."""
    shares = []
    for layer in layers:
        x = nn.functional.normalize(layer)
        labels = _lloyd(x, x[:clusters], _ITERATIONS)[1]
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu()
        past = torch.cdist(x, x).masked_fill_(future, math.inf)[1:].argmin(1)
        shares.append((labels[past] == labels[1:]).sum() / len(x))
    return torch.stack(shares)


def _lloyd(x: Tensor, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    labels = torch.full((len(x),), -1)
    for _ in range(iterations):
        old, labels = labels, torch.cdist(x, centers).argmin(1)
        if torch.equal(old, labels):
            break
        counts = labels.bincount(minlength=len(centers))[:, None]
        centers = torch.zeros_like(centers).index_add_(0, labels, x) / counts
    return centers, labels


def _shifted(images: Tensor, side: int) -> Tensor:
    """Every image, moved by up to a pixel each way: `side` squared as many."""
    squares = nn.functional.pad(images.view(-1, 8, 8), (side // 2,) * 4)
    return torch.cat(
        [squares[:, row : row + 8, column : column + 8].flatten(1) for row in range(side) for column in range(side)]
    )


def _figure(
    subject: Subject, names: list[str], layers: list[Tensor], course: list[list[dict[str, float]]], clusters: int
) -> Figure:
    figure = plot.figure(11, 8)
    panels: Any = figure.subfigures(3, 1, height_ratios=(1.1, 1.2, 1))
    clouds, measures, centers = panels
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

    found = neighbors.kmeans(subject.images, clusters, init=subject.images[:clusters], max_iter=_ITERATIONS)
    order = found.labels.bincount(minlength=clusters).argsort(descending=True)
    tiles = nn.functional.pad(found.centers[order].view(-1, 8, 8), (1, 1, 1, 1))
    across = math.ceil(clusters / 3)
    tiles = torch.cat([tiles, tiles.new_zeros(3 * across - clusters, 10, 10)])
    axis = centers.subplots()
    axis.imshow(tiles.view(3, across, 10, 10).transpose(1, 2).reshape(30, -1), cmap="gray_r")
    axis.set_title(f"Centres of {clusters} clusters of the pixels, largest first", loc="center")
    plot.picture(axis)
    return figure
