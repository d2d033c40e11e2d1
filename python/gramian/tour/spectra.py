"""Spectra: the network along a line between two digits, kink by kink, and its exact spectrum there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gramian import spectra
from gramian.tour import plot
from gramian.tour.report import Section, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_FREQUENCIES = 200


def section(subject: Subject, measure: Measure) -> Section:
    """Take the spectrum along a line before, during and after training, and set it beside samples and an FFT."""
    start, end = (subject.images[subject.labels == digit][0] for digit in (3, 8))
    epochs = sorted({0, 1, len(subject.snapshots) // 2, len(subject.snapshots) - 1})
    k = torch.arange(1.0, _FREQUENCIES + 1)
    lines = [spectra.relu_line(subject.snapshots[epoch], start, end) for epoch in epochs]
    power = [spectra.pieces_fourier(line, k, subtract_chord=True).abs().square().sum(1) for line in lines]
    kinks = [len(line.t) - 2 for line in lines]
    slopes = [float(spectra.largest_slope(line)) for line in lines]
    high = [float(p[9:].sum() / p.sum()) for p in power]
    return Section(
        title="Exact spectrum along a line",
        about="The network is linear between kinks, so its Fourier transform along a line from a three to an eight has a closed form "
        "(arXiv:1806.08734): every kink is found, none is sampled.",
        header=("epoch", "kinks", "largest slope", "power at k = 1", "share of power at k >= 10"),
        rows=[
            (str(epoch), str(count), f"{slope:.3g}", f"{float(p[0]):.3g}", f"{share:.2%}")
            for epoch, count, slope, p, share in zip(epochs, kinks, slopes, power, high, strict=True)
        ],
        finding=f"Training raises the largest slope along the line from {slopes[0]:.2f} to {slopes[-1]:.2f}, and the power at k = 1 "
        f"{float(power[-1][0] / power[0][0]):.0f}-fold; of all power, {high[-1]:.2%} is at ten cycles and more.",
        versus=[
            versus(
                f"spectrum at {_FREQUENCIES} frequencies", measure, exact, sampled, subject.snapshots[-1], start, end
            )
        ],
        figure=_figure(epochs, k, power),
        caption="power along the line, by epoch",
    )


def exact(network: nn.Module, start: Tensor, end: Tensor) -> Tensor:
    """Magnitudes, from the kinks."""
    return spectra.relu_line_spectrum(network, start, end, torch.arange(float(_FREQUENCIES))).abs()


def sampled(network: nn.Module, start: Tensor, end: Tensor) -> Tensor:
    """Magnitudes, from 2^14 samples."""
    t = torch.arange(1 << 14) / (1 << 14)
    with torch.no_grad():
        values: Tensor = network(start + t[:, None] * (end - start))
    magnitudes: Tensor = torch.fft.rfft(values, dim=0)[:_FREQUENCIES].abs()
    return magnitudes / len(t)


def _figure(epochs: list[int], k: Tensor, power: list[Tensor]) -> Figure:
    figure = plot.figure(6, 3.2)
    axes = figure.subplots()
    for epoch, p in zip(epochs, power, strict=True):
        axes.loglog(k, p, label=f"epoch {epoch}")
    axes.set_xlabel("frequency, cycles between the two digits")
    axes.set_title("Power along the line, its chord taken away")
    axes.legend()
    return figure
