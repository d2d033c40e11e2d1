"""Figures of functions: spectra, pieces of ReLU networks, attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ._axes import STYLES, make_axes, named, numbers, say_if_empty, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from gramian.attention import LayerConstant
    from gramian.spectra import FrequencyRecorder, Pieces, RadialSpectrum, Regions


def spectrum(results: RadialSpectrum | Mapping[str, RadialSpectrum], *, axes: Axes | None = None) -> Axes:
    """Draw power over the wave number, both logarithmic.

    Args:
        results: of `spectra.radial_spectrum`, one or several by name; a batch is drawn as its mean.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, cycles over the unit of ``spacing`` on the first, power on the second. Zeros are left out.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.spectra import radial_spectrum
        >>> spectrum(radial_spectrum(torch.randn(8, 8))).get_xlabel()
        'wave number (cycles per unit of spacing)'
    """
    axes = make_axes(axes, "wave number (cycles per unit of spacing)", "power", "Radial spectrum")
    for name, found, style in styled(named(results)):
        power = found.values.reshape(-1, len(found.k)).mean(0)
        kept = (power > 0) & (found.k > 0)
        if kept.any():
            axes.loglog(numbers(found.k[kept]), numbers(power[kept]), label=name or None, **style)
        if name:
            axes.legend(frameon=False)
    say_if_empty(axes)
    return axes


def frequencies(recorder: FrequencyRecorder, *, axes: Axes | None = None) -> Axes:
    """Draw which frequencies were learned when.

    Args:
        recorder: with at least one recording.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, frequencies on the first, steps on the second; dark is 0, light is learned.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: nothing is recorded.

    Example:
        >>> from gramian.spectra import FrequencyRecorder
        >>> z = torch.arange(16) / 16
        >>> recorder = FrequencyRecorder(torch.nn.Linear(1, 1), z[:, None], z, [1.0, 2.0])
        >>> recorder.record(0)
        >>> frequencies(recorder).get_ylabel()
        'step'
    """
    if not recorder.steps:
        raise ValueError("frequencies: recorder must have a recording, got none")
    axes = make_axes(axes, "frequency (cycles per unit of z)", "step", "Frequencies learned")
    places = range(len(recorder.frequencies))
    heat = numbers(recorder.heat)
    mesh = axes.pcolormesh(places, recorder.steps, heat, vmin=0, vmax=1, shading="nearest", cmap="cividis")
    axes.set_xticks(places, [f"{k:g}" for k in recorder.frequencies.tolist()])
    axes.figure.colorbar(mesh, ax=axes, label="share of the amplitude learned")
    return axes


def pieces(result: Pieces, *, axes: Axes | None = None) -> Axes:
    """Draw a piecewise linear function on a segment, with its kinks.

    Args:
        result: of `spectra.relu_line`; a line for each output.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, the place on the segment from 0 to 1 on the first, the outputs on the second; a tick below for each kink.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.spectra import Pieces
        >>> kinked = Pieces(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[0.0], [1.0], [0.0]]))
        >>> pieces(kinked).get_title("left")
        'Exact on the segment: 2 pieces'
    """
    title = f"Exact on the segment: {len(result.t) - 1} pieces"
    axes = make_axes(axes, "place on the segment", "output", title)
    for _, values, style in styled({str(c): column for c, column in enumerate(result.values.unbind(1))}):
        axes.plot(numbers(result.t), numbers(values), **(style | {"marker": ""}))
    kinks = numbers(result.t[1:-1])
    axes.plot(kinks, [0.01] * len(kinks), "|", color="#777777", ms=6, mew=0.6, transform=axes.get_xaxis_transform())
    return axes


def regions(result: Regions, *, output: int = 0, axes: Axes | None = None) -> Axes:
    """Draw the linear regions of a function on a polygon, coloured by its mean over the corners of each.

    Args:
        result: of `spectra.relu_plane`.
        output: which one, from 0.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, in the coordinates of the polygon, with a colour bar in the units of the output.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such output.

    Example:
        >>> from gramian.spectra import Regions
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> one = Regions(corners, torch.tensor([0, 3]), corners[:, :1], torch.zeros(1, 1, 2), 0.0)
        >>> regions(one).get_title("left")
        'Exact on the polygon: 1 regions'
    """
    if not 0 <= output < result.values.shape[1]:
        raise ValueError(f"regions: output must be in [0, {result.values.shape[1]}), got {output}")
    axes = make_axes(
        axes, "first coordinate", "second coordinate", f"Exact on the polygon: {len(result.offsets) - 1} regions"
    )
    from matplotlib.collections import PolyCollection

    sizes = result.offsets.diff().tolist()
    corners = [numbers(part) for part in torch.split(result.corners, sizes)]
    means = torch.stack([part.mean() for part in torch.split(result.values[:, output], sizes)])
    drawn = PolyCollection(corners, array=numbers(means), cmap="cividis", edgecolors="white", linewidths=0.2)
    axes.add_collection(drawn)
    axes.autoscale()
    axes.set_aspect("equal")
    axes.figure.colorbar(drawn, ax=axes, label="output, mean over the corners")
    return axes


def lipschitz(constants: Sequence[LayerConstant], *, axes: Axes | None = None) -> Axes:
    """Draw the local Lipschitz constants of the layers of a model: the value found, and its upper bounds.

    Args:
        constants: of `attention.lipschitz`; of a batch the largest.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, layers in their order on the first, the factor by which a change can grow on the second, logarithmic.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.attention import lipschitz as measure
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        >>> lipschitz(measure(layer, torch.randn(1, 4, 8))).get_ylabel()
        'local Lipschitz constant'
    """
    axes = make_axes(axes, "attention layer", "local Lipschitz constant", "How far attention moves with its tokens")
    places = range(len(constants))
    for label, values, (color, _, marker) in (
        ("found", [float(c.sigma.sigma.max()) for c in constants], STYLES[0]),
        ("bound in closed form", [float(c.upper.max()) for c in constants], STYLES[1]),
        ("bound by blocks", [math.nan if c.schur is None else float(c.schur.max()) for c in constants], STYLES[2]),
    ):
        axes.semilogy(places, values, color=color, marker=marker, ls="", ms=6, label=label)
    axes.set_xticks(places, [c.name or "model" for c in constants], rotation=30, ha="right", fontsize=7)
    axes.legend(frameon=False)
    return axes
