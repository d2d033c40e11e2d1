"""K-means: what groups there are in a representation."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian import _autograd, _fake
from gramian._progress import progress_bar
from gramian._warnings import NumericalWarning

from ._knn import normalize, rows_at, scatter_rows

__all__ = ["Assignment", "Clustering", "assign", "kmeans", "kmeans_plus_plus"]

_assign = torch.ops.gramian.neighbors_assign.default
_kmeans = torch.ops.gramian.neighbors_kmeans.default
_kmeans_plus_plus = torch.ops.gramian.neighbors_kmeans_plus_plus.default


class Assignment(NamedTuple):
    """The nearest centre of each point."""

    labels: Tensor
    distances: Tensor


def assign(x: Tensor, centers: Tensor) -> Assignment:
    r"""Nearest centre of every point: :math:`\arg\min_j |x_i - c_j|^2`, and that squared distance.

    Args:
        x: ``[..., n, d]`` float32, float64, bfloat16 or float16, finite. Rows of any stride are read in place; half types, and
            features that do not lie side by side, are copied.
        centers: ``[..., k, d]``, leading sizes of ``x``, in its dtype (float32 for half types), finite; ``k >= 1``.

    Returns:
        ``Assignment(labels, distances)``, both ``[..., n]``: labels int64, ties to the lower index; distances squared, in
        squared units of ``x``, in the dtype of ``centers``, exactly zero for a point that equals its centre.

    Raises:
        ValueError: wrong shape, dtype or device; a NaN or an infinity (the first such row is named).

    Cost:
        ``2 n k d`` flops; memory a packed copy of the centres and of 32 points for each thread.

    Accuracy:
        Distances are rounded once from float64. Labels are exact for those distances: scores from a Gram tile decide
        where they differ by more than their proven error, and float64 distances from the rows as given elsewhere.

    Differentiable in ``x`` and ``centers`` with the labels held fixed, in both modes and to any order; works under
    ``torch.func``, ``torch.compile`` and ``vmap``; the same bits for every number of threads.

    References:
        The algorithm is this library's own (docs/how-it-works/neighbors.md).

    Example:
        >>> assign(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.0], [4.0]]))
        Assignment(labels=tensor([0, 0, 1]), distances=tensor([0., 1., 1.]))
    """
    distances, labels = _assign(x, centers)
    return Assignment(labels, distances)


@_fake.register("neighbors_assign")
def _(x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1], dtype=centers.dtype), x.new_empty(x.shape[:-1], dtype=torch.int64)


@torch.library.register_vmap("gramian::neighbors_assign")  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[int | None, ...], *rows: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    batched = [
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(rows, in_dims, strict=True)
    ]
    return _assign(*batched), (0, 0)


def _assign_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    labels = output[1]
    ctx.mark_non_differentiable(labels)
    ctx.save_for_backward(*inputs, labels)
    ctx.save_for_forward(*inputs, labels)


def _assign_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    x, centers, labels = ctx.saved_tensors
    pull = 2 * grad.unsqueeze(-1) * (x.to(centers.dtype) - rows_at(centers, labels))
    return pull.to(x.dtype), scatter_rows(torch.zeros_like(centers), labels, -pull)


def _assign_jvp(ctx: Any, x_tangent: Tensor | None, centers_tangent: Tensor | None) -> tuple[Tensor, None]:
    x, centers, labels = ctx.saved_tensors
    apart = x.to(centers.dtype) - rows_at(centers, labels)
    moved = torch.zeros_like(apart) if x_tangent is None else x_tangent.to(centers.dtype)
    if centers_tangent is not None:
        moved = moved - rows_at(centers_tangent, labels)
    return 2 * (apart * moved).sum(-1), None


_autograd.register(_assign, setup_context=_assign_setup, backward=_assign_backward, jvp=_assign_jvp)


def _uniforms(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(rows, columns, generator=generator, dtype=torch.float64, device="cpu")


def _float64(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.detach().to(torch.float64)


def kmeans_plus_plus(
    x: Tensor,
    n_clusters: int,
    *,
    weights: Tensor | None = None,
    trials: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Rows to start K-means from, by greedy k-means++.

    The first row is drawn by weight; each further one is the best of ``trials`` rows drawn with probability
    :math:`w_i D_i / \sum_j w_j D_j`, where :math:`D_i` is the squared distance of row ``i`` to the nearest row chosen so
    far: the one that leaves the smallest :math:`\sum_i w_i D_i`.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite. Rows of any stride are read in place; half types, and
            features that do not lie side by side, are copied.
        n_clusters: rows to choose, from 1 to ``n``.
        weights: ``[n]`` of the rows, not negative; one each without it.
        trials: rows drawn for each choice; ``2 + floor(log(n_clusters))`` without it, as scikit-learn does.
        generator: of the random numbers; torch's own without it.

    Returns:
        The indices of the chosen rows in their order, ``[n_clusters]`` int64, all different unless rows with weight run
        out.

    Raises:
        ValueError: wrong shape, dtype or device, ``n_clusters`` or ``trials`` out of range, negative weights, a NaN or an
            infinity (the first such row is named).

    Cost:
        ``2 n d (n_clusters - 1) trials`` flops in ``n_clusters`` passes over the rows; memory a packed copy of the rows and
        ``n (trials + 1)`` distances.

    Accuracy:
        Distances that decide the draws are within one hundredth, whatever the offset of the data: those that cancel in the
        Gram form are computed from the rows.

    Not differentiable. The same rows for the same generator and every number of threads.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

    Example:
        >>> kmeans_plus_plus(torch.tensor([[0.0], [0.0], [9.0]]), 2, generator=torch.Generator().manual_seed(0)).sort().values[1]
        tensor(2)
    """
    if not 1 <= n_clusters <= len(x):
        raise ValueError(f"kmeans_plus_plus: n_clusters must be from 1 to n = {len(x)}, got {n_clusters}")
    if trials is None:
        trials = 2 + int(math.log(n_clusters))
    if trials < 1:
        raise ValueError(f"kmeans_plus_plus: trials must be positive, got {trials}")
    numbers = _uniforms(n_clusters, trials, generator).to(x.device)
    rows: Tensor = _kmeans_plus_plus(x.detach(), numbers, _float64(weights))
    return rows


