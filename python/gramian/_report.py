"""One page that says what gramian measures of a model on data: HTML for people, JSON for programs."""

from __future__ import annotations

import base64
import html
import importlib
import io
import json
import math
import resource
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from . import _C, neighbors, ntk, plot
from ._progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Report", "load_data", "load_model", "report"]

_MOST_LAYERS = 12
_MOST_FEATURES = 1 << 16
_POINTS = 128  # on each segment between two samples
_SEGMENTS = 64


class Report(NamedTuple):
    """Where the page and its numbers are, and the numbers: by section, as in the JSON."""

    page: Path
    numbers_file: Path
    numbers: dict[str, Any]


class _NotApplicableError(Exception):
    """A section has nothing to say of this model or data; its text says why."""


class _Whole(nn.Module):
    """A TorchScript module as one layer: it takes no hooks, and nothing inside it does."""

    def __init__(self, scripted: nn.Module) -> None:
        super().__init__()
        self.scripted = scripted

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scripted(x)
        return out


class _Subject(NamedTuple):
    model: nn.Module
    x: Tensor
    y: Tensor | None
    seed: int


class _Section(NamedTuple):
    title: str
    about: str
    measure: Callable[[_Subject], tuple[dict[str, Any], list[Axes]]]


def load_model(name: str) -> nn.Module:
    """Return the model that ``package.module:factory`` makes (or is), or that a TorchScript or exported file (.pt2) holds.

    A model is code: only load what you trust.
    """
    if name.endswith(".pt2"):
        exported = torch.export.load(name).module()
        for method in ("train", "eval"):  # an exported graph has no modes, and refuses to be asked
            exported.__dict__.pop(method, None)
        return exported
    module, colon, attribute = name.partition(":")
    if Path(name).is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return cast("nn.Module", torch.jit.load(name, map_location="cpu"))  # type: ignore[no-untyped-call]
    if not colon:
        raise ValueError(f"report: model must be package.module:factory or a file, got {name}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"report: model must be importable, got {name}: {error}") from error
    finally:
        sys.path.pop(0)
    model = found if isinstance(found, nn.Module) else found()
    if not isinstance(model, nn.Module):
        raise ValueError(  # noqa: TRY004  # what was named is wrong, not what was passed
            f"report: model must be or make a torch.nn.Module, got {type(model).__name__} from {name}"
        )
    return model


def load_data(name: str) -> Any:
    """Return samples, or (samples, labels), of a .pt, .npy or .npz file. Nothing in the file is run."""
    import numpy as np

    suffix = Path(name).suffix
    if not Path(name).is_file():
        raise ValueError(f"report: data must be a file, got {name}")
    if suffix == ".npy":
        return np.load(name, allow_pickle=False)
    if suffix == ".npz":
        with np.load(name, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    elif suffix in {".pt", ".pth"}:
        loaded = torch.load(name, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict):
            return loaded
        arrays = loaded
    else:
        raise ValueError(f"report: data must be a .pt, .npy or .npz file, got {name}")
    x = next((arrays[key] for key in ("x", "data", "images", "inputs") if key in arrays), None)
    if x is None:
        raise ValueError(f"report: data must have an entry x (and may have y), got {', '.join(arrays) or 'none'}")
    y = next((arrays[key] for key in ("y", "labels", "targets") if key in arrays), None)
    return x if y is None else (x, y)


def _collect(data: Any, samples: int) -> tuple[Tensor, Tensor | None]:
    """The first samples, and labels if there are any, of a tensor, an array, a pair of those, or batches."""
    is_array = isinstance(data, Tensor) or hasattr(data, "__array__")
    pair = isinstance(data, tuple | list) and len(data) in (1, 2)
    if is_array or (pair and all(isinstance(part, Tensor) or hasattr(part, "__array__") for part in data)):
        batches: Iterable[Any] = [data]
    else:
        batches = data
    parts: list[list[Tensor]] = [[], []]
    for batch in batches:
        for kept, part in zip(parts, batch if isinstance(batch, tuple | list) else (batch,), strict=False):
            kept.append(torch.as_tensor(part)[:samples])
        if sum(map(len, parts[0])) >= samples:
            break
    if not parts[0] or parts[0][0].ndim == 0 or sum(map(len, parts[0])) < 3:
        raise ValueError("report: data must have at least 3 samples")
    x = torch.cat(parts[0])[:samples]
    y = torch.cat(parts[1])[:samples] if parts[1] else None
    return x, y if y is not None and len(y) == len(x) else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _tangent_kernel(subject: _Subject) -> tuple[dict[str, Any], list[Axes]]:
    if isinstance(subject.model, _Whole):
        raise _NotApplicableError("the layers of a TorchScript module cannot be followed; name the module itself")
    if not any(parameter.requires_grad for parameter in subject.model.parameters()):
        raise _NotApplicableError("no parameter of the model requires a gradient")
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


def _layers(subject: _Subject) -> list[str]:
    """Layers that give one tensor ``[n, ...]`` each time, at most `_MOST_LAYERS` evenly over the depth, and the output."""
    if isinstance(subject.model, _Whole):
        return [""]
    seen: dict[str, list[bool]] = {}
    leaves = [name for name, module in subject.model.named_modules() if name and not list(module.children())]

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


def _clid(subject: _Subject) -> tuple[dict[str, Any], list[Axes]]:
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
        raise _NotApplicableError("; ".join(f"{name}: {why}" for name, why in numbers.items()))
    values = torch.tensor(list(points.values()), dtype=torch.float64)
    whole = neighbors.Clid(tuple(points), values[:, 0], values[:, 1], values.sum(1))
    ends = dict([*curves.items()][:: max(1, len(curves) - 1)])  # the first and the last
    return {"layers": numbers}, [plot.clid(whole), plot.learning_curve(ends)]


def _segments(subject: _Subject) -> tuple[dict[str, Any], list[Axes]]:
    if not subject.x.is_floating_point():
        raise _NotApplicableError(f"between {subject.x.dtype} samples there are no points")
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
            raise _NotApplicableError("the model does not give one output tensor [n, ...] for n samples")
        out = out.detach().double().reshape(_POINTS, -1)
        straight = torch.lerp(out[:1], out[-1:], at.double().view(-1, 1))  # else its jump hides all that is bent
        scale += float(out.square().sum())
        power += torch.fft.rfft((out - straight) * window[:, None], dim=0).abs().square().sum(1)
    total = float(power[1:].sum())
    if total <= 1e-11 * scale:  # what float32's rounding leaves of a straight line is below
        raise _NotApplicableError("the outputs are linear along every segment")
    share = power[1:] / total
    cycles = torch.arange(1, len(power), dtype=torch.float64)
    axes = plot._axes(None, "frequency (cycles per segment)", "share of the power", "Spectrum between samples")
    axes.loglog(cycles, share.clamp(min=1e-16), color=plot._STYLES[0][0])
    axes.set_ylim(max(float(share.min()), 1e-12) / 2, 1)
    numbers = {
        "segments": count,
        "points on each": _POINTS,
        "mean frequency (cycles per segment)": float((cycles * share).sum()),
        "share of the power above 8 cycles": float(share[8:].sum()),
        "power": share.tolist(),
    }
    return numbers, [axes]


_SECTIONS = (
    _Section(
        "Tangent kernel",
        "How strongly two samples pull on the same parameters: the trace of K(x, x') over the outputs. A low effective rank says "
        "that learning has few directions; the alignment, from 0 to 1 in practice, how well they point at the labels.",
        _tangent_kernel,
    ),
    _Section(
        "Learnability and dimension by layer",
        "Cluster learnability is the share of K-means clusters that the nearest of the samples before predicts; the dimension is "
        "TwoNN's. Good representations tend to have both.",
        _clid,
    ),
    _Section(
        "Spectrum along data segments",
        "The outputs are read at even steps on straight lines between samples, less the line between their ends, under a Hann window. "
        "Networks learn low frequencies first; much power at high ones says that the function is rough between the data.",
        _segments,
    ),
)


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinities."""
    return pytree.tree_map(lambda v: None if isinstance(v, float) and not math.isfinite(v) else v, value)


def _measure(section: _Section, subject: _Subject) -> tuple[dict[str, Any], list[Axes]]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    figures: list[Axes] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            numbers, figures = section.measure(subject)
        except _NotApplicableError as reason:
            numbers = {"does not apply": str(reason)}
        except (ValueError, RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            numbers = {"does not apply": f"the model or the data does not allow it: {first}"}
    if warned:
        numbers["warnings"] = "; ".join(dict.fromkeys(str(warning.message) for warning in warned))
    numbers["seconds"] = time.perf_counter() - start
    numbers["growth of peak memory (MB)"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return numbers, figures


def _picture(axes: Axes) -> str:
    buffer = io.BytesIO()
    cast("Figure", axes.figure).savefig(buffer, format="png", dpi=120)
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(axes.get_title("left"))}" src="data:image/png;base64,{source}">'


def _value(value: Any) -> str:
    if value is None:
        return "undefined"
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _table(numbers: dict[str, Any]) -> str:
    """Lists are in the JSON and in the figures; a row that holds a row of its own becomes several columns."""
    nested = [value for value in numbers.values() if isinstance(value, dict)]
    columns = list(nested[0]) if nested else []
    lines = []
    if columns:
        lines.append("<tr><th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in columns) + "</tr>")
    for name, value in numbers.items():
        if isinstance(value, list):
            continue
        cells = [value.get(c) for c in columns] if isinstance(value, dict) else [value]
        span = f' colspan="{len(columns)}"' if columns and not isinstance(value, dict) else ""
        row = "".join(f"<td{span}>{_value(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(name)}</th>{row}</tr>")
    return f"<table>{''.join(lines)}</table>"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.2rem .9rem .2rem 0;"
    "border-bottom:1px solid #ddd;font-weight:normal;vertical-align:top}td{text-align:right}td[colspan]{text-align:left}"
    "img{max-width:49%;min-width:20rem}.no{background:#f4f4f4;padding:.6rem 1rem}h2{margin-top:2.2rem}p{max-width:46rem}"
)


def _page(numbers: dict[str, Any], figures: dict[str, list[str]]) -> str:
    title = f"gramian report: {numbers['subject']['model']}"
    parts = [f"<h1>{html.escape(title)}</h1>", _table(numbers["subject"])]
    for section in _SECTIONS:
        found = dict(numbers[section.title])
        reason = found.pop("does not apply", None)
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if reason is not None:
            parts.append(f'<p class="no">Does not apply: {html.escape(reason)}</p>')
            continue
        parts += [f"<p>{html.escape(section.about)}</p>", *figures[section.title]]
        parts += [_table(found.pop("layers")), _table(found)] if "layers" in found else [_table(found)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def report(
    model: nn.Module | str,
    data: Any,
    out: str | Path = "gramian-report.html",
    *,
    samples: int = 512,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Measure a model on data and write one page: tangent kernel, learnability and dimension by layer, frequencies.

    Args:
        model: any module, ``"package.module:factory"``, or the path of a TorchScript or exported (.pt2) file. A model is code: name
            only what you trust.
        data: samples ``[n, ...]`` as a tensor or an array, a pair (samples, labels), batches of either such as a ``DataLoader``, or
            the path of a .pt, .npy or .npz file (entries ``x`` and ``y``); files are read without running anything in them.
        out: the page; its numbers go beside it, with the ending .json.
        samples: how many of the first samples to use, from 3.
        seed: of the clusters and of the segments.
        progress: show a bar over the sections (with tqdm installed).

    Returns:
        ``Report(page, numbers_file, numbers)``: two paths, and what the JSON holds. The page holds its figures, and loads nothing. A
        section that does not apply holds the reason under ``"does not apply"``; numbers that are not finite are None.

    Raises:
        ValueError: fewer than 3 samples, a model or a file that cannot be loaded.
        ImportError: matplotlib is not installed.

    Cost:
        The tangent kernel of ``samples`` inputs (`ntk.empirical_ntk`), a pass of all samples for each layer, at most 13, and 64 passes
        of 128 points. Memory: one layer's rows at a time.

    Accuracy:
        Those of `ntk.empirical_ntk`, `ntk.spectrum`, `neighbors.cluster_learnability` and `neighbors.twonn`.

    The model runs in eval mode and is left as it was. The same numbers for the same seed, but for time and memory.

    References:
        Baratin et al., arXiv:2008.00938 (alignment); Lu et al., arXiv:2206.01251 (learnability and dimension); Rahaman et al.,
        arXiv:1806.08734 (frequencies).

    Example:
        >>> import tempfile
        >>> page = Path(tempfile.mkdtemp()) / "page.html"
        >>> report(nn.Linear(4, 2), torch.randn(20, 4), page).numbers["Spectrum along data segments"]["does not apply"]
        'the outputs are linear along every segment'
    """
    if samples < 3:
        raise ValueError(f"report: samples must be at least 3, got {samples}")
    import matplotlib  # noqa: F401, ICN001  # rather now than after minutes

    page = Path(out)
    if page.suffix != ".html":
        raise ValueError(f"report: out must end in .html, got {page}")
    module = load_model(model) if isinstance(model, str) else model
    if isinstance(module, torch.jit.ScriptModule):
        module = _Whole(module)
    x, y = _collect(load_data(data) if isinstance(data, str) else data, samples)
    parameter = next(module.parameters(), None)
    if parameter is not None:
        x = x.to(parameter.device)
        if x.is_floating_point() and parameter.is_floating_point():
            x = x.to(parameter.dtype)
    y = None if y is None else y.to(x.device)
    from . import __version__

    numbers: dict[str, Any] = {
        "subject": {
            "model": model if isinstance(model, str) else type(model).__name__,
            "parameters": sum(p.numel() for p in module.parameters()),
            "samples": f"{len(x)} of shape {tuple(x.shape[1:])}, {str(x.dtype).removeprefix('torch.')}",
            "labels": "none" if y is None else f"{tuple(y.shape)}, {str(y.dtype).removeprefix('torch.')}",
            "seed": seed,
            "measured with": f"gramian {__version__}, {_C.active_isa()} kernels, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads",
        }
    }
    figures: dict[str, list[str]] = {}
    subject = _Subject(module, x, y, seed)
    with _evaluating(module):
        for section in progress_bar(_SECTIONS, "report", shown=progress):
            found, drawn = _measure(section, subject)
            numbers[section.title] = _clean(found)
            figures[section.title] = [_picture(axes) for axes in drawn]
    numbers_file = page.with_suffix(".json")
    page.write_text(_page(numbers, figures), encoding="utf-8")
    numbers_file.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Report(page, numbers_file, numbers)
