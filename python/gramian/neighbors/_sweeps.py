"""Several searches of the same rows in one sweep of their products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian import _fake

from ._knn import Neighbors

_knn_both = torch.ops.gramian.neighbors_knn_both.default
_knn_pass = torch.ops.gramian.neighbors_knn_pass.default


class KnnPass(NamedTuple):
    """Three searches in one: among all other rows, among the rows before, and of held-out rows among the others."""

    others: Neighbors
    past: Neighbors
    held_out: Neighbors | None


def knn_pass(x: Tensor, k: int, *, train: Tensor | None = None) -> KnnPass:
    r"""Exact ``k`` nearest neighbours of every row among all others, among the rows before it, and among rows to learn from.

    What an intrinsic dimension, a prequential and a held-out learning score ask for, by Euclidean distance in one symmetric sweep: a
    tile of the product serves the lists of its rows, of what comes after them, and of its columns, of what comes before.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite, any strides; read in place. For cosine distances scale its rows
            to length one: the neighbours are the same.
        k: neighbours a row, from 1 to ``n - 1``.
        train: ``[n]`` bool, the rows to learn from. The others are held out.

    Returns:
        ``KnnPass(others, past, held_out)``: what ``knn(x, k, exclude_self=True)`` and ``knn(x, k, causal=True)`` give, to the bit;
        and ``held_out``, ``[m, k]`` for the ``m`` rows that are not in ``train`` by rising index, their neighbours in
        ``train`` as indices into ``x`` (None without it). Where there are fewer than ``k`` to choose from, index -1 at distance ``inf``.

    Raises:
        ValueError: wrong shape or dtype; ``k`` out of range; a NaN or an infinity (the first such row is named).

    Cost:
        ``n^2 d`` flops, where the searches one by one take ``2 n^2 d`` and as much again for each pair of a held-out row and
        one to learn from. Memory: three times the lists of `knn`.

    Accuracy:
        That of `knn`.

    Not differentiable. The same bits for every number of threads.

    References:
        The measures of Lu et al., arXiv:2206.01251, share these searches; the algorithm is this library's own.

    Example:
        >>> found = knn_pass(torch.tensor([[0.0], [5.0], [1.0]]), 1, train=torch.tensor([True, True, False]))
        >>> [near.indices[:, 0].tolist() for near in found]
        [[2, 2, 0], [-1, 0, 0], [0]]
    """
    *found, distances, indices = _knn_pass(x.detach(), k, train)
    held_out = None if train is None else Neighbors(distances[~train], indices[~train])
    return KnnPass(Neighbors(found[0], found[1]), Neighbors(found[2], found[3]), held_out)


@_fake.register("neighbors_knn_pass")
def _(x: Tensor, k: int, train: Tensor | None = None) -> tuple[Tensor, ...]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = (len(x), len(x), 0 if train is None else len(x))
    return tuple(x.new_empty(n, k, dtype=of) for n in rows for of in (dtype, torch.int64))


class KnnBoth(NamedTuple):
    """Two searches in one: the nearest rows of y for each row of x, and of x for each row of y."""

    of_x: Neighbors
    of_y: Neighbors


def knn_both(
    x: Tensor, y: Tensor, k: int, *, metric: str = "euclidean", reach: tuple[Tensor, Tensor] | None = None
) -> KnnBoth:
    r"""Exact ``k`` nearest neighbours of two sets in each other, in one sweep.

    A tile of the product serves the lists of its rows and of its columns, so two searches cost little more than one. What precision
    and recall of generated samples, a Chamfer distance, matchings and `gramian.distributed.knn` ask for.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite, any strides; read in place. May have no rows.
        y: ``[m, d]``, dtype and device of ``x``. May have no rows.
        k: neighbours a row, from 1.
        metric: as for `knn`.
        reach: ``[n]`` and ``[m]``, in the dtype of distances: neighbours of a row that lie farther are left out (``"ip"``: whose product
            is smaller). Where the k-th distance among other rows is known, the sweep passes over nearly all that cannot improve on it.

    Returns:
        ``KnnBoth(of_x, of_y)``: what ``knn(x, k, y)`` and ``knn(y, k, x)`` give, to the bit, ``[n, k]`` and ``[m, k]``; where there are fewer
        than ``k`` rows to choose from, or within ``reach``, index -1 at distance ``inf`` (``"ip"``: ``-inf``).

    Raises:
        ValueError: wrong shape, dtype or device; ``k`` not positive; unknown ``metric``; a NaN or an infinity (the first such row is
            named); a NaN in ``reach``.

    Cost:
        ``2 n m d`` flops, where two searches take twice that. Memory: the lists of `knn`, of both sides.

    Accuracy:
        That of `knn`.

    Not differentiable. The same bits for every number of threads.

    References:
        The algorithm is this library's own (docs/how-it-works/neighbors.md).

    Example:
        >>> found = knn_both(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [4.0], [9.0]]), 1)
        >>> [near.indices[:, 0].tolist() for near in found]
        [[0, 1], [0, 1, 1]]
    """
    of_x, of_y = (None, None) if reach is None else (side.detach() for side in reach)
    found = _knn_both(x.detach(), y.detach(), k, metric, of_x, of_y)
    return KnnBoth(Neighbors(found[0], found[1]), Neighbors(found[2], found[3]))


@_fake.register("neighbors_knn_both")
def _(x: Tensor, y: Tensor, k: int, *_: Any) -> tuple[Tensor, ...]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return tuple(x.new_empty(len(side), k, dtype=of) for side in (x, y) for of in (dtype, torch.int64))
