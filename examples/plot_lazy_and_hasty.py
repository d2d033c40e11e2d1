"""
Lazy and hasty: who is learned first
====================================

The same network forks into runs whose output is scaled by alpha: a large alpha makes it lazy (linear), a small one lets it learn
features. Compared where they fit the training set equally well, the hasty run is farther ahead on easy groups: on samples with
clean labels against wrong ones, and on samples where a planted shortcut tells the class against those where it misleads
(after arXiv:2209.09658).

    python examples/plot_lazy_and_hasty.py       # writes lazy_and_hasty.png
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gramian.dynamics import GroupProgress, scale_output

SAMPLES, STEPS, RATE = 400, 800, 0.05
ALPHAS = (0.3, 100.0)
LEVELS = torch.linspace(0.3, 0.9, 25, dtype=torch.float64)


def problem(kind: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return images, labels, and the easy and the hard group of a problem."""
    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator)[:SAMPLES]
    images = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    labels = torch.tensor(digits.target)[order]
    if kind == "label noise":
        hard = torch.rand(SAMPLES, generator=generator) < 0.2
        wrong = (labels + torch.randint(1, 10, (SAMPLES,), generator=generator)) % 10
        labels = torch.where(hard, wrong, labels)
        groups = {"clean labels": ~hard, "wrong labels": hard}
    else:
        hard = torch.rand(SAMPLES, generator=generator) < 0.1
        told = torch.where(hard, (labels + torch.randint(1, 10, (SAMPLES,), generator=generator)) % 10, labels)
        images = torch.cat([images, 2 * nn.functional.one_hot(told, 10)], 1)  # ten more pixels that name a class
        groups = {"shortcut tells": ~hard, "shortcut misleads": hard}
    return images, labels, groups


def run(kind: str, alpha: float, steps: int = STEPS) -> GroupProgress:
    """Train one fork with full batches and record both groups."""
    x, labels, groups = problem(kind)
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(x.shape[1], 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    model = scale_output(copy.deepcopy(start), alpha, keep_start=True)
    optimizer = torch.optim.SGD(model.model.parameters(), lr=RATE / alpha**2, momentum=0.9)
    progress = GroupProgress(groups)
    for _ in range(steps):
        logits = model(x)
        progress.record(logits.detach(), labels)
        if progress.curves()[0][-1] > LEVELS[-1] + 0.02:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    return progress


def measure(steps: int = STEPS) -> dict[str, dict[float, Tensor]]:
    """Return for each problem and alpha the accuracy of both groups, ``[levels, 2]``, at equal training accuracy."""
    return {
        kind: {alpha: run(kind, alpha, steps).at(LEVELS) for alpha in ALPHAS} for kind in ("label noise", "shortcut")
    }


def leads(curves: dict[float, Tensor]) -> dict[float, float]:
    """Return by how much the easy group is ahead of the hard one for each alpha, on average where all runs got to."""
    ahead = {alpha: curve[:, 0] - curve[:, 1] for alpha, curve in curves.items()}
    reached = torch.stack(list(ahead.values())).isfinite().all(0)
    return {alpha: float(gap[reached].mean()) for alpha, gap in ahead.items()}


def plot(found: dict[str, dict[float, Tensor]], path: Path) -> None:
    """Draw the groups' accuracy against the accuracy on all samples."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.4), layout="constrained")
    for axis, (kind, curves) in zip(axes, found.items(), strict=True):
        easy, hard = problem(kind)[2]
        for (alpha, curve), style in zip(curves.items(), ("-", "--"), strict=True):
            axis.plot(LEVELS, curve[:, 0], style, color="C0", label=f"{easy}, alpha = {alpha:g}")
            axis.plot(LEVELS, curve[:, 1], style, color="C1", label=f"{hard}, alpha = {alpha:g}")
        axis.set(title=kind, xlabel="training accuracy, all", ylabel="training accuracy of the group")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("lazy_and_hasty.png"))
    options = parser.parse_args()
    found = measure()
    for kind, curves in found.items():
        found_leads = ", ".join(f"{gap:.3f} at alpha = {alpha:g}" for alpha, gap in leads(curves).items())
        print(f"{kind}: the easy group leads by {found_leads}, on average at equal training accuracy")
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
