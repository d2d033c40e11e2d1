"""
Variance against width and depth
================================

Networks learn 100 digits, drawn anew several times, from several starts each. With width the bias falls and the variance does
not grow in return: the part that is due to the start falls, the part that is due to the sample grows by as much. With depth
both stay or fall here (after arXiv:1810.08591).

    python examples/plot_bias_variance.py           # writes bias_variance.png
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import nn

from gramian import ensemble

if TYPE_CHECKING:
    from gramian.ensemble import Decomposition

SAMPLES, POINTS, SETS, SEEDS = 100, 300, 5, 5
WIDTHS = (20, 80, 320)
DEPTHS = (1, 2, 4)


def network(width: int, depth: int) -> nn.Module:
    """A ReLU network of `depth` hidden layers, He's start."""
    sizes = [64, *(width,) * depth, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def decompose(width: int, depth: int, steps: int) -> Decomposition:
    """Train an ensemble on digits and take its squared error (of outputs against one-hot labels) apart."""
    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=generator)
    x = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
    y = nn.functional.one_hot(torch.tensor(digits.target)[order], 10).float()
    sets = ensemble.draw_sets(len(x) - POINTS, SETS, SAMPLES, how="split", generator=generator)
    parts = ensemble.BiasVariance(y[-POINTS:])
    groups = ensemble.train(
        lambda: network(width, depth),
        x[:-POINTS],
        y[:-POINTS],
        sets,
        x[-POINTS:],
        seeds=SEEDS,
        steps=steps,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )
    for group in groups:
        parts.update(group.predictions, group.training_set)
    return parts.result()


def measure(steps: int = 200) -> dict[str, dict[int, Decomposition]]:
    """Return the parts by width, at one hidden layer, and by depth, at width 50."""
    return {
        "width": {width: decompose(width, 1, steps) for width in WIDTHS},
        "depth": {depth: decompose(50, depth, steps) for depth in DEPTHS},
    }


def plot(found: dict[str, dict[int, Decomposition]], path: Path) -> None:
    """Draw the parts against width and depth."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, (what, by_size) in zip(axes, found.items(), strict=True):
        for part, style in {"bias2": "o-", "variance": "s-", "optimisation": "^--", "sampling": "v--"}.items():
            axis.plot(list(by_size), [float(getattr(parts, part)) for parts in by_size.values()], style, label=part)
        axis.set(xlabel=what, title=f"squared error by {what}", yscale="log", xscale="log")
        axis.set_xticks(list(by_size), [str(size) for size in by_size])
        axis.set_xticks([], minor=True)
    axes[0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("bias_variance.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # these networks are too small for more
    found = measure()
    for what, by_size in found.items():
        for size, parts in by_size.items():
            print(
                f"{what} {size:4}: bias² {parts.bias2:.3f}, variance {parts.variance:.3f} = "
                f"{parts.optimisation:.3f} optimisation + {parts.sampling:.3f} sampling"
            )
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
