"""neighbors: exact k nearest neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def _peers(run: Any, k: str) -> list[Peer]:
    """``run`` turns one of the three functions above into a call on the inputs."""
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
    return [faiss, replace(faiss, environment="tuned"), sklearn, replace(sklearn, environment="tuned"), matmul]


def _self(n: int, d: int, k: int, rounds: int = 4) -> Case:
    return Case(
        op="neighbors.knn",
        name=f"self n={n} d={d} k={k}",
        dtype="float32",
        setup=lambda seed: torch.randn(n, d, generator=torch.Generator().manual_seed(seed)),
        ours=lambda x: neighbors.knn(x, k, exclude_self=True),
        peers=_peers(lambda search: lambda x: search(x, x, k + 1), "k + 1"),
        flops=float(n) * n * d,
        bytes=4.0 * n * d + 12.0 * n * k,
        bf16_filter=True,
        error=lambda result, x: _error(result, x, x, k, self_search=True),
        rounds=rounds,
        memory=n > 10_000,
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


CASES = [
    _self(2000, 64, 10),
    _self(20160, 32, 10),
    _self(20160, 128, 10),
    _self(20160, 512, 10, rounds=2),
    _self(20160, 128, 1),
    _self(20160, 128, 100),
    _self(1021, 7, 5),
    _self(32, 16, 3),
    _query(4096, 20160, 128, 10),
    _query(1, 20160, 128, 10),
]
