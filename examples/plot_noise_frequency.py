"""
Label noise by its frequency
============================

A network learns threes from eights with a wave added to the labels. Noise of low frequency is fitted along with the
digits and spoils the validation loss; noise of high frequency is left for later, and hurts less at its best
(after arXiv:1806.08734).

    python examples/plot_noise_frequency.py           # writes noise_frequency.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gramian import spectra

FREQUENCIES = (0.3, 1.0, 3.0, 10.0, 30.0)
EVERY = 20


def measure(steps: int = 800, beta: float = 1.0, seeds: int = 3) -> dict[float, Tensor]:
    """Return, for each frequency of the noise, the mean squared error on clean held-out labels, by recording."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    chosen = (labels == 3) | (labels == 8)
    x, y = images[chosen], (labels[chosen] == 8).float() * 2 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    learned, held_out = order[: 4 * len(x) // 5], order[4 * len(x) // 5 :]
    found = {}
    for k in FREQUENCIES:
        target = y[learned] + beta * spectra.wave_noise(x[learned], k)
        curves = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
            optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
            curve = []
            for step in range(steps + 1):
                if step % EVERY == 0:
                    with torch.no_grad():
                        curve.append(float((network(x[held_out])[:, 0] - y[held_out]).square().mean()))
                optimizer.zero_grad()
                (network(x[learned])[:, 0] - target).square().mean().backward()
                optimizer.step()
            curves.append(torch.tensor(curve))
        found[k] = torch.stack(curves).mean(0)
    return found


def plot(found: dict[float, Tensor], path: Path) -> None:
    """Draw the validation loss against the step, and its minimum against the frequency."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for k, curve in found.items():
        axes[0].plot(EVERY * torch.arange(len(curve)), curve, label=f"k = {k:g}")
    axes[0].set(xlabel="step", title="loss on clean held-out labels", yscale="log")
    axes[0].legend()
    axes[1].semilogx(list(found), [float(curve.min()) for curve in found.values()], "o-")
    axes[1].set(xlabel="frequency of the noise", title="its minimum")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("noise_frequency.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # these networks are too small for more
    found = measure()
    for k, curve in found.items():
        print(
            f"noise of frequency {k:4g}: loss on clean labels {float(curve.min()):.3f} at best, {float(curve[-1]):.3f} in the end"
        )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
