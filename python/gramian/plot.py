"""Figures of results, for print and for the colour-blind: `pip install 'gramian[plot]'`.

Each function draws into ``axes``, or into a figure of its own, and returns the axes. Lines differ in dash and marker as well as in
colour; maps of values have one hue of rising darkness, maps of signed values two.
"""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from torch import Tensor

    from .neighbors import Clid, Clustering, Dimension, Learnability, Neighbors
    from .ntk import Eigenpairs

__all__ = ["clid", "clusters", "dimension", "distances", "eigenvalues", "kernel", "learning_curve"]

# Okabe and Ito's colours, which the colour-blind can tell apart, the darkest first; with dashes for print in grey.
_STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#E69F00", (0, (5, 1)), "v"),
    ("#000000", (0, (1, 1)), "x"),
)


def _axes(axes: Axes | None, x: str, y: str, title: str) -> Axes:
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("gramian.plot needs matplotlib: pip install 'gramian[plot]'") from error
        axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _numbers(values: Tensor) -> Any:
    return values.detach().double().cpu().numpy()


def _finite(axes: Axes) -> None:
    if not axes.has_data():
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center")


def eigenvalues(values: Tensor | Eigenpairs | Mapping[str, Tensor], *, axes: Axes | None = None) -> Axes:
    """Draw the spectrum of a kernel: eigenvalues over their rank, both logarithmic.

    Args:
        values: ``[k]`` eigenvalues as of `ntk.spectrum`, the result of `ntk.ntk_top`, or several by name. Those that are not
            positive have no logarithm and are left out.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, ranks from 1 on the first, eigenvalues in the kernel's own units on the second.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: values that are not ``[k]``.

    Example:
        >>> eigenvalues(torch.tensor([4.0, 2.0, 1.0])).get_xlabel()
        'rank of the eigenvalue'
    """
    named = {"": values} if isinstance(values, torch.Tensor | tuple) else values
    axes = _axes(axes, "rank of the eigenvalue", "eigenvalue (units of the kernel)", "Spectrum of the kernel")
    for (name, found), (colour, dash, marker) in zip(named.items(), cycle(_STYLES), strict=False):
        line = found if isinstance(found, torch.Tensor) else found.values
        if line.ndim != 1:
            raise ValueError(f"eigenvalues: values must be [k], got shape {tuple(line.shape)}")
        rank = torch.arange(1, len(line) + 1)[(line > 0).cpu()]
        if len(rank):
            axes.loglog(
                rank, _numbers(line[line > 0]), color=colour, ls=dash, marker=marker, ms=3, lw=1.2, label=name or None
            )
    if named.keys() != {""}:
        axes.legend(frameon=False)
    _finite(axes)
    return axes


def kernel(K: Tensor, *, order: Tensor | None = None, axes: Axes | None = None) -> Axes:  # noqa: N803
    """Draw a kernel as a picture, one pixel a pair of samples.

    Args:
        K: ``[n, m]``.
        order: ``[n]`` of a square kernel: class numbers; samples of a class stand side by side.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, with a colour bar in the kernel's own units; a kernel with entries of both signs has white at 0.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: ``K`` is not ``[n, m]``, or ``order`` does not fit.

    Example:
        >>> kernel(torch.eye(3)).get_title("left")
        'Kernel'
    """
    if K.ndim != 2:
        raise ValueError(f"kernel: K must be [n, m], got shape {tuple(K.shape)}")
    if order is not None:
        if order.shape != K.shape[:1] or K.shape[0] != K.shape[1]:
            raise ValueError(f"kernel: order must be [n] of a square kernel, got shape {tuple(order.shape)}")
        place = order.argsort(stable=True)
        K = K[place][:, place]  # noqa: N806
    axes = _axes(axes, "sample", "sample", "Kernel")
    signed = bool((K < 0).any())
    most = float(K.abs().max()) if K.numel() else 1.0
    low, high = (-most, most) if signed else (None, None)
    image = axes.imshow(
        _numbers(K), cmap="RdBu_r" if signed else "cividis", interpolation="nearest", vmin=low, vmax=high
    )
    axes.figure.colorbar(image, ax=axes, label="entry (units of the kernel)")
    return axes


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
    named = {"": results} if isinstance(results, tuple) else results
    axes = _axes(axes, "rows predicted", "share of hits so far", "Cluster learnability")
    for (name, found), (colour, dash, _) in zip(named.items(), cycle(_STYLES), strict=False):
        curve = found.curve
        label = f"{name} ({found.value:.2f})" if name else f"{found.value:.2f} in all"
        axes.plot(range(1, len(curve) + 1), _numbers(curve), color=colour, ls=dash, lw=1.4, label=label)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    return axes


def clid(result: Clid, *, axes: Axes | None = None) -> Axes:
    """Draw representations as points: their intrinsic dimension and how learnable their clusters are.

    Args:
        result: of `neighbors.clid`.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, one named point a representation.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.neighbors import Clid
        >>> one = torch.ones(1)
        >>> clid(Clid(("layer",), one, one, one)).texts[0].get_text()
        'layer'
    """
    axes = _axes(axes, "intrinsic dimension", "cluster learnability (share of hits)", "Learnability and dimension")
    spots = zip(result.names, _numbers(result.dimension), _numbers(result.learnability), cycle(_STYLES), strict=False)
    for name, x, y, (colour, _, marker) in spots:
        axes.plot([x], [y], color=colour, marker=marker, ls="", ms=6)
        axes.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    axes.margins(x=0.2, y=0.15)
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
    axes = _axes(axes, "local intrinsic dimension", "points", "Intrinsic dimension")
    local = result.local[result.local.isfinite()]
    if len(local):
        axes.hist(_numbers(local), bins="auto", color=_STYLES[0][0])
    value = float(result.value)
    axes.axvline(value, color=_STYLES[1][0], ls="--", label=f"whole set: {value:.2f}")
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
    axes = _axes(axes, "rank of the neighbour", "distance (units of the metric)", "Distance to the neighbours")
    found = result.distances.detach().double().cpu()
    found = found[found.isfinite().all(1)]
    if len(found):
        low, middle, high = (found.quantile(q, 0) for q in (0.25, 0.5, 0.75))
        rank = range(1, found.shape[1] + 1)
        axes.fill_between(rank, low, high, color=_STYLES[0][0], alpha=0.25, lw=0, label="middle half")
        axes.plot(rank, middle, color=_STYLES[0][0], marker="o", ms=3, label="median")
        axes.legend(frameon=False)
    _finite(axes)
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
    axes = _axes(axes, "clusters, the largest first", "rows", f"K-means ({rounds})")
    sizes = torch.bincount(result.labels, minlength=len(result.centers)).sort(descending=True).values
    axes.bar(range(1, len(sizes) + 1), _numbers(sizes), color=_STYLES[0][0])
    return axes
