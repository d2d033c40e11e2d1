"""K-means over ranks: Lloyd's algorithm on all points, each rank with its own, and k-means|| to start it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gramian._safetensors import load, save
from gramian._warnings import NumericalWarning
from gramian.neighbors import Clustering, assign, kmeans_plus_plus
from gramian.neighbors._knn import normalize

from ._neighbors import problem_of, starts_of
from ._ranks import RankError, Ranks, digest, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["cluster", "kmeans"]

T = TypeVar("T")

_kmeans = torch.ops.gramian.neighbors_kmeans.default

# What the op asks of torch.distributed while it runs. The Ranks of a call wait here under the name that it hands to the op, and so
# does an exception: through the op only its text would come back.
_calls: dict[str, Ranks] = {}
_failures: dict[str, BaseException] = {}

for _schema in (
    "sum(Tensor values, str group) -> Tensor",
    "gather(Tensor values, str group) -> Tensor",
    "expect(int count, str group) -> ()",
):
    torch.library.define(f"gramian_distributed::{_schema.split('(')[0]}", _schema[_schema.index("(") :])


@torch.library.impl("gramian_distributed::sum", "CompositeExplicitAutograd")
def _sum(values: Tensor, group: str) -> Tensor:
    return _keeping_failures(group, lambda ranks: ranks.sum(values))


@torch.library.impl("gramian_distributed::gather", "CompositeExplicitAutograd")
def _gather(values: Tensor, group: str) -> Tensor:
    return _keeping_failures(group, lambda ranks: ranks.gather(values))


@torch.library.impl("gramian_distributed::expect", "CompositeExplicitAutograd")
def _expect(count: int, group: str) -> None:
    _keeping_failures(group, lambda ranks: ranks.expect(count))


def _keeping_failures(group: str, call: Callable[[Ranks], T]) -> T:
    if group not in _calls:
        raise ValueError(f"kmeans: group must be that of a call of gramian.distributed, got {group!r}")
    try:
        return call(_calls[group])
    except BaseException as error:
        _failures[group] = error
        raise


def kmeans(
    x: Tensor,
    n_clusters: int,
    *,
    init: Tensor | str = "k-means||",
    max_iter: int = 100,
    tol: float = 0.0,
    weights: Tensor | None = None,
    spherical: bool = False,
    empty: str = "relocate",
    generator: torch.Generator | None = None,
    folder: str | Path | None = None,
    save_every: int = 20,
    group: dist.ProcessGroup | None = None,
) -> Clustering:
    r"""K-means of points that are spread over ranks: centres that minimise :math:`\sum_i w_i \min_j |x_i - c_j|^2` over all.

    Every round each rank assigns its own points, and the sums that centres follow from are added over the ranks, in their order.

    Args:
        x: ``[n_r, d]``, this rank's points, as for `gramian.neighbors.kmeans`; any number, also none. Or a DTensor sharded by rows.
        n_clusters: from 1 to the points of all ranks.
        init: ``"k-means||"``: five rounds draw ``2 n_clusters`` points each by their squared distance to those that are there, and
            k-means++ chooses among them; or the centres, ``[n_clusters, d]``, the same on every rank.
        max_iter: most rounds of assignment.
        tol: as for `gramian.neighbors.kmeans`.
        weights: ``[n_r]`` of this rank's points, not negative; one each without it.
        spherical: cluster directions, as for `gramian.neighbors.kmeans`.
        empty: ``"relocate"`` or ``"keep"``, as for `gramian.neighbors.kmeans`; the farthest point is that of all ranks.
        generator: of the random numbers; that of the first rank rules, torch's own without it.
        folder: where the first rank keeps the centres, as ``kmeans.safetensors``; all ranks must see it. Called again with the same
            arguments after an interruption, the run goes on from there, to the same result.
        save_every: rounds between copies in the folder.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``Clustering(centers, labels, inertia, n_iter)``: centres ``[n_clusters, d]`` and the inertia of all points, the same bits on
        every rank; labels ``[n_r]`` of this rank's points, a DTensor if ``x`` is one; the rounds.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.neighbors.kmeans` refuses, ranks that
            disagree, a backend that does not fit the device, a folder that holds another run.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        ``2 n k d / R`` flops a round on each of ``R`` ranks, less where bounds spare it, and about ``16 k d`` bytes sent and
        received. Memory: that of `gramian.neighbors.kmeans` for this rank's points. `kmeans_cost` says how long that takes.

    Accuracy:
        Labels are exact for the centres. Sums are float64, and their order depends on the number of ranks: centres may
        differ from those of one rank by one rounding of their dtype, and then labels of points at equal distance to two of them.

    Not differentiable. The same bits on every rank and in every run, whatever the number of threads; random draws do not depend
    on the number of ranks.

    References:
        Bahmani et al., Scalable k-means++, arXiv:1203.6402 (k-means||).

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [8.0], [10.0]])  # one rank
        >>> kmeans(x, 2, init=x[:2]).centers[:, 0]
        tensor([0.5000, 9.0000])
    """
    op = "kmeans"
    given = rows_of(op, "x", x, group)
    points = given.local
    ranks = Ranks(op, given.group, points.device)
    dtype = torch.promote_types(points.dtype, torch.float32) if points.is_floating_point() else torch.float32
    problem = problem_of("x", points) or _option_problem(
        points, n_clusters, init, dtype, max_iter, tol, empty, save_every
    )
    if weights is not None and problem is None:
        problem = _weight_problem(points, weights)
    centers = init.detach().to(dtype) if isinstance(init, Tensor) else None
    about = {
        "d": points.shape[-1] if points.ndim else 0,
        "dtype": str(points.dtype),
        "n_clusters": n_clusters,
        "init": init if isinstance(init, str) else "centres " + digest(init)[:16],
        "max_iter": max_iter,
        "tol": tol,
        "weights": "given" if weights is not None else "not given",
        "spherical": spherical,
        "empty": empty,
        "save_every": save_every,
        "folder": "given" if folder is not None else "not given",
    }
    seed = int(torch.randint(1 << 62, (), generator=generator))
    data = digest(points, *([] if weights is None else [weights])) if folder is not None else ""
    everyone = ranks.agree(problem, **about, rows_=len(points) if points.ndim else 0, seed_=seed, data_=data)
    rows, seed = [facts["rows_"] for facts in everyone], everyone[0]["seed_"]
    if not 1 <= n_clusters <= sum(rows):
        raise ValueError(f"{op}: n_clusters must be from 1 to n = {sum(rows)}, got {n_clusters}")
    wide = None if weights is None else weights.detach().double()
    if wide is not None and not ranks.sum(wide.sum()[None]).item() > 0:
        raise ValueError(f"{op}: weights must have a positive sum over all ranks, got 0")
    run = (
        _Run(Path(folder), about | {"data": [facts["data_"] for facts in everyone]}, ranks)
        if folder is not None
        else None
    )
    if spherical:
        points = normalize(points.to(dtype))[0]
    found = cluster(
        ranks,
        points,
        n_clusters,
        rows,
        centers,
        seed,
        weights=wide,
        max_iter=max_iter,
        tol=tol,
        spherical=spherical,
        relocate=empty == "relocate",
        run=run,
        save_every=save_every,
    )
    used = ranks.sum(torch.bincount(found.labels, minlength=n_clusters).double()).count_nonzero()
    if used < n_clusters:
        warnings.warn(f"kmeans: only {int(used)} of {n_clusters} clusters have points", NumericalWarning, stacklevel=2)
    return found._replace(labels=given.wrap(found.labels))


def _option_problem(
    x: Tensor, k: int, init: Tensor | str, dtype: torch.dtype, max_iter: int, tol: float, empty: str, save_every: int
) -> str | None:
    if isinstance(init, Tensor):
        if init.shape != (k, x.shape[1]) or init.dtype != dtype or init.device != x.device:
            wanted = f"[n_clusters = {k}, d = {x.shape[1]}] {dtype} on {x.device}"
            return f"init must be {wanted}, got {tuple(init.shape)} {init.dtype} on {init.device}"
        if not bool(init.isfinite().all()):
            return "init must be finite, got a NaN or an infinity"
    elif init != "k-means||":
        return f"init must be k-means|| or a tensor, got {init}"
    if max_iter < 1 or save_every < 1:
        return f"max_iter and save_every must be positive, got {max_iter} and {save_every}"
    if not tol >= 0:
        return f"tol must be zero or positive, got {tol}"
    if empty not in {"relocate", "keep"}:
        return f"empty must be relocate or keep, got {empty}"
    return None


def _weight_problem(x: Tensor, weights: Tensor) -> str | None:
    if weights.shape != (len(x),) or weights.device != x.device:
        return f"weights must be [n] with n = {len(x)} on {x.device} like x, got shape {tuple(weights.shape)} on {weights.device}"
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        return f"weights must be finite and not negative, got {weights.min().item()}"
    return None


class _Run:
    """A run that is kept in a folder by the first rank, and read by all."""

    def __init__(self, folder: Path, about: dict[str, Any], ranks: Ranks) -> None:
        self.path, self.ranks = folder / "kmeans.safetensors", ranks
        self.about = json.dumps(about)
        kept = None
        problem = None
        if ranks.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                tensors, said = load(self.path)
                before = json.loads(said["run"])
                other = [name for name, value in about.items() if before.get(name) != value]
                kept = tensors["centers"], json.loads(said["state"])
                if other:
                    problem = f"folder must hold a run of the same arguments, got another {', '.join(other)}"
        everyone = ranks.gather_objects((problem, kept))
        if everyone[0][0] is not None:
            raise ValueError(f"{ranks.op}: {everyone[0][0]}")
        self.kept: tuple[Tensor, dict[str, Any]] | None = everyone[0][1]

    def keep(self, centers: Tensor, state: dict[str, Any]) -> None:
        if self.ranks.rank == 0:
            save(self.path, {"centers": centers}, {"run": self.about, "state": json.dumps(state)})


def cluster(
    ranks: Ranks,
    x: Tensor,
    k: int,
    rows: Sequence[int],
    centers: Tensor | None,
    seed: int,
    *,
    weights: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 0.0,
    spherical: bool = False,
    relocate: bool = True,
    run: _Run | None = None,
    save_every: int = 20,
) -> Clustering:
    """K-means of points that are known to be good."""
    rounds, finished = 0, False
    if run is not None and run.kept is not None:
        centers, state = run.kept[0].to(x.device), run.kept[1]
        rounds, finished = state["rounds"], state["finished"]
        if finished:
            labels = assign(x, centers).labels if len(x) else x.new_empty(0, dtype=torch.int64)
            return Clustering(centers, labels, state["inertia"], rounds)
    if centers is None:
        centers = _k_means_parallel(ranks, x, k, rows, weights, seed)
    if spherical:
        centers = normalize(centers)[0]
    while True:
        most = max_iter - rounds if run is None else min(save_every, max_iter - rounds)
        found = _lloyd(ranks, x, centers, weights, most, tol, spherical=spherical, relocate=relocate)
        rounds += found.n_iter
        finished = found.n_iter < most or rounds >= max_iter
        centers = found.centers
        if run is not None:
            run.keep(centers, {"rounds": rounds, "finished": finished, "inertia": found.inertia})
        if finished:
            return found._replace(n_iter=rounds)


def _lloyd(
    ranks: Ranks,
    x: Tensor,
    centers: Tensor,
    weights: Tensor | None,
    most: int,
    tol: float,
    *,
    spherical: bool,
    relocate: bool,
) -> Clustering:
    name = None if ranks.size == 1 else f"kmeans {id(ranks)}"
    if name is not None:
        _calls[name] = ranks
    try:
        found = _kmeans(x, centers, weights, most, tol, spherical, relocate, name, ranks.rank)
    except RuntimeError as error:
        failure = None if name is None else _failures.pop(name, None)
        if failure is None:
            raise
        raise failure from (error if not isinstance(failure, RankError) else failure.__cause__)
    finally:
        if name is not None:
            del _calls[name]
    centers, labels, inertia, n_iter = found
    return Clustering(centers, labels, inertia.item(), int(n_iter))


# ---- k-means|| ----

_ROUNDS, _OVERSAMPLING = 5, 2
_BLOCK = 1 << 16


def _uniforms(seed: int, begin: int, end: int) -> Tensor:
    """Uniform numbers for rows ``[begin, end)`` of all ranks, the same whoever draws them: each block has a seed of its own."""
    first = begin // _BLOCK
    blocks = [
        torch.rand(_BLOCK, generator=torch.Generator().manual_seed((seed + block) % (1 << 63)), dtype=torch.float64)
        for block in range(first, -(-end // _BLOCK))
    ]
    return torch.cat(blocks)[begin - first * _BLOCK : end - first * _BLOCK] if blocks else torch.empty(0).double()


def _k_means_parallel(
    ranks: Ranks, x: Tensor, k: int, rows: Sequence[int], weights: Tensor | None, seed: int
) -> Tensor:
    """Choose k rows of all ranks to start from, by k-means|| of Bahmani et al."""
    begin, end = starts_of(rows)[ranks.rank : ranks.rank + 2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    own = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights
    seeds = torch.Generator().manual_seed(seed)
    each = [int(torch.randint(1 << 62, (), generator=seeds)) for _ in range(_ROUNDS + 2)]

    def chosen(mask: Tensor) -> Tensor:
        counts = ranks.gather(mask.sum()[None].to(x.device)).flatten().tolist()
        return ranks.gather_rows(x[mask].to(dtype), counts)

    # The first by weight: the largest of log(u) / w over all ranks.
    keys = _uniforms(each[0], begin, end).to(x.device).log() / own
    keys = torch.where(own > 0, keys, -torch.inf)
    best = keys.max() if len(x) else torch.full((), -torch.inf, dtype=torch.float64, device=x.device)
    tops = ranks.gather(best[None]).flatten()
    first = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if int(tops.argmax()) == ranks.rank:
        first[keys.argmax()] = True
    candidates = chosen(first)
    squared = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    fresh = candidates
    for round_seed in each[1:-1]:
        if len(x) and len(fresh):
            squared = torch.minimum(squared, assign(x, fresh).distances.double())
        cost = ranks.sum((own @ squared)[None])[0]
        if not cost > 0:
            break
        odds = _OVERSAMPLING * k * own * squared / cost
        fresh = chosen(_uniforms(round_seed, begin, end).to(x.device) < odds)
        candidates = torch.cat([candidates, fresh])
    if len(candidates) < k:  # few different points: fill up with rows by weight, the first ones of equals
        candidates = torch.cat([candidates, _heaviest(ranks, x, own, keys, k - len(candidates), dtype)])
    if len(candidates) < k:  # fewer rows with weight than clusters
        candidates = torch.cat([candidates, candidates[:1].expand(k - len(candidates), -1)])
    counts = torch.zeros(len(candidates), dtype=torch.float64)
    if len(x):  # added on the host: a GPU would add in any order
        counts.index_add_(0, assign(x, candidates).labels.cpu(), own.cpu())
    counts = ranks.sum(counts.to(x.device))
    picked = kmeans_plus_plus(candidates, k, weights=counts, generator=torch.Generator().manual_seed(each[-1]))
    return candidates[picked]


def _heaviest(ranks: Ranks, x: Tensor, own: Tensor, keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Draw rows of all ranks by weight, no row twice."""
    some = keys.topk(min(count, len(keys)))
    padded = torch.full((count,), -torch.inf, dtype=torch.float64, device=x.device)
    padded[: len(some.values)] = some.values
    everyone = ranks.gather(padded)
    bound = everyone.flatten().topk(count).values[-1]
    mask = (keys >= bound) & (own > 0) if bound > -torch.inf else own > 0
    counts = ranks.gather(mask.sum()[None]).flatten().tolist()
    return ranks.gather_rows(x[mask].to(dtype), counts)[:count]
