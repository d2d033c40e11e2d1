"""Exact nearest neighbours: who is near whom in a representation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gramian import _autograd, _fake
from gramian._progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable

_knn = torch.ops.gramian.neighbors_knn.default


class Neighbors(NamedTuple):
    """The nearest rows of each row, nearest first."""

    distances: Tensor
    indices: Tensor


def knn(
    x: Tensor,
    k: int,
    y: Tensor | None = None,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    causal: bool = False,
) -> Neighbors:
    r"""Exact ``k`` nearest neighbours of every row of ``x`` among the rows of ``y``, or of ``x`` itself.

    A Gram sweep scores all pairs without storing them, each score with a proven error bound; the pairs that the bound
    cannot rule out are decided by distances computed in float64 from the rows as given. Large common offsets,
    duplicates and near-ties therefore cost time, never correctness.

    Args:
        x: ``[..., n, d]`` float32, float64, bfloat16 or float16, finite, any strides; read in place. Leading axes are
            batches, searched one by one.
        k: neighbours a row, from 1 to the rows there are to choose from.
        y: ``[..., m, d]``, dtype and device of ``x``. Without it ``x`` is searched against itself: each pair is then
            computed once and serves both its rows, which halves the work.
        metric: ``"euclidean"``; ``"sqeuclidean"``, its square; ``"cosine"``, :math:`1 - \cos(x, y)`, a zero row being at
            distance 1 from all; ``"chebyshev"``, the largest difference of a feature; ``"ip"``, the inner product :math:`x \cdot y`, largest first.
        exclude_self: leave out row ``i`` for query ``i``, by index: duplicates of a row stay. Only without ``y``.
        causal: row ``i`` sees only the rows before it. Only without ``y``.

    Returns:
        ``Neighbors(distances, indices)``, both ``[..., n, k]``, nearest first: distances in the units of ``x`` (squared,
        or dimensionless, or squared units for ``"ip"``), in the dtype of ``x`` (float32 for half types); indices int64.
        Equal distances are ordered by the lower index, also at the ``k``-th place. Where a causal row has fewer
        than ``k`` rows before it, index -1 at distance ``inf`` (``"ip"``: ``-inf``).

    Raises:
        ValueError: wrong shape, dtype or device; ``k`` out of range; unknown ``metric``; ``y`` together with
            ``exclude_self`` or ``causal``; a NaN or an infinity (the first such row is named).

    Cost:
        ``2 n m d`` flops (``n^2 d`` without ``y`` or causal), plus about ``3 d`` for each of the few candidates a row. Where the
        processor has a bfloat16 dot product and a sample of rows shows that it pays, the sweep runs in it at twice
        the rate; the result is the same to the bit. Memory: ``16 n k`` bytes of candidate lists and
        a workspace of a few MB a thread; nothing grows with ``n m``. A few queries are compared with the rows of ``y`` straight from
        memory, with 64 MB of scores at most, or 16 bytes for each row of ``y``.

    Accuracy:
        Distances are rounded once from float64, so their error is below one unit in the last place of the dtype
        (float64 input: the difference form in float64, ``d`` roundings). Indices are exact for those distances.

    Differentiable in ``x`` and ``y`` with the indices held fixed (the derivative of a zero Euclidean or Chebyshev distance is
    taken as zero, and that of a largest difference is the first one's where several are equal), in both modes and to any order; works under ``torch.func``, ``torch.compile`` and ``vmap``; the
    same bits for every number of threads.

    References:
        Nearest neighbours as used for cluster learnability: Lu et al., arXiv:2206.01251. The algorithm is this
        library's own (docs/how-it-works/neighbors.md).

    Example:
        >>> knn(torch.tensor([[0.0], [1.0], [5.0]]), 1, exclude_self=True)
        Neighbors(distances=tensor([[1.],
                [1.],
                [4.]]), indices=tensor([[1],
                [0],
                [1]]))
    """
    return Neighbors(*_knn(x, k, y, metric, exclude_self, causal))


@_fake.register("neighbors_knn")
def _(x: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (*x.shape[:-1], k)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=torch.int64)


@torch.library.register_vmap("gramian::neighbors_knn")  # type: ignore[untyped-decorator]
def _(
    info: Any, in_dims: tuple[int | None, ...], x: Tensor, k: int, y: Tensor | None = None, *rest: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    def batched(t: Tensor, dim: int | None) -> Tensor:
        return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

    y_batched = None if y is None else batched(y, in_dims[2])
    return _knn(batched(x, in_dims[0]), k, y_batched, *rest), (0, 0)


# The derivative, one neighbour at a time: [n, d] at once instead of [n, k, d].


def rows_at(of: Tensor, index: Tensor) -> Tensor:
    return of.gather(-2, index.clamp(min=0).unsqueeze(-1).expand(*index.shape, of.shape[-1]))


def scatter_rows(onto: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    return onto.scatter_add(-2, index.clamp(min=0).unsqueeze(-1).expand_as(rows), rows)


def normalize(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = x.norm(dim=-1, keepdim=True)
    inverse = torch.where(norm > 0, 1 / norm.where(norm > 0, 1), 0)
    return x * inverse, inverse


def _steepest(apart: Tensor) -> Tensor:
    """The derivative of the largest absolute difference: its sign, at its place."""
    if apart.shape[-1] == 0:
        return apart
    first = apart.abs().argmax(-1, keepdim=True)
    return torch.zeros_like(apart).scatter(-1, first, apart.gather(-1, first).sign())


def _weights(ctx: Any, factor: Tensor, distances: Tensor, indices: Tensor) -> Tensor:
    """``factor`` times the derivative of a distance by half its square, and zero for entries that are not there."""
    if ctx.metric == "euclidean":
        factor = factor * torch.where(distances > 0, 1 / distances.where(distances > 0, 1), 0)
    elif ctx.metric == "sqeuclidean":
        factor = 2 * factor
    elif ctx.metric == "cosine":
        factor = -factor
    return factor.where(indices >= 0, 0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, y, ctx.metric, *_ = inputs
    distances, indices = output
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(x, y, distances, indices)
    ctx.save_for_forward(x, y, distances, indices)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x_given, y_given, distances, indices = ctx.saved_tensors
    wide = distances.dtype
    x = x_given.to(wide)
    y = x if y_given is None else y_given.to(wide)
    weights = _weights(ctx, grad, distances, indices)
    products = ctx.metric in {"cosine", "ip"}
    if ctx.metric == "cosine":
        (x, x_inverse), (y, y_inverse) = normalize(x), normalize(y)
    grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
    for weight, index in zip(weights.unbind(-1), indices.unbind(-1), strict=True):
        w, near = weight.unsqueeze(-1), rows_at(y, index)
        apart = _steepest(x - near) if ctx.metric == "chebyshev" else x - near
        grad_x = grad_x + w * (near if products else apart)
        grad_y = scatter_rows(grad_y, index, w * (x if products else -apart))
    if ctx.metric == "cosine":
        grad_x = x_inverse * (grad_x - (grad_x * x).sum(-1, keepdim=True) * x)
        grad_y = y_inverse * (grad_y - (grad_y * y).sum(-1, keepdim=True) * y)
    if y_given is None:
        return (grad_x + grad_y).to(x_given.dtype), None, None, None, None, None
    return grad_x.to(x_given.dtype), None, grad_y.to(y_given.dtype), None, None, None


def _jvp(ctx: Any, x_tangent: Tensor | None, _k: None, y_tangent: Tensor | None, *_: Any) -> tuple[Tensor, None]:
    x_given, y_given, distances, indices = ctx.saved_tensors
    wide = distances.dtype
    x = x_given.to(wide)
    y = x if y_given is None else y_given.to(wide)
    dx = torch.zeros_like(x) if x_tangent is None else x_tangent.to(wide)
    dy = dx if y_given is None else torch.zeros_like(y) if y_tangent is None else y_tangent.to(wide)
    if ctx.metric == "cosine":
        (x, x_inverse), (y, y_inverse) = normalize(x), normalize(y)
        dx = x_inverse * (dx - (dx * x).sum(-1, keepdim=True) * x)
        dy = y_inverse * (dy - (dy * y).sum(-1, keepdim=True) * y)
    columns = []
    for index in indices.unbind(-1):
        near, d_near = rows_at(y, index), rows_at(dy, index)
        if ctx.metric in {"cosine", "ip"}:
            columns.append((dx * near + x * d_near).sum(-1))
        else:
            apart = _steepest(x - near) if ctx.metric == "chebyshev" else x - near
            columns.append((apart * (dx - d_near)).sum(-1))
    return _weights(ctx, torch.stack(columns, -1), distances, indices), None


_autograd.register(_knn, setup_context=_setup_context, backward=_backward, jvp=_jvp)


@_fake.register("neighbors_knn_route")
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((), dtype=torch.int64)


def knn_chunks(
    x: Tensor, k: int, chunks: Iterable[Tensor], *, metric: str = "euclidean", progress: bool = False
) -> Neighbors:
    r"""`knn` among rows that need not fit into memory at once: they come chunk by chunk.

    Args:
        x: ``[n, d]``, the queries, as for `knn`.
        k: neighbours a row, from 1 to the rows of all chunks.
        chunks: the rows to search, ``[m_c, d]`` each, in order; for example slices of a memory-mapped file.
        metric: as for `knn`.
        progress: show a bar over the chunks (with tqdm installed).

    Returns:
        ``Neighbors(distances, indices)`` as of ``knn(x, k, torch.cat(chunks))``, to the bit; indices count through all chunks.

    Raises:
        ValueError: what `knn` refuses, and fewer than ``k`` rows in all.

    Cost:
        That of `knn`, and a sort of ``2 k`` distances a row for each chunk; memory that of the largest chunk, and
        ``32 n k`` bytes.

    Accuracy:
        That of `knn`.

    Differentiable in ``x`` and the chunks with the indices held fixed.

    References:
        The algorithm is this library's own.

    Example:
        >>> rows = torch.arange(10.0)[:, None]
        >>> knn_chunks(torch.tensor([[3.2]]), 2, rows.split(4)).indices
        tensor([[3, 4]])
    """
    if x.ndim != 2:
        raise ValueError(f"knn_chunks: x must be [n, d], got shape {tuple(x.shape)}")
    if k < 1:
        raise ValueError(f"knn_chunks: k must be positive, got {k}")
    found: Neighbors | None = None
    rows = 0
    for chunk in progress_bar(chunks, "knn", shown=progress):
        if len(chunk):
            near = knn(x, min(k, len(chunk)), chunk, metric=metric)
            near = Neighbors(near.distances, near.indices + rows)
            found = near if found is None else merge(found, near, k, largest=metric == "ip")
            rows += len(chunk)
    if found is None or rows < k:
        raise ValueError(f"knn_chunks: k must be at most {rows}, the rows of all chunks, got {k}")
    return found


def merge(before: Neighbors, after: Neighbors, k: int, *, largest: bool) -> Neighbors:
    """Return the best of both sorted lists, equal distances by the lower index; differentiable."""
    distances, indices = (torch.cat(pair, 1) for pair in zip(before, after, strict=True))
    indices, order = indices.sort(dim=1)
    distances, places = distances.gather(1, order).sort(dim=1, descending=largest, stable=True)
    return Neighbors(distances[:, :k], indices.gather(1, places[:, :k]))


@_fake.register("neighbors_knn_merge")
def _(distances: Tensor, indices: Tensor, _b: Tensor, _b_indices: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    return distances.new_empty(len(distances), k), indices.new_empty(len(indices), k)
