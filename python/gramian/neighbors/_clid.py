"""CLID: how learnable the clusters of a representation are, and how many dimensions it has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gramian._progress import progress_bar

from ._comparison import standardize
from ._dimension import twonn, twonn_from
from ._kmeans import kmeans
from ._knn import Neighbors, knn, normalize
from ._sweeps import knn_pass

if TYPE_CHECKING:
    from collections.abc import Mapping


def predict(labels: Tensor, nearest: Neighbors, *, weights: Tensor | None = None) -> Tensor:
    r"""Classify rows by the vote of their nearest neighbours.

    Args:
        labels: ``[m]`` int64 of the rows that were searched, not negative.
        nearest: what `knn` found, indices ``[n, k]`` into ``labels``; -1 casts no vote.
        weights: ``[n, k]`` of the votes, for example ``torch.exp((1 - nearest.distances) / 0.07)`` for cosine distances; one
            each without them.

    Returns:
        ``[n]`` int64: the label with the most votes, the lower one of equals; -1 for a row without neighbours.

    Raises:
        ValueError: wrong shapes or dtype, negative labels.

    Cost:
        ``n k`` reads; memory ``n`` labels, and votes for as many rows at once as fit 64 MiB.

    Accuracy:
        Votes are counted in float32 (``weights``: in their dtype), exact up to 2^24 of them.

    Not differentiable.

    References:
        The k-nearest-neighbour classifier of Cover and Hart, IEEE Transactions on Information Theory 13, 1967.

    Example:
        >>> nearest = knn(torch.tensor([[0.1], [8.0]]), 1, torch.tensor([[0.0], [9.0]]))
        >>> predict(torch.tensor([5, 7]), nearest)
        tensor([5, 7])
    """
    indices = nearest.indices
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"predict: labels must be [m] int64, got shape {tuple(labels.shape)} {labels.dtype}")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"predict: labels must not be negative, got {int(labels.min())}")
    if indices.ndim != 2:
        raise ValueError(f"predict: nearest must have indices [n, k], got shape {tuple(indices.shape)}")
    if weights is not None and weights.shape != indices.shape:
        raise ValueError(
            f"predict: weights must be [n, k] = {tuple(indices.shape)} like nearest, got {tuple(weights.shape)}"
        )
    if indices.shape[1] == 1 and weights is None:
        return torch.where(indices >= 0, labels[indices.clamp(min=0)], -1)[:, 0]
    classes = int(labels.max()) + 1 if len(labels) else 1
    ballots = torch.ones((), device="cpu").expand(indices.shape) if weights is None else weights
    ballots = ballots.where(indices >= 0, 0)
    rows = max(1, (1 << 24) // classes)
    winners = [
        part.new_zeros(len(part), classes).scatter_add_(1, labels[index.clamp(min=0)], part).argmax(1)
        for part, index in zip(torch.split(ballots, rows), torch.split(indices, rows), strict=True)
    ]
    return torch.where((indices >= 0).any(1), torch.cat(winners), -1)


class Learnability(NamedTuple):
    """How well nearest neighbours predict clusters: the share of hits, and each hit in the order of the predictions."""

    value: float
    hits: Tensor
    labels: Tensor

    @property
    def curve(self) -> Tensor:
        """The learning curve: the share of hits among the first 1, 2, ... predictions."""
        return self.hits.double().cumsum(0) / torch.arange(1, len(self.hits) + 1, device=self.hits.device)


def cluster_learnability(
    x: Tensor,
    *,
    labels: Tensor | None = None,
    n_clusters: int | None = None,
    k: int = 1,
    metric: str = "cosine",
    protocol: str = "prequential",
    order: Tensor | None = None,
    train: float | Tensor = 0.5,
    generator: torch.Generator | None = None,
) -> Learnability:
    r"""Cluster learnability: how well ``k`` nearest neighbours predict the clusters of a representation, without labels.

    The rows are clustered by K-means. Prequential: each row is predicted from the rows before it, so the value is the area
    under a learning curve. Held-out: some rows are predicted from the others.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite, any strides.
        labels: ``[n]`` int64 to predict instead of clusters.
        n_clusters: of K-means; ``floor(sqrt(n))`` without it.
        k: neighbours that vote, from 1.
        metric: ``"cosine"``, rows are scaled to length one before all else; or ``"euclidean"``.
        protocol: ``"prequential"``, all rows, each from those before it (the first counts as missed); or ``"split"``.
        order: the order of the rows in the prequential protocol, a permutation ``[n]``; theirs without it. The value depends
            on it.
        train: of the split: the share of the rows to learn from, drawn at random, or their indices.
        generator: of the random numbers; torch's own without it.

    Returns:
        ``Learnability(value, hits, labels)``: the share of hits; ``hits`` bool in the order of the predictions, ``[n]`` or, of
        the split, one for each other row by rising index; ``labels`` that were predicted, ``[n]``; ``curve``, the share of
        hits so far.

    Raises:
        ValueError: wrong shape or dtype, an unknown ``metric`` or ``protocol``, numbers out of range, an ``order`` that is no
            permutation, a NaN or an infinity (the first such row is named).

    Cost:
        K-means, then ``n^2 d`` flops for one causal search (half of what all pairs would cost); the split
        ``2 n_train (n - n_train) d``. Memory grows with ``n (d + k)``.

    Accuracy:
        Neighbours and labels are exact, as of `knn` and `kmeans`.

    Not differentiable. The same value for the same generator and every number of threads.

    References:
        Lu et al., Using representation expressiveness and learnability to evaluate self-supervised learning methods,
        arXiv:2206.01251.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> cluster_learnability(x, labels=torch.tensor([0, 0, 1, 1])).value  # the first of each cluster is missed
        0.5
    """
    op = "cluster_learnability"
    if x.ndim != 2:
        raise ValueError(f"{op}: x must be [n, d], got shape {tuple(x.shape)}")
    n = len(x)
    if n < 2:
        raise ValueError(f"{op}: x must have at least 2 rows, got {n}")
    if metric not in {"cosine", "euclidean"}:
        raise ValueError(f"{op}: metric must be cosine or euclidean, got {metric}")
    if protocol not in {"prequential", "split"}:
        raise ValueError(f"{op}: protocol must be prequential or split, got {protocol}")
    rows = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if metric == "cosine":
        rows = normalize(rows)[0]
    if labels is None:
        labels = kmeans(rows, math.isqrt(n) if n_clusters is None else n_clusters, generator=generator).labels
    if labels.shape != (n,):
        raise ValueError(f"{op}: labels must be [n] with n = {n} like x, got shape {tuple(labels.shape)}")
    if protocol == "prequential":
        order = _permutation(op, order, rows)
        hits = predict(labels[order], knn(rows[order], k, causal=True)) == labels[order]
    else:
        learned, held_out = _split(op, train, rows, generator)
        hits = predict(labels[learned], knn(rows[held_out], k, rows[learned])) == labels[held_out]
    return Learnability(hits.double().mean().item(), hits, labels)


def _permutation(op: str, order: Tensor | None, rows: Tensor) -> Tensor:
    identity = torch.arange(len(rows), device=rows.device)
    if order is None:
        return identity
    if order.shape != identity.shape or not torch.equal(order.sort().values, identity):
        raise ValueError(f"{op}: order must be a permutation of 0 ... {len(rows) - 1}, got {order.tolist()}")
    return order


def _split(op: str, train: float | Tensor, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    n = len(rows)
    if not isinstance(train, Tensor):
        learned = round(n * train)
        if not 1 <= learned < n:
            raise ValueError(f"{op}: train must leave rows on both sides, got {train} of {n} rows")
        train = torch.randperm(n, generator=generator, device="cpu")[:learned].to(rows.device)
    held_out = torch.ones(n, dtype=torch.bool, device=rows.device)
    held_out[train] = False
    if not 0 < int(held_out.sum()) < n:
        raise ValueError(f"{op}: train must leave rows on both sides, got {len(train)} of {n} rows")
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def _learnability_and_dimension(
    rows: Tensor, *, n_clusters: int | None, k: int, protocol: str, generator: torch.Generator | None
) -> list[float]:
    """Return the values of `cluster_learnability` and `twonn` from one sweep."""
    n = len(rows)
    labels = kmeans(rows, math.isqrt(n) if n_clusters is None else n_clusters, generator=generator).labels
    train = torch.ones(n, dtype=torch.bool, device=rows.device)
    if protocol == "split":
        train[_split("clid", 0.5, rows, generator)[1]] = False
    near = knn_pass(rows, max(k, 2), train=None if protocol == "prequential" else train)
    votes, wanted = (near.past, labels) if near.held_out is None else (near.held_out, labels[~train])
    hits = predict(labels, Neighbors(votes.distances[:, :k], votes.indices[:, :k])) == wanted
    return [hits.double().mean().item(), twonn_from(rows, near.others).item()]


class Clid(NamedTuple):
    """Representations compared: their names, learnability, dimension, and both joined to one score."""

    names: tuple[str, ...]
    learnability: Tensor
    dimension: Tensor
    score: Tensor


def clid(
    representations: Mapping[str, Tensor],
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    metric: str = "cosine",
    n_clusters: int | None = None,
    k: int = 1,
    protocol: str = "prequential",
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Clid:
    r"""Compare representations without labels: cluster learnability and intrinsic dimension, joined to one score.

    :math:`\mathrm{CLID}_m = w_1 z(\mathrm{CL})_m + w_2 z(\mathrm{ID})_m`, where :math:`z` standardises over the
    representations: learnability lies between 0 and 1, dimensions in the tens.

    Args:
        representations: ``[n, d]`` by name, of the same samples in the same order; ``d`` may differ.
        weights: of the two terms; `clid_weights` fits them to known accuracies.
        metric: ``"cosine"``, rows are scaled to length one for both terms; or ``"euclidean"``.
        n_clusters: of K-means; ``floor(sqrt(n))`` without it.
        k: neighbours that vote.
        protocol: ``"prequential"`` or ``"split"``, of `cluster_learnability`.
        generator: of the random numbers; torch's own without it.
        progress: show a bar (with tqdm installed).

    Returns:
        ``Clid(names, learnability, dimension, score)``, the last three ``[m]`` float64. Where all agree in a term, or one has
        no dimension, that term is 0 (or NaN for that one), with a ``NumericalWarning``.

    Raises:
        ValueError: no representations, different numbers of rows, and what `cluster_learnability` and `twonn` refuse.

    Cost:
        Of each representation: K-means and one sweep for both terms, ``n^2 d`` flops (`knn_pass`).

    Accuracy:
        Of `cluster_learnability` and `twonn`.

    Not differentiable.

    References:
        Lu et al., arXiv:2206.01251. Standardising is this library's choice: the scale of the sum is a convention.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> wide, narrow = torch.rand(200, 8, generator=generator), torch.rand(200, 2, generator=generator)
        >>> found = clid({"wide": wide, "narrow": narrow}, generator=generator)
        >>> found.dimension[0] > found.dimension[1]
        tensor(True)
    """
    names = tuple(representations)
    sizes = {len(x) for x in representations.values()}
    if len(sizes) != 1:
        raise ValueError(f"clid: representations must all have the same number of rows, got {sorted(sizes) or 'none'}")
    if metric not in {"cosine", "euclidean"}:
        raise ValueError(f"clid: metric must be cosine or euclidean, got {metric}")
    found = []
    for x in progress_bar(list(representations.values()), "clid", shown=progress):
        rows = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        if metric == "cosine":
            rows = normalize(rows)[0]
        if protocol in {"prequential", "split"} and x.ndim == 2 and k > 0 and max(k, 2) < len(x):
            found.append(
                _learnability_and_dimension(rows, n_clusters=n_clusters, k=k, protocol=protocol, generator=generator)
            )
            continue
        learnability = cluster_learnability(  # refused, or too few rows for a dimension
            rows, n_clusters=n_clusters, k=k, metric="euclidean", protocol=protocol, generator=generator
        )
        found.append([learnability.value, twonn(rows).value.item()])
    return joined(names, found, weights)


def joined(names: tuple[str, ...], found: list[list[float]], weights: tuple[float, float]) -> Clid:
    """Join the learnability and the dimension of each representation to its score."""
    columns = torch.tensor(found, dtype=torch.float64, device="cpu").unbind(1)
    terms = [standardize(column, name) for column, name in zip(columns, ("learnability", "dimension"), strict=True)]
    return Clid(names, columns[0], columns[1], weights[0] * terms[0] + weights[1] * terms[1])
