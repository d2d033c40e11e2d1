"""
High frequencies on curved data
===============================

The same sinusoids along a flower with more petals are functions of lower frequency in the plane, so a network learns more of
them in the same time (after arXiv:1806.08734).

    python examples/plot_petals.py           # writes petals.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from gramian import spectra

FREQUENCIES = [4.0, 8.0, 12.0, 16.0, 20.0, 24.0]
PETALS = (0, 4, 10)


def measure(steps: int = 800, width: int = 128) -> dict[int, Tensor]:
    """Return, for each number of petals, the share of each amplitude that was learned in the end, mean of the last recordings."""
    z = torch.arange(300) / 300
    found = {}
    for petals in PETALS:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(2, width), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(width, width), nn.ReLU()]
        recorder = spectra.learn_sinusoids(
            nn.Sequential(*layers, nn.Linear(width, 1)),
            z,
            FREQUENCIES,
            inputs=spectra.petal(z, petals),
            phases=6.283 * torch.rand(len(FREQUENCIES)),
            steps=steps,
            every=50,
            learning_rate=1e-3,
        )
        found[petals] = recorder.heat[-4:].mean(0)
    return found


def plot(found: dict[int, Tensor], path: Path) -> None:
    """Draw the shares against frequency, and the curves."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for petals, shares in found.items():
        axes[0].plot(FREQUENCIES, shares, "o-", label=f"{petals} petals")
        axes[1].plot(*spectra.petal(torch.linspace(0, 1, 1000), petals).T)
    axes[0].set(xlabel="frequency along the curve", title="share of the amplitude learned")
    axes[0].legend()
    axes[1].set(title="the curves", aspect="equal")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("petals.png"))
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    torch.set_num_threads(1)  # these networks are too small for more
    found = measure(options.steps)
    for petals, shares in found.items():
        print(
            f"{petals:2} petals: learned "
            + ", ".join(f"{s:.2f} of {k:g}" for k, s in zip(FREQUENCIES, shares, strict=True))
        )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
