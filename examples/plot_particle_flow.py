"""
Tokens as particles
===================

Attention moves a measure of tokens along itself. With one matrix for scores and values the identity, tokens draw together into few places, the sharper
the scores the more of them (after arXiv:2007.02876).

    python examples/plot_particle_flow.py           # writes particle_flow.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gramian import attention

SHARPNESS = (1.0, 4.0, 16.0)
STEPS, STEP = 600, 0.05


def measure(count: int = 60, steps: int = STEPS) -> dict[float, Tensor]:
    """For each sharpness of the scores, the paths ``[steps + 1, count, 2]``, in coordinates in which a lone token stays."""
    x = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    eye = torch.eye(2)
    paths = {}
    for sharpness in SHARPNESS:
        path = [x]
        for _ in range(steps):
            # x + h P x, divided by 1 + h: the mean over tokens without the growth of all of them.
            path.append(attention.particle_flow(path[-1], sharpness * eye, eye, step_size=STEP)[1] / (1 + STEP))
        paths[sharpness] = torch.stack(path)
    return paths


def places(x: Tensor, near: float = 0.05) -> int:
    """How many places the tokens are in: groups of those that are nearer than this to one another."""
    joined = torch.cdist(x, x) < near
    for _ in range(len(x)):
        joined = (joined.float() @ joined.float()) > 0
    return len({tuple(row.nonzero()[:, 0].tolist()) for row in joined})


def plot(paths: dict[float, Tensor], path: Path) -> None:
    """Draw where tokens go."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(paths), figsize=(9, 3.2), layout="constrained", sharex=True, sharey=True)
    for axis, (sharpness, found) in zip(axes, paths.items(), strict=True):
        axis.plot(found[:, :, 0], found[:, :, 1], color="0.75", lw=0.6)
        axis.plot(*found[0].T, "o", color="C0", ms=3)
        axis.plot(*found[-1].T, "o", color="C1", ms=5)
        axis.set(title=f"sharpness {sharpness:g}: {places(found[-1])} places", aspect="equal")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("particle_flow.png"))
    options = parser.parse_args()
    found = measure()
    for sharpness, path in found.items():
        print(f"sharpness {sharpness:4g}: {places(path[0])} places at the start, {places(path[-1])} in the end")
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
