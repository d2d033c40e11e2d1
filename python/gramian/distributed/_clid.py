"""CLID over ranks: learnability and dimension of representations whose rows are spread over processes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.neighbors import Clid, Neighbors, knn_pass, predict
from gramian.neighbors._clid import joined
from gramian.neighbors._dimension import twonn_of_ratios
from gramian.neighbors._knn import normalize

from ._clusters import cluster
from ._neighbors import among_themselves, fill, in_base, meetings, merge, pieces_of, problem_of, search, starts_of
from ._ranks import Ranks, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch.distributed as dist

__all__ = ["clid"]


def clid(
    representations: Mapping[str, Tensor],
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    metric: str = "cosine",
    n_clusters: int | None = None,
    k: int = 1,
    protocol: str = "prequential",
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> Clid:
    r"""Compare representations without labels, as `gramian.neighbors.clid` does, of samples that are spread over ranks.

    K-means over all ranks, then one symmetric ring that serves both terms: for each row its nearest rows, and its nearest among those
    before it, which are the earlier ones of its rank and all of lower ranks.

    Args:
        representations: ``[n_r, d]`` by name, this rank's rows, of the same samples in the same order; ``d`` may differ. Or DTensors sharded
            by rows.
        weights: of the two terms.
        metric: ``"cosine"``, rows are scaled to length one for both terms; or ``"euclidean"``.
        n_clusters: of K-means; ``floor(sqrt(n))`` of all ranks' rows without it.
        k: neighbours that vote.
        protocol: ``"prequential"`` or ``"split"``, of `gramian.neighbors.cluster_learnability`.
        generator: of the random numbers; that of the first rank rules, torch's own without it.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``Clid(names, learnability, dimension, score)`` of the samples of all ranks, the same bits on every rank. K-means starts from
        k-means||, so clusters differ from those of `gramian.neighbors.clid`, which starts from k-means++.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.neighbors.clid` refuses, ranks that disagree on
            names, sizes or options.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        Of each representation: `kmeans`, and ``n^2 d / R`` flops on each of ``R`` ranks; half of the rows sent. Memory: two shards,
        and of all rows a label and a ratio, 16 bytes each.

    Accuracy:
        Neighbours and labels are exact, as of `knn` and `kmeans`.

    Not differentiable. Does not depend on the number of ranks, but for the rounding of `kmeans`.

    References:
        Lu et al., arXiv:2206.01251.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> wide, narrow = torch.rand(200, 8, generator=generator), torch.rand(200, 2, generator=generator)
        >>> found = clid({"wide": wide, "narrow": narrow}, generator=generator)  # one rank
        >>> found.dimension[0] > found.dimension[1]
        tensor(True)
    """
    op = "clid"
    names = tuple(representations)
    given = [rows_of(op, repr(name), x, group) for name, x in representations.items()]
    device = given[0].local.device if given else torch.device("cpu")
    ranks = Ranks(op, given[0].group if given else group, device)
    sizes = {len(one.local) for one in given}
    wrong = [problem_of(name, one.local) for name, one in zip(names, given, strict=True)]
    problem = next((text for text in wrong if text is not None), None)
    if len(sizes) != 1:
        problem = f"representations must all have the same number of rows, got {sorted(sizes) or 'none'}"
    elif metric not in {"cosine", "euclidean"}:
        problem = f"metric must be cosine or euclidean, got {metric}"
    elif protocol not in {"prequential", "split"}:
        problem = f"protocol must be prequential or split, got {protocol}"
    everyone = ranks.agree(
        problem,
        names=names,
        d=[one.local.shape[-1] for one in given],
        dtype=[one.local.dtype for one in given],
        k=k,
        n_clusters=n_clusters,
        metric=metric,
        protocol=protocol,
        weights=weights,
        rows_=min(sizes, default=0),
        seeds_=[int(torch.randint(1 << 62, (), generator=generator)) for _ in given],
    )
    rows = [facts["rows_"] for facts in everyone]
    n = sum(rows)
    if not 1 <= k < n or n < 3:
        raise ValueError(f"{op}: k must be from 1 to n - 1 for n = {n} rows of all ranks, at least 3, got {k}")
    clusters = math.isqrt(n) if n_clusters is None else n_clusters
    if not 1 <= clusters <= n:
        raise ValueError(f"{op}: n_clusters must be from 1 to n = {n}, got {clusters}")
    found = []
    for one, seed in zip(given, everyone[0]["seeds_"], strict=True):
        x = one.local.to(torch.promote_types(one.local.dtype, torch.float32))
        x = normalize(x)[0] if metric == "cosine" else x
        found.append(_learnability_and_dimension(ranks, x, rows, clusters, k, protocol, seed))
    return joined(names, found, weights)


def _learnability_and_dimension(
    ranks: Ranks, x: Tensor, rows: Sequence[int], clusters: int, k: int, protocol: str, seed: int
) -> list[float]:
    labels = cluster(ranks, x, clusters, rows, None, seed).labels
    everyones = ranks.gather_rows(labels, rows)
    others, past = _pass(ranks, x, max(k, 2), rows)
    if protocol == "prequential":
        hits = predict(everyones, Neighbors(past.distances[:, :k], past.indices[:, :k])) == labels
    else:
        order = torch.randperm(len(everyones), generator=torch.Generator().manual_seed(seed)).to(x.device)
        learned = torch.zeros(len(everyones), dtype=torch.bool, device=x.device)
        learned[order[: round(len(order) / 2)]] = True
        begin = starts_of(rows)[ranks.rank]
        own = learned[begin : begin + len(x)]
        train = ranks.gather(own.sum()[None]).flatten().tolist()
        near = in_base(ranks, x[~own], k, x[own], "euclidean", train)
        hits = predict(everyones[learned], near) == labels[~own]
    right, asked = ranks.sum(torch.tensor([hits.sum(), len(hits)], dtype=torch.float64)).tolist()
    return [right / asked, _dimension(ranks, x, others, rows)]


def _pass(ranks: Ranks, x: Tensor, k: int, rows: Sequence[int]) -> tuple[Neighbors, Neighbors]:
    """Return the nearest of all other rows, and of those before: in rows of this rank, then by meeting those of others."""
    met_by = ranks.meetings([x], rows, pieces_of(rows))
    start, here = starts_of(rows)[ranks.rank], min(k, len(x) - 1)
    if here < 1:
        others, past = (search(x, k, x[:0], "euclidean", start) for _ in range(2))
    else:
        near = knn_pass(x, here)
        others, past = (fill(part, k, start, largest=False) for part in (near.others, near.past))
    for part in meetings(ranks, met_by, x, k, "euclidean", rows, (past, others)):
        for found in (others, past) if part.rank < ranks.rank else (others,):
            merged = merge(Neighbors(*(t[part.rows] for t in found)), part.near, k, largest=False)
            found.distances[part.rows], found.indices[part.rows] = merged
    return others, past


def _dimension(ranks: Ranks, x: Tensor, others: Neighbors, rows: Sequence[int]) -> float:
    """Estimate the dimension as `twonn` does: equal rows count once, the first of them."""
    equal = others.distances[:, 0] == 0
    if ranks.sum(equal.sum()[None].double()).item() > 0:
        place = starts_of(rows)[ranks.rank] + torch.arange(len(x), device=x.device)
        kept = x[~(equal & (others.indices[:, 0] < place))]
        rows = ranks.gather(torch.tensor([len(kept)], device=x.device)).flatten().tolist()
        if sum(rows) <= 2:
            return twonn_of_ratios(kept[:0, 0].double()).item()
        others = among_themselves(ranks, kept, 2, "euclidean", rows, exclude_self=True, causal=False)
    near = others.distances.double()
    return twonn_of_ratios(ranks.gather_rows(near[:, 1] / near[:, 0], rows)).item()
