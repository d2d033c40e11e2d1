"""
Does a discriminator on a hidden layer make a classifier robust?
================================================================

Four trainings of one small network on the digits, attacked by 20 steps of PGD: standard; on FGSM samples; A3T, which adds a
discriminator of clean against adversarial features (after arXiv:1801.04055); and on PGD samples.

    python examples/plot_adversarial.py       # writes adversarial.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gramian.adversarial import A3TLoss, fgsm, pgd

EPS, TRAINED = 0.15, 1300
TRAININGS = {"standard": 0.0, "FGSM": 0.0, "A3T": 0.1, "PGD": 0.0}  # and the weight beta of the discriminator


def data() -> tuple[Tensor, Tensor]:
    """Return the digits in a fixed order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]


def train(kind: str, epochs: int, seed: int) -> A3TLoss:
    """Train encoder, readout and discriminator together."""
    torch.manual_seed(seed)
    x, y = (t[:TRAINED] for t in data())
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    discriminator = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    model = A3TLoss(encoder, nn.Linear(64, 10), discriminator, alpha=0.5, beta=TRAININGS[kind])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(TRAINED).split(100):
            if kind == "standard":
                loss = cross_entropy(model.classify(x[rows]), y[rows])
            else:
                attack = pgd(model.classify, x[rows], y[rows], EPS, steps=5) if kind == "PGD" else None
                moved = fgsm(model.classify, x[rows], y[rows], EPS) if attack is None else attack
                loss = sum(model(x[rows], moved, y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def accuracy(model: A3TLoss) -> tuple[float, float]:
    """Return accuracy on held-out images, clean and attacked."""
    x, y = (t[TRAINED:] for t in data())
    moved = pgd(model.classify, x, y, EPS, steps=20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean, attacked = ((model.classify(t).argmax(1) == y).double().mean() for t in (x, moved))
    return float(clean), float(attacked)


def measure(epochs: int = 25, seeds: int = 3) -> dict[str, Tensor]:
    """Return for each training ``[seeds, 2]``, clean and attacked accuracy."""
    return {
        kind: torch.tensor([accuracy(train(kind, epochs, seed)) for seed in range(seeds)], dtype=torch.float64)
        for kind in TRAININGS
    }


def plot(found: dict[str, Tensor], path: Path) -> None:
    """Draw both accuracies of each training, one point a seed."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for side, (label, color) in enumerate((("clean", "C0"), ("attacked by PGD", "C1"))):
        axis.plot(
            list(found), [seeds[:, side].mean() for seeds in found.values()], "_", color=color, ms=30, label=label
        )
        for kind, seeds in found.items():
            axis.plot([kind] * len(seeds), seeds[:, side], ".", color=color)
    axis.set(ylabel="accuracy on held-out digits", ylim=(0, 1), xlabel="trained on")
    axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("adversarial.png"))
    options = parser.parse_args()
    found = measure()
    for kind, seeds in found.items():
        clean, attacked = seeds.mean(0).tolist()
        print(f"{kind:>8}: {clean:.3f} of clean digits, {attacked:.3f} of attacked ones")
    gain = found["A3T"][:, 1] - found["FGSM"][:, 1]
    print(
        f"the discriminator changes attacked accuracy by {gain.mean():+.3f}, seed by seed {gain.min():+.3f} to {gain.max():+.3f}"
    )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
