"""Figures of ensembles, of estimates of mutual information, and of 6j symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gramian.ensemble import Intervals
from gramian.simplex import SixjFamily

from ._axes import STYLES, make_axes, named, numbers, styled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from gramian.ensemble import Decomposition
    from gramian.information import Estimate
    from gramian.simplex import SixjBlock

_PARTS = {"bias2": "bias²", "variance": "variance", "optimisation": "by the start", "sampling": "by the training set"}


def decomposition(
    results: Decomposition | Intervals | Mapping[str, Decomposition | Intervals], *, axes: Axes | None = None
) -> Axes:
    """Draw bias, variance and where it comes from, of one ensemble or of several side by side.

    Args:
        results: of `ensemble.bias_variance`, or of `ensemble.bootstrap` with its intervals; by name, such as the width. Parts
            for each point are drawn as their mean.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, ensembles on the first, parts of the error in the unit of the loss on the second.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.ensemble import bias_variance
        >>> decomposition(bias_variance(torch.randn(3, 2, 5, 1), torch.zeros(5, 1))).get_ylabel()
        'part of the error (unit of the loss)'
    """
    axes = make_axes(axes, "ensemble", "part of the error (unit of the loss)", "Bias and variance")
    found = named(results)
    for part, label, style in styled(_PARTS):
        ends = [result if isinstance(result, Intervals) else (result, result, result) for result in found.values()]
        middle, low, high = zip(*([float(getattr(end, part).mean()) for end in each] for each in ends), strict=True)
        places = range(len(found))
        axes.plot(places, middle, label=label, **style)
        axes.vlines(places, low, high, color=style["color"], lw=3, alpha=0.3)
    axes.set_xticks(range(len(found)), list(found))
    axes.legend(frameon=False)
    return axes


def estimate(results: Estimate | Mapping[str, Estimate], *, axes: Axes | None = None) -> Axes:
    """Draw an estimate of mutual information as it was trained, on pairs held out.

    Args:
        results: of `information.MINE.fit`, one or several by name.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, steps on the first, nats on the second; the band at the end is one standard deviation about the value.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.information import Estimate
        >>> estimate(Estimate(0.5, 0.1, torch.tensor([0.1, 0.5]), torch.tensor([1, 2]), False)).get_ylabel()
        'bound on the held-out pairs (nats)'
    """
    axes = make_axes(axes, "step", "bound on the held-out pairs (nats)", "Mutual information")
    for name, found, style in styled(named(results)):
        end = int(found.steps.max()) if len(found.steps) else 0
        label = f"{name}: {found.value:.2f} ± {found.std:.2f}".removeprefix(": ")
        axes.plot(numbers(found.steps), numbers(found.curve), label=label, **style)
        axes.vlines(end, found.value - found.std, found.value + found.std, color=style["color"], lw=5, alpha=0.3)
    axes.legend(frameon=False)
    return axes


def symbols(result: SixjBlock | SixjFamily, *, axes: Axes | None = None) -> Axes:
    """Draw 6j symbols over two spins as a picture, or over one as a line.

    Args:
        result: of `simplex.sixj_block`, or of `simplex.sixj_family` with one family.
        axes: where to draw; a new figure without it.

    Returns:
        The axes; spins, not doubled. A picture is white at 0.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: more than one family.

    Example:
        >>> from gramian.simplex import sixj_block
        >>> symbols(sixj_block(4, 4, 4, 4)).get_xlabel()
        'spin l1'
    """
    if isinstance(result, SixjFamily):
        if result.values.numel() != result.values.shape[-1]:
            raise ValueError(f"symbols: result must be one family, got values of shape {tuple(result.values.shape)}")
        axes = make_axes(axes, "spin j1", "6j symbol", "6j symbols over one spin")
        values = result.values.flatten()
        axes.plot(
            numbers(result.first.flatten()[0] / 2 + torch.arange(len(values))),
            numbers(values),
            "o-",
            color=STYLES[0][0],
            ms=3,
        )
        return axes
    axes = make_axes(axes, "spin l1", "spin j1", "6j symbols over two spins")
    height = float(result.values.abs().max()) if result.values.numel() else 1.0
    rows, columns = result.values.shape
    left, below = result.first_l / 2 - 0.5, result.first_j / 2 - 0.5
    image = axes.imshow(
        numbers(result.values),
        cmap="RdBu",
        vmin=-height,
        vmax=height,
        origin="lower",
        extent=(left, left + columns, below, below + rows),
    )
    axes.figure.colorbar(image, ax=axes, label="6j symbol")
    return axes
