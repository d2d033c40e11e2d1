"""
Information bottleneck: what a code may keep of an image
========================================================

A noisy encoder z = mu(x) + sigma(x) noise and a linear decoder learn the digits while MINE's estimate of I(X; Z) is held down with
weight beta (after arXiv:1801.04062). The gradient of the estimate is clipped to that of the classification loss.

    python examples/plot_bottleneck.py       # writes bottleneck.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from gramian.information import MINE, adaptive_clip_

BETAS, TRAINED, CODE = (0.0, 0.1, 1.0), 1300, 8


class Found(NamedTuple):
    """Error on held-out images, and nats that the code keeps of an image."""

    error: float
    information: float


def data() -> tuple[Tensor, Tensor]:
    """Return the digits in a fixed order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]


def encode(encoder: nn.Module, x: Tensor) -> Tensor:
    """Draw a code for each image."""
    mean, spread = encoder(x).chunk(2, 1)
    return mean + softplus(spread) * torch.randn_like(mean)


def run(beta: float, steps: int) -> Found:
    """Train encoder and decoder against a critic, then estimate with a fresh one."""
    torch.manual_seed(0)
    images, labels = data()
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * CODE))
    decoder = nn.Linear(CODE, 10)
    mine = MINE(64, CODE, hidden=64, rate=0.05)
    learner = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    critic = torch.optim.Adam(mine.critic.parameters(), 1e-3)
    weights = list(encoder.parameters())
    for _ in range(steps):
        rows = torch.randint(0, TRAINED, (128,))
        x, y = images[rows], labels[rows]
        z = encode(encoder, x)
        critic.zero_grad()
        (-mine(x, z.detach())).backward()
        critic.step()
        learner.zero_grad()
        cross_entropy(decoder(z), y).backward(retain_graph=True)
        if beta:
            adaptive_clip_(weights, torch.autograd.grad(mine(x, z), weights), weight=beta)
        learner.step()
    with torch.no_grad():
        codes = encode(encoder, images)
        error = (decoder(codes[TRAINED:]).argmax(1) != labels[TRAINED:]).double().mean()
    fresh = MINE(64, CODE, hidden=64, kind="infonce")
    kept = fresh.fit(images, codes, steps=steps // 2, batch=256, evaluate_every=max(steps // 20, 1))
    return Found(float(error), kept.value)


def measure(steps: int = 1000) -> dict[float, Found]:
    """Return what is found for each beta."""
    return {beta: run(beta, steps) for beta in BETAS}


def plot(found: dict[float, Found], path: Path) -> None:
    """Draw error against information."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for beta, point in found.items():
        axis.plot(point.information, point.error, "o", label=f"beta = {beta:g}")
    axis.set(xlabel="I(X; Z), nats (InfoNCE, a lower bound)", ylabel="error on held-out digits")
    axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("bottleneck.png"))
    options = parser.parse_args()
    found = measure()
    for beta, point in found.items():
        print(
            f"beta = {beta:g}: error {point.error:.3f}, the code keeps at least {point.information:.2f} nats of the image"
        )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
