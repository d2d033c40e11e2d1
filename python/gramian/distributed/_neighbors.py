"""Nearest neighbours over ranks, by rings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gramian.neighbors import Neighbors
from gramian.neighbors import knn as local_knn
from gramian.neighbors._sweeps import knn_both

from ._ranks import Meeting, Ranks, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch.distributed as dist

__all__ = [
    "Part",
    "among_themselves",
    "fill",
    "in_base",
    "knn",
    "meetings",
    "merge",
    "pieces_of",
    "problem_of",
    "search",
    "starts_of",
]

_PIECE = 4096  # rows


def problem_of(name: str, x: Tensor) -> str | None:
    """Say what is wrong with the rows of a rank: a shape, a dtype, a NaN."""
    if x.ndim != 2:
        return f"{name} must be [n, d], got shape {tuple(x.shape)}"
    if x.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"{name} must be float32, float64, bfloat16 or float16, got {x.dtype}"
    if x.numel() > 0 and not bool(torch.stack(torch.aminmax(x)).isfinite().all()):
        row = int((~x.isfinite()).any(1).int().argmax())
        return f"{name} must be finite, got a NaN or an infinity in row {row}"
    return None


def starts_of(rows: Sequence[int]) -> list[int]:
    """Return the index of the first row of each rank, and their number."""
    return [sum(rows[:rank]) for rank in range(len(rows) + 1)]


def pieces_of(rows: Sequence[int]) -> int:
    """Return in how many pieces shards travel: of a few thousand rows, so that what a search does for each row costs little."""
    return 2 * max(1, -(-max(rows) // (2 * _PIECE)))


def fill(near: Neighbors, k: int, start: int, *, largest: bool) -> Neighbors:
    """Count indices through all ranks, and fill up lists that are short."""
    missing = k - near.indices.shape[1]
    distances, indices = near
    indices = torch.where(indices >= 0, indices + start, -1)
    if missing > 0:
        distances = torch.nn.functional.pad(distances, (0, missing), value=-torch.inf if largest else torch.inf)
        indices = torch.nn.functional.pad(indices, (0, missing), value=-1)
    return Neighbors(distances, indices)


def search(x: Tensor, k: int, y: Tensor, metric: str, start: int) -> Neighbors:
    """`knn` in rows that may be fewer than k, or none."""
    largest = metric == "ip"
    if len(x) == 0 or len(y) == 0:
        wide = torch.promote_types(x.dtype, torch.float32)
        none = Neighbors(x.new_empty((len(x), 0), dtype=wide), x.new_empty((len(x), 0), dtype=torch.int64))
        return fill(none, k, start, largest=largest)
    return fill(local_knn(x, min(k, len(y)), y, metric=metric), k, start, largest=largest)


def merge(before: Neighbors, after: Neighbors, k: int, *, largest: bool) -> Neighbors:
    """Return the best of both sorted lists, equal distances by the lower index."""
    return Neighbors(*torch.ops.gramian.neighbors_knn_merge(*before, *after, k, largest))


class Part(NamedTuple):
    """Neighbours among the rows of one rank, for some of this rank's rows."""

    rank: int
    rows: slice
    near: Neighbors


def meetings(
    ranks: Ranks,
    met_by: Iterator[Meeting],
    x: Tensor,
    k: int,
    metric: str,
    rows: Sequence[int],
    lists: tuple[Neighbors, Neighbors],
    *,
    causal: bool = False,
) -> Iterator[Part]:
    """Yield, for this rank's rows, their neighbours among the rows of every other rank (``causal``: of every lower one).

    ``lists``: where those of lower and those of higher ranks go. What lies farther than their last ones does not come. What another
    rank finds travels while this one goes on with the next piece.
    """
    starts, here, largest = starts_of(rows), ranks.rank, metric == "ip"
    wide = torch.promote_types(x.dtype, torch.float32)
    lower, higher = lists
    of_all = [torch.split(ranks.gather_rows(near.distances[:, -1].contiguous(), rows), list(rows)) for near in lists]
    coming: tuple[Meeting, list[Tensor], list[dist.Work]] | None = None

    def arrived() -> Iterator[Part]:
        if coming is not None:
            met, take, works = coming
            ranks.wait(works, met.owner, met.giver)
            if take:
                yield Part(met.giver, met.given, Neighbors(*take))

    for met in met_by:
        low = met.owner < here
        forth, back = _meet(
            x[met.mine],
            met.held[0],
            k,
            metric,
            ((lower if low else higher).distances[met.mine, -1], of_all[low][met.owner][met.theirs]),
            forth=not causal or low,
            back=not causal or not low,
        )
        yield from arrived()
        give, take = [], []
        if back is not None:
            give = [t.contiguous() for t in fill(back, k, starts[here] + met.mine.start, largest=largest)]
        if not causal or met.giver < here:
            shape = (met.given.stop - met.given.start, k)
            take = [x.new_empty(shape, dtype=wide), x.new_empty(shape, dtype=torch.int64)]
        coming = met, take, ranks.exchange(give, met.owner, take, met.giver)
        if forth is not None:
            yield Part(met.owner, met.mine, fill(forth, k, starts[met.owner] + met.theirs.start, largest=largest))
    yield from arrived()


def _meet(
    x: Tensor, y: Tensor, k: int, metric: str, reach: tuple[Tensor, Tensor], *, forth: bool, back: bool
) -> tuple[Neighbors | None, Neighbors | None]:
    if forth and back:
        return knn_both(x, y, k, metric=metric, reach=reach)
    return (
        search(x, k, y, metric, 0) if forth else None,
        search(y, k, x, metric, 0) if back else None,
    )


