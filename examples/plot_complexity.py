"""
Complexity of a run against corrupted labels
============================================

The more labels are wrong, the farther a network travels, and the larger its tangent features are on the way: the sum of
the length of a step times that of the features along the run grows with the corruption, as the gap to the test set does (after arXiv:2008.00938).

    python examples/plot_complexity.py           # writes complexity.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import nn

from gramian import ntk

SAMPLES, PROBED, EVERY, DONE = 200, 50, 25, 0.1
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Run(NamedTuple):
    """A network trained to fit its labels: the complexity of its run, and its accuracy on the test set."""

    corrupted: float
    complexity: float
    test_accuracy: float


def run(corrupted: float) -> Run:
    """Train on digits until the loss is small, with this share of the labels replaced by random ones."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    truth = torch.tensor(digits.target)[order]
    x, labels = images[:SAMPLES], truth[:SAMPLES].clone()
    wrong = round(corrupted * SAMPLES)
    labels[:wrong] = torch.randint(10, (wrong,), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    probe = torch.linspace(0, SAMPLES - 1, PROBED).long()
    recorder = ntk.AlignmentRecorder(network, {"train": (x[probe], labels[probe])})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(5000):
        loss = nn.functional.cross_entropy(network(x), labels)
        if step % EVERY == 0 or loss < DONE:
            recorder.record(step)
        if loss < DONE:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(images[SAMPLES:]).argmax(1) == truth[SAMPLES:]).double().mean().item()
    return Run(corrupted, float(recorder.curve("train", "complexity")[-1]), accuracy)


def measure(fractions: tuple[float, ...] = FRACTIONS) -> list[Run]:
    """Return a run for each share of corrupted labels."""
    return [run(fraction) for fraction in fractions]


def plot(runs: list[Run], path: Path) -> None:
    """Draw complexity and test error against the corruption."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    corrupted = [100 * r.corrupted for r in runs]
    axes[0].plot(corrupted, [r.complexity for r in runs], "o-")
    axes[0].set(title="complexity of the run", xlabel="corrupted labels (%)")
    axes[1].plot(corrupted, [100 * (1 - r.test_accuracy) for r in runs], "o--")
    axes[1].set(title="test error (%)", xlabel="corrupted labels (%)")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("complexity.png"))
    options = parser.parse_args()
    runs = measure()
    for r in runs:
        print(f"{r.corrupted:4.0%} corrupted: complexity {r.complexity:8.1f}, test accuracy {r.test_accuracy:.3f}")
    plot(runs, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
