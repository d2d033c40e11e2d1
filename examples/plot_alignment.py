"""
Alignment of the tangent kernel along training
==============================================

A network learns scikit-learn's digits, once with their labels and once with random ones. Its tangent kernel turns towards the
labels that it learns and stretches along few directions; random labels give it nothing to turn to early on (after
arXiv:2008.00938).

    python examples/plot_alignment.py            # writes alignment.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from gramian import ntk

SAMPLES, PROBED, EPOCHS = 500, 100, 20


def train(images: torch.Tensor, labels: torch.Tensor, *, epochs: int) -> ntk.AlignmentRecorder:
    """Train by SGD and record the kernel of the first samples after every epoch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    recorder = ntk.AlignmentRecorder(network, {"train": (images[:PROBED], labels[:PROBED])})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        recorder.record(epoch)
        for batch in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    recorder.record(epochs)
    return recorder


def measure(epochs: int = EPOCHS) -> dict[str, ntk.AlignmentRecorder]:
    """Return the recordings with true and with random labels."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    images = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    labels = torch.tensor(digits.target)[order]
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    return {
        "true labels": train(images, labels, epochs=epochs),
        "random labels": train(images, shuffled, epochs=epochs),
    }


def plot(found: dict[str, ntk.AlignmentRecorder], path: Path) -> None:
    """Draw alignment, share of the ten largest modes and effective rank against the epoch."""
    import matplotlib.pyplot as plt

    panels = {
        "alignment": "alignment with the labels",
        "top_share": "share of the 10 largest modes",
        "effective_rank": "effective rank",
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2), layout="constrained")
    for axis, (what, title) in zip(axes, panels.items(), strict=True):
        for (name, recorder), style in zip(found.items(), ("-", "--"), strict=True):
            axis.plot(recorder.steps, recorder.curve("train", what), style, label=name)
        axis.set(title=title, xlabel="epoch")
    axes[0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("alignment.png"))
    options = parser.parse_args()
    found = measure()
    for name, recorder in found.items():
        alignment, share = recorder.curve("train", "alignment"), recorder.curve("train", "top_share")
        print(
            f"{name}: alignment {alignment[0]:.3f} before, {alignment[-1]:.3f} after; "
            f"share of the 10 largest modes {share[0]:.2f} before, {share.max():.2f} at most"
        )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