def knn(
    x: Tensor,
    k: int,
    y: Tensor | None = None,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    causal: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Neighbors:
    r"""Exact ``k`` nearest neighbours of rows that are spread over ranks, among those of all ranks.

    A ring: shards of the rows that are searched go from rank to rank, each on its way while the one before is swept. Without ``y``
    each pair of shards meets on one rank only, whose sweep serves the rows of both.

    Args:
        x: ``[n_r, d]``, this rank's rows, as for `gramian.neighbors.knn`; any number, also none. Or a DTensor sharded by rows.
        k: neighbours a row, from 1 to the rows that there are to choose from on all ranks.
        y: ``[m_r, d]``, this rank's rows of another set to search. Without it the rows ``x`` of all ranks are.
        metric: as for `gramian.neighbors.knn`.
        exclude_self: leave out each row itself. Only without ``y``.
        causal: a row sees only the rows before it, those of lower ranks coming first. Only without ``y``.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``Neighbors(distances, indices)``, ``[n_r, k]`` of this rank's rows: what `gramian.neighbors.knn` gives for the rows of all
        ranks in their order, to the bit, indices counting through all ranks. DTensors if ``x`` is one.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.neighbors.knn` refuses, ranks that disagree, a
            backend that does not fit the device. It names the rank.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        On each of ``R`` ranks ``n^2 d / R`` flops (``2 n m d / R`` with ``y``); ``n d / 2`` numbers sent, ``n`` distances, and ``n k / 2`` distances
        and indices (``m d`` with ``y``). Memory: lists, and of the others' rows two pieces of some 4,000 (with ``y`` two shards).
        `knn_cost` says how long that takes.

    Accuracy:
        That of `gramian.neighbors.knn`; equal distances are ordered by the lower index whatever the number of ranks.

    Not differentiable. The same bits for every number of ranks and threads.

    References:
        The algorithm is this library's own (docs/how-it-works/distributed.md).

    Example:
        >>> knn(torch.tensor([[0.0], [1.0], [5.0]]), 1, exclude_self=True).indices[:, 0]  # one rank
        tensor([1, 0, 1])
    """
    op = "knn"
    given = rows_of(op, "x", x, group)
    base = None if y is None else rows_of(op, "y", y, group)
    rows = given.local
    ranks = Ranks(op, given.group, rows.device)
    problem = problem_of("x", rows)
    if base is not None and problem is None:
        problem = problem_of("y", base.local) or _mismatch(rows, base.local)
    if problem is None and metric not in {"euclidean", "sqeuclidean", "cosine", "chebyshev", "ip"}:
        problem = f"metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got {metric}"
    if problem is None and base is not None and (exclude_self or causal):
        problem = f"{'exclude_self' if exclude_self else 'causal'} must be False when y is given, got True"
    everyone = ranks.agree(
        problem,
        y="given" if base else "not given",
        d=rows.shape[-1] if rows.ndim else 0,
        dtype=rows.dtype,
        k=k,
        metric=metric,
        exclude_self=exclude_self,
        causal=causal,
        x_=len(rows) if rows.ndim else 0,
        y_=0 if base is None else len(base.local),
    )
    counts = [facts["x_" if base is None else "y_"] for facts in everyone]
    most = sum(counts) - (exclude_self or causal)
    if not 1 <= k <= most:
        raise ValueError(f"{op}: k must be from 1 to {most}, the rows to choose from, got {k}")
    if base is None:
        found = among_themselves(ranks, rows, k, metric, counts, exclude_self=exclude_self, causal=causal)
    else:
        found = in_base(ranks, rows, k, base.local, metric, counts)
    ranks.finish()
    return Neighbors(given.wrap(found.distances), given.wrap(found.indices))


def _mismatch(x: Tensor, y: Tensor) -> str | None:
    if y.shape[1] != x.shape[1] or y.dtype != x.dtype or y.device != x.device:
        return (
            f"y must be [m, {x.shape[1]}] {x.dtype} on {x.device} like x, got {tuple(y.shape)} {y.dtype} on {y.device}"
        )
    return None


def in_base(ranks: Ranks, x: Tensor, k: int, y: Tensor, metric: str, rows: Sequence[int]) -> Neighbors:
    starts, arriving = starts_of(rows), ranks.ring([y], rows, ranks.size - 1)
    found = search(x, k, y, metric, starts[ranks.rank])
    for owner, _, (part,) in arriving:
        found = merge(found, search(x, k, part, metric, starts[owner]), k, largest=metric == "ip")
    return found


def among_themselves(
    ranks: Ranks, x: Tensor, k: int, metric: str, rows: Sequence[int], *, exclude_self: bool, causal: bool
) -> Neighbors:
    largest, start = metric == "ip", starts_of(rows)[ranks.rank]
    met_by = ranks.meetings([x], rows, pieces_of(rows))
    here = min(k, len(x) - (exclude_self or causal))
    if here < 1:
        found = search(x, k, x[:0], metric, start)
    else:
        options: Any = {"metric": metric, "exclude_self": exclude_self, "causal": causal}
        found = fill(local_knn(x, here, **options), k, start, largest=largest)
    for part in meetings(ranks, met_by, x, k, metric, rows, (found, found), causal=causal):
        merged = merge(Neighbors(*(t[part.rows] for t in found)), part.near, k, largest=largest)
        found.distances[part.rows], found.indices[part.rows] = merged
    return found
