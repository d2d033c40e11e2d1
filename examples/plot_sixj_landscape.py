"""
Where 6j symbols oscillate, and a 4-simplex that bends
======================================================

The symbols {j1 j j; l1 j j} over j1 and l1 oscillate where a tetrahedron with these edges exists, and die out beyond: Ponzano and Regge's
limit. Beside it the action and the weight of a 4-simplex while one of its edges grows until it is flat: the dihedral angles there reach 0
or pi, and the volume vanishes (after arXiv:1409.3526).

    python examples/plot_sixj_landscape.py       # writes sixj_landscape.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gramian import simplex

SPIN = 40


class Found(NamedTuple):
    """A block of symbols, where tetrahedra exist, edges of a 4-simplex with its actions and volumes."""

    symbols: Tensor
    exists: Tensor
    edge: Tensor
    action: Tensor
    volume: Tensor


def measure(spin: int = SPIN) -> Found:
    """Compute the block, and the weights along the edge."""
    doubled = 2 * spin
    symbols = simplex.sixj_block(doubled, doubled, doubled, doubled).values
    spins = 2 * torch.arange(len(symbols))
    rows, cols = torch.meshgrid(spins, spins, indexing="ij")
    rest = torch.full_like(rows, doubled)
    exists = simplex.ponzano_regge_asymptotics(rows, rest, rest, cols, rest, rest).isfinite()
    edge = torch.linspace(0.05, 1.8, 400, dtype=torch.float64)
    lengths = torch.ones(400, 10, dtype=torch.float64)
    lengths[:, 0] = edge
    weight = simplex.weight4(lengths, torch.ones_like(lengths))
    return Found(symbols, exists, edge, weight.action, weight.log_volume.exp())


def ratio(found: Found) -> float:
    """Return the mean square of the symbols where a tetrahedron exists, over that where none does."""
    inside, outside = found.symbols[found.exists], found.symbols[~found.exists]
    return float(inside.square().mean() / outside.square().mean())


def flat_at(found: Found) -> float:
    """Return the longest edge that a Euclidean simplex has."""
    return float(found.edge[found.action.isfinite()].max())


def plot(found: Found, path: Path) -> None:
    """Draw the block and the weights."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    height = float(found.symbols.abs().quantile(0.99))
    image = left.imshow(found.symbols.numpy(), cmap="RdBu", vmin=-height, vmax=height, origin="lower")
    left.contour(found.exists.double().numpy(), levels=[0.5], colors="black", linewidths=0.8)
    left.set(title="6j symbols; inside the line a tetrahedron exists", xlabel="l1", ylabel="j1")
    figure.colorbar(image, ax=left, shrink=0.8)
    right.plot(found.edge, found.action, label="action, radians")
    right.plot(found.edge, 10 * found.volume, "--", label="10 x 4! volume")
    right.set(title="A 4-simplex with one edge of another length", xlabel="length of the edge")
    right.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("sixj_landscape.png"))
    options = parser.parse_args()
    found = measure()
    print(f"mean square of the symbols where a tetrahedron exists: {ratio(found):.0f} times that where none does")
    print(
        f"the 4-simplex is flat when its edge reaches {flat_at(found):.2f}; its volume there is {float(found.volume.nan_to_num(9).min()):.3f}"
    )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