@_fake.register("neighbors_kmeans_plus_plus")
def _(x: Tensor, uniforms: Tensor, weights: Tensor | None = None) -> Tensor:
    return x.new_empty(uniforms.shape[:1], dtype=torch.int64)


class Clustering(NamedTuple):
    """What K-means found."""

    centers: Tensor
    labels: Tensor
    inertia: float
    n_iter: int


def kmeans(
    x: Tensor,
    n_clusters: int,
    *,
    init: Tensor | str = "k-means++",
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 0.0,
    weights: Tensor | None = None,
    spherical: bool = False,
    empty: str = "relocate",
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Clustering:
    r"""K-means by Lloyd's algorithm: centres that minimise :math:`\sum_i w_i \min_j |x_i - c_j|^2`, locally.

    Assignment and update alternate until no label changes. Labels are those of exact distances at every round, so runs
    end where the algorithm in float64 arithmetic would end, up to the rounding of the centres to their dtype.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite. Rows of any stride are read in place; half types, and
            features that do not lie side by side, are copied.
        n_clusters: from 1 to ``n``.
        init: ``"k-means++"``; ``"random"``, rows drawn by weight, no row twice; or the centres, ``[n_clusters, d]``: those of an
            earlier result continue its run.
        n_init: runs from different starts, of which the one with the lowest inertia is returned; with given centres one.
        max_iter: most rounds of assignment.
        tol: stop when the squared distances that the centres move in a round sum to at most this times the mean variance
            of the features. The default stops when nothing moves.
        weights: ``[n]`` of the points, not negative; one each without it.
        spherical: cluster directions: rows and centres are scaled to length one (a zero row stays zero).
        empty: what becomes of a cluster without points: ``"relocate"``, it takes the point that is farthest from its centre,
            the lowest index among equals; or ``"keep"``, it stays where it is.
        generator: of the random numbers; torch's own without it.
        progress: show a bar over the runs (with tqdm installed).

    Returns:
        ``Clustering(centers, labels, inertia, n_iter)``: centres ``[n_clusters, d]`` in the dtype of ``x`` (float32 for half
        types), in its units; labels ``[n]`` int64, exactly ``assign(x, centers).labels``; the inertia, from float64
        distances, in squared units of ``x``; the rounds of assignment.

    Raises:
        ValueError: wrong shape, dtype or device; numbers out of range; an unknown ``init`` or ``empty``; negative weights;
            a NaN or an infinity (the first such row is named).

    Cost:
        ``2 n k d`` flops a round; memory a packed copy of the rows, ``k d`` sums and a few numbers for each point.

    Accuracy:
        Labels are exact for the centres, ties to the lower index; sums are float64, so centres are means rounded once.

    Not differentiable. The same bits for every number of threads. A cluster that ends without points (fewer different points
    than clusters) is reported by a ``NumericalWarning``.

    References:
        Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 28, 1982. As used for cluster
        learnability: Lu et al., arXiv:2206.01251.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [8.0], [10.0]])
        >>> kmeans(x, 2, init=x[:2])
        Clustering(centers=tensor([[0.5000],
                [9.0000]]), labels=tensor([0, 0, 1, 1]), inertia=2.5, n_iter=3)
    """
    if empty not in {"relocate", "keep"}:
        raise ValueError(f"kmeans: empty must be relocate or keep, got {empty}")
    if n_init < 1:
        raise ValueError(f"kmeans: n_init must be positive, got {n_init}")
    points, weights = x.detach(), _float64(weights)
    if spherical:
        points = normalize(points.to(torch.promote_types(x.dtype, torch.float32)))[0]

    def run() -> Clustering:
        start = start_centers(points, n_clusters, init, weights, generator)
        if spherical:
            start = normalize(start)[0]
        centers, labels, inertia, n_iter = _kmeans(
            points, start, weights, max_iter, tol, spherical, empty == "relocate"
        )
        return Clustering(centers, labels, inertia.item(), n_iter.item())

    runs = 1 if isinstance(init, Tensor) else n_init
    results = (run() for _ in progress_bar(range(runs), "kmeans", shown=progress))
    best = min(results, key=lambda result: result.inertia)
    used = int(best.labels.bincount().count_nonzero())
    if used < n_clusters:
        warnings.warn(f"kmeans: only {used} of {n_clusters} clusters have points", NumericalWarning, stacklevel=2)
    return best


def start_centers(
    x: Tensor, n_clusters: int, init: Tensor | str, weights: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    if isinstance(init, Tensor):
        if init.shape[:1] != (n_clusters,):
            raise ValueError(f"kmeans: init must be [n_clusters = {n_clusters}, d], got shape {tuple(init.shape)}")
        return init.detach()
    if not 1 <= n_clusters <= len(x):
        raise ValueError(f"kmeans: n_clusters must be from 1 to n = {len(x)}, got {n_clusters}")
    if init == "k-means++":
        rows = kmeans_plus_plus(x, n_clusters, weights=weights, generator=generator)
    elif init == "random":
        # The largest of log(u) / w are a sample by weight without replacement.
        keys = _uniforms(1, len(x), generator)[0].log().to(x.device)
        rows = (keys if weights is None else keys / weights).topk(n_clusters).indices
    else:
        raise ValueError(f"kmeans: init must be k-means++, random or a tensor, got {init}")
    return x[rows].to(torch.promote_types(x.dtype, torch.float32))


@_fake.register("neighbors_kmeans")
def _(x: Tensor, init: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = x.new_empty(x.shape[:1], dtype=torch.int64)
    return init.new_empty(init.shape), labels, x.new_empty((), dtype=torch.float64), labels.new_empty(())
