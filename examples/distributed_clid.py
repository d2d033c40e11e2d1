"""
Which representation is best, told without labels, by several processes
=======================================================================

CLID (arXiv:2206.01251) of representations of scikit-learn's digits whose rows are spread over the ranks of a process group: no rank
ever holds all of them. Each rank encodes its own images; K-means, nearest neighbours and both scores run over all ranks. Any number of
ranks, also one without torchrun, prints the same table.

    torchrun --nproc-per-node 2 examples/distributed_clid.py
"""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gramian import distributed


def own_images(rank: int, size: int) -> Tensor:
    """Every rank reads its own part of the images, [n, 64]."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    return images.tensor_split(size)[rank].clone()


def principal(images: Tensor, count: int) -> Tensor:
    """Project onto the main directions of all ranks' images: a covariance is a sum over rows, so over ranks."""
    sums = torch.cat(
        [images.T @ images, images.sum(0)[None], torch.full((1, images.shape[1]), float(len(images)))]
    ).double()
    if dist.is_initialized():
        dist.all_reduce(sums)
    second, mean, n = sums[:-2], sums[-2], sums[-1, 0]
    directions = torch.linalg.eigh(second / n - torch.outer(mean, mean) / n**2).eigenvectors.flip(1)
    return (images - (mean / n).float()) @ directions[:, :count].float()


def encoders(images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the same random networks on every rank
    shallow = nn.Sequential(nn.Linear(64, 256), nn.ReLU())
    deep = nn.Sequential(shallow, *(layer for _ in range(4) for layer in (nn.Linear(256, 256), nn.ReLU())))
    with torch.no_grad():
        return {
            "pixels": images,
            "pca 2": principal(images, 2),
            "pca 16": principal(images, 16),
            "random, 1 layer": shallow(images),
            "random, 5 layers": deep(images),
        }


def main() -> None:
    launched = "RANK" in os.environ
    if launched:
        dist.init_process_group("nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "cpu:gloo")
    rank, size = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)
    images = own_images(rank, size)
    start = time.perf_counter()
    found = distributed.clid(encoders(images), k=3, generator=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - start
    if rank == 0:
        print(f"{'representation':<18}{'learnability':>13}{'dimension':>11}{'CLID':>8}")
        for name, *numbers in zip(found.names, found.learnability, found.dimension, found.score, strict=True):
            print("{:<18}{:>13.3f}{:>11.2f}{:>8.2f}".format(name, *(number.item() for number in numbers)))
        print(f"\nranks: {size}, images on the first: {len(images)}, {seconds:.2f} s")
    if launched:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
