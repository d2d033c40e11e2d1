"""Figures of neighbours, clusters, dimension and learnability."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import torch

from ._axes import STYLES, make_axes, named, numbers, say_if_empty, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from gramian.neighbors import Clid, Clustering, Dimension, Learnability, Neighbors


_MOST_NAMES = 6  # beside points, before they cover each other


def learning_curve(results: Learnability | Mapping[str, Learnability], *, axes: Axes | None = None) -> Axes:
    """Draw how well neighbours predict clusters, the more rows they have seen.

    Args:
        results: of `neighbors.cluster_learnability`, one or several by name.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, predictions on the first, the share of hits among them, from 0 to 1, on the second.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.neighbors import cluster_learnability
        >>> learning_curve(cluster_learnability(torch.randn(30, 3))).get_ylabel()
        'share of hits so far'
    """
    axes = make_axes(axes, "rows predicted", "share of hits so far", "Cluster learnability")
    for name, found, style in styled(named(results)):
        curve = found.curve
        label = f"{name} ({found.value:.2f})" if name else f"{found.value:.2f} in all"
        axes.plot(range(1, len(curve) + 1), numbers(curve), label=label, **(style | {"marker": ""}))
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    return axes


def clid(result: Clid, *, axes: Axes | None = None) -> Axes:
    """Draw representations as points: their intrinsic dimension and how learnable their clusters are.

    Args:
        result: of `neighbors.clid`.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, one point a representation: with its name, or, where there are many, its number and the names in a legend.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.neighbors import Clid
        >>> one = torch.ones(1)
        >>> clid(Clid(("layer",), one, one, one)).texts[0].get_text()
        'layer'
    """
    axes = make_axes(axes, "intrinsic dimension", "cluster learnability (share of hits)", "Learnability and dimension")
    spots = zip(result.names, numbers(result.dimension), numbers(result.learnability), cycle(STYLES), strict=False)
    many = len(result.names) > _MOST_NAMES
    for number, (name, x, y, (colour, _, marker)) in enumerate(spots, start=1):
        axes.plot([x], [y], color=colour, marker=marker, ls="", ms=6, label=f"{number}  {name}")
        axes.annotate(str(number) if many else name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.margins(x=0.2, y=0.15)
    if many:
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def dimension(result: Dimension, *, axes: Axes | None = None) -> Axes:
    """Draw how the local dimension spreads over the points.

    Args:
        result: of `neighbors.twonn` or `neighbors.levina_bickel`, asked for local dimensions.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, a histogram and the dimension of the whole set as a line.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the result has no local dimensions.

    Example:
        >>> from gramian.neighbors import twonn
        >>> dimension(twonn(torch.randn(50, 2), neighborhood=10)).get_ylabel()
        'points'
    """
    if result.local is None:
        raise ValueError("dimension: result must have local dimensions, got None; pass neighborhood= to twonn")
    axes = make_axes(axes, "local intrinsic dimension", "points", "Intrinsic dimension")
    local = result.local[result.local.isfinite()]
    if len(local):
        axes.hist(numbers(local), bins="auto", color=STYLES[0][0])
    value = float(result.value)
    axes.axvline(value, color=STYLES[1][0], ls="--", label=f"whole set: {value:.2f}")
    axes.legend(frameon=False)
    return axes


def distances(result: Neighbors, *, axes: Axes | None = None) -> Axes:
    """Draw the distance to the nearest neighbours: median and the middle half of the points, by rank.

    Args:
        result: of `neighbors.knn`.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, ranks from 1 on the first, distances in the units of the metric on the second.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.neighbors import knn
        >>> distances(knn(torch.randn(20, 2), k=3)).get_xlabel()
        'rank of the neighbour'
    """
    axes = make_axes(axes, "rank of the neighbour", "distance (units of the metric)", "Distance to the neighbours")
    found = result.distances.detach().double().cpu()
    found = found[found.isfinite().all(1)]
    if len(found):
        low, middle, high = (found.quantile(q, 0) for q in (0.25, 0.5, 0.75))
        rank = range(1, found.shape[1] + 1)
        axes.fill_between(rank, low, high, color=STYLES[0][0], alpha=0.25, lw=0, label="middle half")
        axes.plot(rank, middle, color=STYLES[0][0], marker="o", ms=3, label="median")
        axes.legend(frameon=False)
    say_if_empty(axes)
    return axes


def clusters(result: Clustering, *, axes: Axes | None = None) -> Axes:
    """Draw the sizes of clusters, the largest first.

    Args:
        result: of `neighbors.kmeans`.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, clusters on the first, rows in each on the second.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.neighbors import kmeans
        >>> clusters(kmeans(torch.randn(20, 2), 3)).get_ylabel()
        'rows'
    """
    rounds = f"{result.n_iter} rounds, inertia {result.inertia:.3g}"
    axes = make_axes(axes, "clusters, the largest first", "rows", f"K-means ({rounds})")
    sizes = torch.bincount(result.labels, minlength=len(result.centers)).sort(descending=True).values
    axes.bar(range(1, len(sizes) + 1), numbers(sizes), color=STYLES[0][0])
    return axes
