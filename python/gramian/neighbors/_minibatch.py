"""K-means over batches: centres that move with points as they come."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._kmeans import assign

__all__ = ["BatchUpdate", "kmeans_batch"]


class BatchUpdate(NamedTuple):
    """Centres after a batch, the weight that each has taken in so far, and the batch's labels and inertia."""

    centers: Tensor
    counts: Tensor
    labels: Tensor
    inertia: float


def kmeans_batch(
    x: Tensor, centers: Tensor, counts: Tensor | None = None, *, weights: Tensor | None = None
) -> BatchUpdate:
    r"""One step of mini-batch K-means: every centre becomes the mean of all points it was ever nearest to.

    Points go to the nearest centre as it was before the batch; then :math:`c_j \leftarrow c_j + \frac{1}{N_j} \sum_{i: l_i = j} w_i
    (x_i - c_j)`, :math:`N_j` being the weight of all its points up to these.

    Args:
        x: ``[n, d]``, a batch, float32, float64, bfloat16 or float16, finite.
        centers: ``[k, d]`` in the dtype of ``x`` (float32 for half types), finite: rows that `kmeans_plus_plus` chose, or what the last batch
            returned.
        counts: ``[k]`` float64, the weight that each centre has taken in; none without it.
        weights: ``[n]`` of the points, not negative; one each without it.

    Returns:
        ``BatchUpdate(centers, counts, labels, inertia)``: centres and counts for the next batch; ``labels`` ``[n]`` int64 and the weighted
        sum of squared distances, in squared units of ``x``, both against the centres as given. A centre without points stays.

    Raises:
        ValueError: wrong shape, dtype or device; negative weights or counts; a NaN or an infinity (the first such row is named).

    Cost:
        ``2 n k d`` flops; memory a float64 copy of the batch and of the centres.

    Accuracy:
        Labels are exact for the centres, as of `assign`; sums are float64.

    Not differentiable. The same bits for every number of threads.

    References:
        Sculley, Web-scale k-means clustering, WWW 2010.

    Example:
        >>> first = kmeans_batch(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[0.0], [8.0]]))
        >>> kmeans_batch(torch.tensor([[4.0]]), first.centers, first.counts).centers
        tensor([[2.],
                [9.]])
    """
    op = "kmeans_batch"
    x, centers = x.detach(), centers.detach()
    labels, squared = assign(x, centers)
    if x.ndim != 2:
        raise ValueError(f"{op}: x must be [n, d], got shape {tuple(x.shape)}")
    n, k = len(x), len(centers)
    counts = _numbers(op, "counts", counts, k, x.device, missing=0.0)
    weights = _numbers(op, "weights", weights, n, x.device, missing=1.0)
    old = centers.double()
    apart = (x.double() - old[labels]) * weights[:, None]
    total = counts.index_add(0, labels, weights)
    pull = torch.zeros_like(old).index_add_(0, labels, apart)
    moved = old + pull / total.where(total > 0, 1)[:, None]
    return BatchUpdate(moved.to(centers.dtype), total, labels, float(weights @ squared.double()))


def _numbers(op: str, name: str, given: Tensor | None, size: int, device: torch.device, *, missing: float) -> Tensor:
    if given is None:
        return torch.full((size,), missing, dtype=torch.float64, device=device)
    if given.shape != (size,):
        raise ValueError(f"{op}: {name} must be [{size}], got shape {tuple(given.shape)}")
    values = given.detach().double()
    if not bool(((values >= 0) & values.isfinite()).all()):
        raise ValueError(f"{op}: {name} must be finite and not negative, got {given.min().item()}")
    return values
