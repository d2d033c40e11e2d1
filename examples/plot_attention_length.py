"""
Attention against the number and the size of tokens
===================================================

Dot-product attention has no Lipschitz constant: with one token at zero, its slope grows with the spread of the others. L2 attention with equal
queries and keys has one for every number of tokens (after arXiv:2102.05628, arXiv:2006.04710).

    python examples/plot_attention_length.py           # writes attention_length.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gramian import attention

WIDTH, HEADS = 16, 2
LENGTHS = [8, 16, 32, 64, 128, 256]
SIZES = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
KINDS = ("dot", "l2")


def weights() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equal weights of queries and keys, and values that are a linear function of a head's keys: what L2 attention needs."""
    generator = torch.Generator().manual_seed(0)
    wk, a, wo = (torch.randn(*shape, generator=generator) for shape in ((WIDTH, WIDTH), (HEADS, 8, 8), (WIDTH, WIDTH)))
    wk, a, wo = wk / WIDTH**0.5, a / 8**0.5, wo / WIDTH**0.5
    wv = (wk.unflatten(1, (HEADS, -1)).transpose(0, 1) @ a).transpose(0, 1).flatten(1)
    return wk, wk, wv, wo


def tokens(n: int, size: float) -> Tensor:
    """One token at zero; the others Gaussian."""
    x = size * torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1))
    x[0] = 0
    return x


def constants(x: Tensor) -> dict[str, float]:
    """Of both kinds of attention: the local constant, a bound at this input, and what holds everywhere."""
    w = weights()
    found = {}
    for kind in KINDS:
        found[kind] = attention.sigma(x, *w, heads=HEADS, kind=kind, tol=1e-4, max_iter=200).sigma.item()
        found[f"{kind} by blocks"] = attention.schur_bound(x[None], *w, heads=HEADS, kind=kind).item()
    found["dot closed form"] = attention.closed_form_bound(x[None], *w, heads=HEADS).item()
    found["l2 everywhere"] = attention.l2_bound(*w, heads=HEADS, n=len(x))
    return found


def measure(
    lengths: list[int] = LENGTHS, sizes: list[float] = SIZES
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """By length, tokens of size 4; and by size, 64 tokens."""
    return [constants(tokens(n, 4.0)) for n in lengths], [constants(tokens(64, size)) for size in sizes]


def plot(found: tuple[list[dict[str, float]], list[dict[str, float]]], path: Path) -> None:
    """Draw both."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    styles = {
        "dot": "C0o-",
        "dot by blocks": "C0--",
        "dot closed form": "C0:",
        "l2": "C1s-",
        "l2 by blocks": "C1--",
        "l2 everywhere": "C1:",
    }
    for axis, values, places, name in zip(
        axes, found, (LENGTHS, SIZES), ("number of tokens", "size of tokens"), strict=True
    ):
        for curve, style in styles.items():
            axis.loglog(places, [value[curve] for value in values], style, label=curve)
        axis.set(xlabel=name, title=f"against the {name}")
    axes[0].set_ylabel("local Lipschitz constant")
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("attention_length.png"))
    options = parser.parse_args()
    found = measure()
    for values, places, name in zip(found, (LENGTHS, SIZES), ("tokens", "size"), strict=True):
        for place, value in zip(places, values, strict=True):
            print(f"{name} {place:>5}: " + ", ".join(f"{curve} {number:.3g}" for curve, number in value.items()))
    plot(found, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
