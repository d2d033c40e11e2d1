"""What a report measures: a section each, of numbers and figures, or the reason why it does not apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gramian import attention, neighbors, ntk, plot
from gramian.plot import _axes

from ._inputs import Whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

_MOST_LAYERS = 12
_MOST_FEATURES = 1 << 16
_SEQUENCES = 8  # whose attention is measured
_UNCHANGING = (nn.Identity, nn.modules.dropout._DropoutNd)  # in eval mode they return what they are given
_POINTS = 128  # on each segment between two samples
_SEGMENTS = 64


class NotApplicableError(Exception):
    """A section has nothing to say of this model or data; its text says why."""


class Subject(NamedTuple):
    model: nn.Module
    x: Tensor
    y: Tensor | None
    seed: int


class Section(NamedTuple):
    title: str
    about: str
    measure: Callable[[Subject], tuple[dict[str, Any], list[Axes]]]


def _tangent_kernel(subject: Subject) -> tuple[dict[str, Any], list[Axes]]:
    if isinstance(subject.model, Whole):
        raise NotApplicableError("the layers of a TorchScript module cannot be followed; name the module itself")
    if not any(parameter.requires_grad for parameter in subject.model.parameters()):
        raise NotApplicableError("no parameter of the model requires a gradient")
    kernel = ntk.empirical_ntk(subject.model, subject.x, outputs="trace")
    values = ntk.spectrum(kernel.double())
    numbers: dict[str, Any] = {
        "samples": len(kernel),
        "trace": float(values.sum()),
        "largest eigenvalue": float(values[0]),
        "smallest eigenvalue": float(values[-1]),
        "effective rank": float(ntk.effective_rank(values)),
        "share of the trace in the 10 largest": float(ntk.trace_ratio(values, min(10, len(values)))),
    }
    classes = subject.y is not None and subject.y.ndim == 1 and not subject.y.is_floating_point()
    if classes:
        numbers["alignment with the labels"] = float(ntk.label_alignment(kernel, cast("Tensor", subject.y).long()))
    else:
        numbers["alignment with the labels"] = "not measured: the data has no class numbers"
    numbers["eigenvalues"] = values.tolist()
    return numbers, [plot.eigenvalues(values), plot.kernel(kernel, order=subject.y if classes else None)]


def _layers(subject: Subject) -> list[str]:
    """Layers that give one tensor ``[n, ...]`` each time, at most `_MOST_LAYERS` evenly over the depth, and the output."""
    if isinstance(subject.model, Whole):
        return [""]
    seen: dict[str, list[bool]] = {}
    leaves = [
        name
        for name, module in subject.model.named_modules()
        if name and not list(module.children()) and not isinstance(module, _UNCHANGING)
    ]

    def note(name: str, output: Any) -> None:
        fits = isinstance(output, Tensor) and output.ndim >= 2 and len(output) == 2 and output.is_floating_point()
        seen.setdefault(name, []).append(bool(fits and output[0].numel() <= _MOST_FEATURES))

    modules = dict(subject.model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name in leaves
    ]
    try:
        with torch.no_grad():
            subject.model(subject.x[:2])
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, uses in seen.items() if uses == [True]]
    if len(found) > _MOST_LAYERS:
        found = [found[round(i * (len(found) - 1) / (_MOST_LAYERS - 1))] for i in range(_MOST_LAYERS)]
    return [*found, ""]


def _clid(subject: Subject) -> tuple[dict[str, Any], list[Axes]]:
    numbers: dict[str, Any] = {}
    curves: dict[str, neighbors.Learnability] = {}
    points: dict[str, tuple[float, float]] = {}
    for layer in _layers(subject):  # one at a time: only one layer's rows are in memory
        name = layer or "output"
        batches = torch.split(subject.x, 64)
        rows = neighbors.representations(subject.model, batches, [layer]).layers[layer]
        generator = torch.Generator().manual_seed(subject.seed)
        try:
            found = neighbors.cluster_learnability(rows, generator=generator)
            dimension = float(neighbors.twonn(rows).value)
        except ValueError as error:
            numbers[name] = f"not measured: {error}"
            continue
        curves[name], points[name] = found, (found.value, dimension)
        numbers[name] = {"features": rows.shape[1], "learnability": found.value, "dimension": dimension}
    if not curves:
        raise NotApplicableError("; ".join(f"{name}: {why}" for name, why in numbers.items()))
    values = torch.tensor(list(points.values()), dtype=torch.float64)
    whole = neighbors.Clid(tuple(points), values[:, 0], values[:, 1], values.sum(1))
    ends = dict([*curves.items()][:: max(1, len(curves) - 1)])  # the first and the last
    return {"layers": numbers}, [plot.clid(whole), plot.learning_curve(ends)]


def _attention(subject: Subject) -> tuple[dict[str, Any], list[Axes]]:
    if isinstance(subject.model, Whole):
        raise NotApplicableError("the layers of a TorchScript module cannot be followed; name the module itself")
    x = subject.x[:_SEQUENCES]
    try:
        constants = attention.lipschitz(subject.model, x, seed=subject.seed)
    except ValueError as error:
        if "must call" in str(error):
            raise NotApplicableError("no layer of the model is self-attention of a kind that gramian reads") from error
        raise
    layers = {}
    for call, (name, sigma, upper, *_) in enumerate(constants, start=1):
        layers[f"call {call}: {name or 'model'}"] = {
            "mean": float(sigma.sigma.mean()),
            "largest": float(sigma.sigma.max()),
            "smallest upper bound": float(upper.min()),
            "largest upper bound": float(upper.max()),
            "converged": f"{int(sigma.converged.sum())} of {sigma.converged.numel()}",
        }
    return {"layers": layers, "samples": len(x)}, [plot.lipschitz(constants)]


def _segments(subject: Subject) -> tuple[dict[str, Any], list[Axes]]:
    if not subject.x.is_floating_point():
        raise NotApplicableError(f"between {subject.x.dtype} samples there are no points")
    n = len(subject.x)
    generator = torch.Generator().manual_seed(subject.seed)
    count = min(_SEGMENTS, n // 2)
    ends = torch.randperm(n, generator=generator)[: 2 * count].view(2, count)
    at = torch.linspace(0, 1, _POINTS, dtype=subject.x.dtype)
    window = torch.hann_window(_POINTS, periodic=False, dtype=torch.float64)
    power, scale = torch.zeros(_POINTS // 2 + 1, dtype=torch.float64), 0.0
    for start, stop in ends.mT.tolist():
        a, b = subject.x[start], subject.x[stop]
        line = torch.lerp(a, b, at.view(-1, *[1] * a.ndim))
        with torch.no_grad():
            out = subject.model(line)
        if not isinstance(out, Tensor) or len(out) != _POINTS:
            raise NotApplicableError("the model does not give one output tensor [n, ...] for n samples")
        out = out.detach().double().reshape(_POINTS, -1)
        straight = torch.lerp(out[:1], out[-1:], at.double().view(-1, 1))  # else its jump hides all that is bent
        scale += float(out.square().sum())
        power += torch.fft.rfft((out - straight) * window[:, None], dim=0).abs().square().sum(1)
    total = float(power[1:].sum())
    if total <= 1e-11 * scale:  # what float32's rounding leaves of a straight line is below
        raise NotApplicableError("the outputs are linear along every segment")
    share = power[1:] / total
    cycles = torch.arange(1, len(power), dtype=torch.float64)
    axes = _axes.make_axes(None, "frequency (cycles per segment)", "share of the power", "Spectrum between samples")
    axes.loglog(cycles, share.clamp(min=1e-16), color=_axes.STYLES[0][0])
    axes.set_ylim(max(float(share.min()), 1e-12) / 2, 1)
    numbers = {
        "segments": count,
        "points on each": _POINTS,
        "mean frequency (cycles per segment)": float((cycles * share).sum()),
        "share of the power above 8 cycles": float(share[8:].sum()),
        "power": share.tolist(),
    }
    return numbers, [axes]


SECTIONS = (
    Section(
        "Tangent kernel",
        "How strongly two samples pull on the same parameters: the trace of K(x, x') over the outputs. A low effective rank says "
        "that learning has few directions; the alignment, from 0 to 1 in practice, how well they point at the labels.",
        _tangent_kernel,
    ),
    Section(
        "Learnability and dimension by layer",
        "Cluster learnability is the share of K-means clusters that the nearest of the samples before predicts; the dimension is "
        "TwoNN's. Good representations tend to have both.",
        _clid,
    ),
    Section(
        "Attention by layer",
        "The local Lipschitz constant of each self-attention: by how much its output can change for a small change of its tokens, at these "
        "samples. Values found are lower bounds, tight in practice; the upper bound is in closed form.",
        _attention,
    ),
    Section(
        "Spectrum along data segments",
        "The outputs are read at even steps on straight lines between samples, less the line between their ends, under a Hann window. "
        "Networks learn low frequencies first; much power at high ones says that the function is rough between the data.",
        _segments,
    ),
)
