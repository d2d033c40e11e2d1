"""Exact counts of the rows within a radius."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian import _fake

_count_within = torch.ops.gramian.neighbors_count_within.default


def count_within(
    x: Tensor,
    radius: Tensor | float,
    y: Tensor | None = None,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    strict: bool = False,
) -> Tensor:
    r"""How many rows of ``y``, or of ``x`` itself, lie within a radius of every row of ``x``.

    A pair counts if the distance that `knn` would return for it is at most the radius.

    Args:
        x: ``[..., n, d]`` float32, float64, bfloat16 or float16, finite, any strides; read in place. Leading axes are
            batches.
        radius: one for all rows, or ``[..., n]``, in the dtype of the distances (float32 for half types) and the units of
            `knn`'s.
        y: ``[..., m, d]``, dtype and device of ``x``. Without it ``x`` is searched against itself, each pair once.
        metric: ``"euclidean"``, ``"sqeuclidean"``, ``"cosine"`` or ``"chebyshev"``, as for `knn`.
        exclude_self: leave out row ``i`` for query ``i``. Only without ``y``.
        strict: count distances below the radius, not at it.

    Returns:
        Counts ``[..., n]`` int64.

    Raises:
        ValueError: wrong shape, dtype or device; unknown ``metric``; ``y`` together with ``exclude_self``; a NaN or an infinity
            (the first such row is named).

    Cost:
        ``2 n m d`` flops (``n^2 d`` without ``y``), Chebyshev as many subtractions and comparisons; ``3 d`` more for each pair
        within rounding of its radius. Memory: a workspace of a few MB a thread; nothing grows with ``n m``.

    Accuracy:
        Exact for the distances that `knn` returns.

    Not differentiable. The same counts for every number of threads.

    References:
        Ball counts of the estimators of Kraskov, Stoegbauer and Grassberger, Physical Review E 69:066138, 2004. The algorithm
        is this library's own.

    Example:
        >>> count_within(torch.tensor([[0.0], [1.0], [5.0]]), 4.0, exclude_self=True)
        tensor([1, 2, 1])
    """
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    radii = torch.as_tensor(radius, dtype=None if isinstance(radius, Tensor) else wide, device=x.device).detach()
    if radii.ndim == 0:
        radii = radii.to(wide).expand(x.shape[:-1])
    if strict:
        radii = torch.nextafter(radii, torch.full_like(radii, -torch.inf))
    counts: Tensor = _count_within(x.detach(), radii, y if y is None else y.detach(), metric, exclude_self)
    return counts


@_fake.register("neighbors_count_within")
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.int64)


@torch.library.register_vmap("gramian::neighbors_count_within")  # type: ignore[untyped-decorator]
def _(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, radius: Tensor, y: Tensor | None = None, *rest: Any
) -> tuple[Tensor, int]:
    def batched(t: Tensor, dim: int | None) -> Tensor:
        return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

    y_batched = None if y is None else batched(y, in_dims[2])
    return _count_within(batched(x, in_dims[0]), batched(radius, in_dims[1]), y_batched, *rest), 0
