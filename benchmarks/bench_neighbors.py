"""neighbors: exact k nearest neighbours, also of the past, and K-means."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.case import Case, Peer
from gramian import neighbors

Result = tuple[torch.Tensor, torch.Tensor]  # squared distances (or Euclidean ones) and indices, itself left out


def _version(package: str) -> str:
    import importlib

    return str(importlib.import_module(package).__version__)


def _faiss(x: torch.Tensor, y: torch.Tensor, k: int) -> Result:
    import faiss

    distances, indices = faiss.knn(x.numpy(), y.numpy(), k)
    return torch.from_numpy(distances).sqrt(), torch.from_numpy(indices)


def _sklearn(x: torch.Tensor, y: torch.Tensor, k: int) -> Result:
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(y.numpy()).kneighbors(x.numpy())
    return torch.from_numpy(distances), torch.from_numpy(indices)


def _torch(x: torch.Tensor, y: torch.Tensor, k: int, chunk: int = 2048) -> Result:
    norms = y.pow(2).sum(1)
    pieces = []
    for rows in x.split(chunk):
        squares = torch.addmm(norms, rows, y.mT, alpha=-2).add_(rows.pow(2).sum(1, keepdim=True))
        pieces.append(squares.topk(k, largest=False))
    return torch.cat([p.values for p in pieces]).clamp(min=0).sqrt(), torch.cat([p.indices for p in pieces])


def _error(result: Any, x: torch.Tensor, y: torch.Tensor, k: int, *, self_search: bool) -> float:
    """Worst relative error of a returned distance over sampled rows; a wrong neighbour counts as its distance's error."""
    distances, indices = result
    sample = torch.arange(0, len(x), max(1, len(x) // 97))
    exact = torch.cdist(x[sample].double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if self_search:
        exact[torch.arange(len(sample)), sample] = torch.inf
        if indices.shape[1] > k:  # peers return the row itself as well
            distances = distances[:, 1:]
    nearest = exact.topk(k, largest=False).values
    return float(((distances[sample].double() - nearest).abs() / nearest).max())


def _peers(run: Any, k: str, *, few: bool = False) -> list[Peer]:
    """``run`` turns one of the three functions above into a call on the inputs; ``few``: faiss alone, where time is long."""
    faiss = Peer(name="faiss-cpu", version=lambda: _version("faiss"), call=f"faiss.knn(x, y, {k})", run=run(_faiss))
    sklearn = Peer(
        name="scikit-learn",
        version=lambda: _version("sklearn"),
        call=f'NearestNeighbors({k}, algorithm="brute").fit(y).kneighbors(x)',
        run=run(_sklearn),
    )
    matmul = Peer(
        name="torch",
        version=lambda: torch.__version__,
        call=f"addmm(|y|^2, x, y.mT).topk({k}), chunks",
        run=run(_torch),
    )
    peers = [faiss, replace(faiss, environment="tuned")]
    return peers if few else [*peers, sklearn, matmul]  # scikit-learn's newer OpenBLAS knows the CPU: tuned is user


def _self(n: int, d: int, k: int, rounds: int = 2) -> Case:
    return Case(
        op="neighbors.knn",
        name=f"self n={n} d={d} k={k}",
        dtype="float32",
        setup=lambda seed: torch.randn(n, d, generator=torch.Generator().manual_seed(seed)),
        ours=lambda x: neighbors.knn(x, k, exclude_self=True),
        peers=_peers(lambda search: lambda x: search(x, x, k + 1), "k + 1", few=n > 10_000 and (d, k) != (128, 10)),
        flops=float(n) * n * d,
        bytes=4.0 * n * d + 12.0 * n * k,
        bf16_filter=True,
        error=lambda result, x: _error(result, x, x, k, self_search=True),
        rounds=rounds,
        memory=(n, k) == (20160, 10) and d == 128,
    )


def _query(n: int, m: int, d: int, k: int) -> Case:
    def setup(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)

    return Case(
        op="neighbors.knn",
        name=f"query n={n} m={m} d={d} k={k}",
        dtype="float32",
        setup=setup,
        ours=lambda xy: neighbors.knn(xy[0], k, xy[1]),
        peers=_peers(lambda search: lambda xy: search(*xy, k), "k"),
        flops=2.0 * n * m * d,
        bytes=4.0 * (n + m) * d + 12.0 * n * k,
        bf16_filter=True,
        error=lambda result, xy: _error(result, *xy, k, self_search=False),
        rounds=4,
    )


def _torch_causal(x: torch.Tensor, chunk: int = 2048) -> Result:
    norms = x.pow(2).sum(1)
    nearest = []
    for start in range(0, len(x), chunk):
        rows = x[start : start + chunk]
        past = x[: start + len(rows)]
        squares = torch.addmm(norms[: len(past)], rows, past.mT, alpha=-2).add_(rows.pow(2).sum(1, keepdim=True))
        squares[:, start:].masked_fill_(torch.ones(len(rows), len(rows), dtype=torch.bool).triu_(), torch.inf)
        nearest.append(squares.min(1))
    values, indices = (torch.cat(parts)[:, None] for parts in zip(*nearest, strict=True))
    return values.clamp(min=0).sqrt(), indices


def _causal_error(result: Any, x: torch.Tensor) -> float:
    """Worst relative error of the distance to the nearest row of the past, over sampled rows."""
    worst = 0.0
    for i in range(1, len(x), max(1, len(x) // 97)):
        nearest = (x[:i].double() - x[i].double()).norm(dim=1).min()
        worst = max(worst, float((result[0][i, 0] - nearest).abs() / nearest))
    return worst


def _causal(n: int, d: int, *, all_pairs: bool) -> Case:
    full = Peer(name="gramian, all pairs", version=lambda: _version("gramian"), call="knn(x, 1, x)", run=_all_pairs)
    chunked = Peer(
        name="torch",
        version=lambda: torch.__version__,
        call="addmm(|y|^2, x, past.mT), mask, min, chunks",
        run=_torch_causal,
    )
    return Case(
        op="neighbors.knn",
        name=f"causal n={n} d={d} k=1",
        dtype="float32",
        setup=lambda seed: torch.randn(n, d, generator=torch.Generator().manual_seed(seed)),
        ours=lambda x: neighbors.knn(x, 1, causal=True),
        peers=[full] if all_pairs else [chunked],
        flops=float(n) * n * d,
        bytes=4.0 * n * d + 12.0 * n,
        bf16_filter=True,
        error=lambda result, x: 0.0 if len(result) == 3 else _causal_error(result, x),
        rounds=2,
    )


def _all_pairs(x: torch.Tensor) -> tuple[Any, ...]:
    return (*neighbors.knn(x, 1, x), "all")  # another question, for its time


def _memory(n: int, d: int, k: int) -> Case:
    """Too large for a matrix of distances; peers would need minutes."""
    return replace(_self(n, d, k), peers=[], memory=True)


def _pass(n: int, d: int) -> Case:
    """The three searches of CLID together, against one after the other."""

    def setup(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 2 == 0

    def ours(given: tuple[torch.Tensor, torch.Tensor]) -> Result:
        found = neighbors.knn_pass(given[0], 2, train=given[1])
        return found.others

    def one_by_one(given: tuple[torch.Tensor, torch.Tensor]) -> Result:
        x, train = given
        neighbors.knn(x, 1, causal=True)
        neighbors.knn(x[~train], 1, x[train])
        return neighbors.knn(x, 2, exclude_self=True)

    call = "knn(x, 2, exclude_self=True), knn(x, 1, causal=True), knn(x[~train], 1, x[train])"
    return Case(
        op="neighbors.knn_pass",
        name=f"n={n} d={d} k=2",
        dtype="float32",
        setup=setup,
        ours=ours,
        peers=[Peer(name="gramian, one by one", version=lambda: _version("gramian"), call=call, run=one_by_one)],
        flops=float(n) * n * d,
        bytes=4.0 * n * d + 72.0 * n,
        bf16_filter=True,
        error=lambda result, given: _error(result, given[0], given[0], 2, self_search=True),
        rounds=2,
    )


# ---- K-means ----


class Start(NamedTuple):
    """Points, first centres, and what Lloyd's algorithm in float64 makes of them."""

    x: torch.Tensor
    centers: torch.Tensor
    rounds: int
    inertia: float


def _start(x: torch.Tensor, k: int, seed: int) -> Start:
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:k]
    found = neighbors.kmeans(x.double(), k, init=x[rows].double(), max_iter=300)
    return Start(x, x[rows].clone(), found.n_iter, found.inertia)


def _clustered(n: int, d: int, k: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(k, d, generator=generator)
    return centers[torch.randint(k, (n,), generator=generator)] + torch.randn(n, d, generator=generator)


_FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")  # Debian: dataset-fashion-mnist


def _fashion() -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(gzip.decompress(_FASHION.read_bytes())[16:]), dtype=torch.uint8)
    return pixels.view(-1, 784).float()


def _sklearn_kmeans(algorithm: str) -> Peer:
    def run(start: Start) -> Any:
        from sklearn.cluster import KMeans

        k = len(start.centers)
        found = KMeans(k, init=start.centers.numpy(), n_init=1, max_iter=300, tol=0, algorithm=algorithm).fit(
            start.x.numpy()
        )
        return torch.from_numpy(found.cluster_centers_)

    call = f'KMeans(k, init=c, n_init=1, max_iter=300, tol=0, algorithm="{algorithm}").fit(x)'
    return Peer(name="scikit-learn", version=lambda: _version("sklearn"), call=call, run=run)


def _faiss_kmeans(start: Start) -> torch.Tensor:
    import faiss

    n, d = start.x.shape
    found = faiss.Kmeans(d, len(start.centers), niter=start.rounds, max_points_per_centroid=n)
    found.train(start.x.numpy(), init_centroids=start.centers.numpy())
    return torch.from_numpy(found.centroids)


def _inertia_error(result: Any, start: Start) -> float:
    """Inertia of the centres against that of float64, relative; only what is worse counts."""
    inertia = float(neighbors.assign(start.x, result).distances.double().sum())
    return max(0.0, inertia / start.inertia - 1)


def _kmeans(name: str, n: int, d: int, k: int, data: Any) -> Case:
    faiss = Peer(
        name="faiss-cpu",
        version=lambda: _version("faiss"),
        call="Kmeans(d, k, niter=rounds, max_points_per_centroid=n).train(x, init_centroids=c)",
        run=_faiss_kmeans,
    )
    lloyd, elkan = _sklearn_kmeans("lloyd"), _sklearn_kmeans("elkan")
    tuned = replace(faiss, environment="tuned")
    return Case(
        op="neighbors.kmeans",
        name=f"{name} n={n} d={d} k={k}",
        dtype="float32",
        setup=lambda seed: _start(data(seed), k, seed),
        ours=lambda start: neighbors.kmeans(start.x, k, init=start.centers, max_iter=300).centers,
        peers=[lloyd, tuned] if k > 100 else [lloyd, elkan, faiss, tuned],  # the others take twice as long and more
        flops=2.0 * n * k * d,  # one assignment: all that the bounds cannot spare
        bytes=4.0 * n * d,
        error=_inertia_error,
        rounds=2,
    )


def _plus_plus(n: int, d: int, k: int) -> Case:
    def ours(x: torch.Tensor) -> torch.Tensor:
        return x[neighbors.kmeans_plus_plus(x, k, generator=torch.Generator().manual_seed(0))]

    def theirs(x: torch.Tensor) -> torch.Tensor:
        from sklearn.cluster import kmeans_plusplus

        return torch.from_numpy(kmeans_plusplus(x.numpy(), k, random_state=0)[0])

    def error(result: torch.Tensor, x: torch.Tensor) -> float:
        """Inertia of the start against that of random rows: a draw, so only its size means something."""
        random = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:k]]
        return float(neighbors.assign(x, result).distances.sum() / neighbors.assign(x, random).distances.sum())

    sklearn = Peer(name="scikit-learn", version=lambda: _version("sklearn"), call="kmeans_plusplus(x, k)", run=theirs)
    return Case(
        op="neighbors.kmeans_plus_plus",
        name=f"n={n} d={d} k={k}",
        dtype="float32",
        setup=lambda seed: _clustered(n, d, k, seed),
        ours=ours,
        peers=[sklearn],
        flops=2.0 * n * d * (k - 1) * (2 + int(math.log(k))),
        bytes=4.0 * n * d,
        error=error,
        rounds=2,
    )


CASES = [
    _self(2000, 64, 10, rounds=10),
    _self(20160, 32, 10),
    _self(20160, 128, 10),
    _self(20160, 512, 10),
    _self(20160, 128, 1),
    _self(20160, 128, 100),
    _self(1021, 7, 5, rounds=10),
    _self(32, 16, 3, rounds=10),
    _query(4096, 20160, 128, 10),
    _query(1, 20160, 128, 10),
    _query(8, 20160, 128, 10),
    _query(1, 20160, 768, 10),
    _causal(20_160, 128, all_pairs=True),
    _causal(50_000, 128, all_pairs=False),
    _memory(200_000, 64, 10),
    _pass(20160, 256),
    _kmeans("digits-sized", 2000, 64, 44, lambda seed: _clustered(2000, 64, 10, seed)),
    _kmeans("clustered", 50_000, 128, 100, lambda seed: _clustered(50_000, 128, 100, seed)),
    _kmeans("clustered", 50_000, 128, 1000, lambda seed: _clustered(50_000, 128, 1000, seed)),
    _kmeans("one cloud", 20_000, 128, 100, lambda seed: _clustered(20_000, 128, 1, seed)),
    _plus_plus(50_000, 128, 100),
]
if _FASHION.exists():
    CASES.append(_kmeans("Fashion-MNIST", 60_000, 784, 100, lambda _: _fashion()))
