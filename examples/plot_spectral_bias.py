"""
Which frequencies a network learns first
========================================

A ReLU network fits a sum of ten sinusoids of equal amplitude by full-batch Adam. The heat map shows the share of each
amplitude against the step: low frequencies are learned first (after arXiv:1806.08734).

    python examples/plot_spectral_bias.py           # writes spectral_bias.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from gramian import spectra

if TYPE_CHECKING:
    from gramian.spectra import FrequencyRecorder

FREQUENCIES = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0]


def measure(steps: int = 1500, width: int = 128, seed: int = 0) -> FrequencyRecorder:
    """Train, and return what was recorded."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(1, width), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(width, width), nn.ReLU()]
    phases = 6.283 * torch.rand(len(FREQUENCIES))
    network = nn.Sequential(*layers, nn.Linear(width, 1))
    z = torch.arange(200) / 200
    return spectra.learn_sinusoids(network, z, FREQUENCIES, phases=phases, steps=steps, every=25, learning_rate=1e-3)


def plot(recorder: FrequencyRecorder, path: Path) -> None:
    """Draw the heat map."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    mesh = axis.pcolormesh(
        range(len(FREQUENCIES)), recorder.steps, recorder.heat.numpy(), vmin=0, vmax=1, shading="nearest"
    )
    axis.set_xticks(range(len(FREQUENCIES)), [f"{k:g}" for k in FREQUENCIES])
    axis.set(xlabel="frequency", ylabel="step")
    figure.colorbar(mesh, label="share of the amplitude learned")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print the finding and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=Path("spectral_bias.png"))
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)  # these networks are too small for more
    recorder = measure(options.steps)
    for k, step in zip(FREQUENCIES, spectra.learned_at(recorder.heat, recorder.steps).tolist(), strict=True):
        print(f"frequency {k:4g}: half learned at step {step:g}")
    plot(recorder, options.out)
    print(f"figure: {options.out}")


if __name__ == "__main__":
    main()
