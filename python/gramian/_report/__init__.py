"""One page that says what gramian measures of a model on data: HTML for people, JSON for programs."""

from __future__ import annotations

import json
import math
import resource
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from gramian import _C
from gramian._progress import progress_bar

from ._inputs import Whole, collect, load_data, load_model
from ._page import page, picture
from ._sections import SECTIONS, NotApplicableError, Section, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

__all__ = ["Report", "load_data", "load_model", "report"]


class Report(NamedTuple):
    """Where the page and its numbers are, and the numbers: by section, as in the JSON."""

    page: Path
    numbers_file: Path
    numbers: dict[str, Any]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _clean(value: Any) -> Any:
    """JSON has no NaN and no infinities."""
    return pytree.tree_map(lambda v: None if isinstance(v, float) and not math.isfinite(v) else v, value)


def _measure(section: Section, subject: Subject) -> tuple[dict[str, Any], list[Axes]]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    figures: list[Axes] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            numbers, figures = section.measure(subject)
        except NotApplicableError as reason:
            numbers = {"does not apply": str(reason)}
        except (ValueError, RuntimeError, NotImplementedError, TypeError, AttributeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            numbers = {"does not apply": f"the model or the data does not allow it: {first}"}
    if warned:
        numbers["warnings"] = "; ".join(dict.fromkeys(str(warning.message) for warning in warned))
    numbers["seconds"] = time.perf_counter() - start
    numbers["growth of peak memory (MB)"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return numbers, figures


def report(
    model: nn.Module | str,
    data: Any,
    out: str | Path = "gramian-report.html",
    *,
    samples: int = 512,
    seed: int = 0,
    progress: bool = False,
) -> Report:
    """Measure a model on data and write one page: tangent kernel, layers, attention, frequencies.

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
        The tangent kernel of ``samples`` inputs (`ntk.empirical_ntk`), a pass of all samples for each layer, at most 13, the attention of
        8 samples (`attention.lipschitz`), and 64 passes of 128 points. Memory: one layer's rows at a time.

    Accuracy:
        Those of `ntk.empirical_ntk`, `ntk.spectrum`, `neighbors.cluster_learnability`, `neighbors.twonn` and `attention.lipschitz`.

    The model runs in eval mode and is left as it was. The same numbers for the same seed, but for time and memory.

    References:
        Baratin et al., arXiv:2008.00938 (alignment); Lu et al., arXiv:2206.01251 (learnability and dimension);
        Vuckovic et al., arXiv:2102.05628 (attention); Rahaman et al.,
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

    path = Path(out)
    if path.suffix != ".html":
        raise ValueError(f"report: out must end in .html, got {path}")
    module = load_model(model) if isinstance(model, str) else model
    if isinstance(module, torch.jit.ScriptModule):
        module = Whole(module)
    x, y = collect(load_data(data) if isinstance(data, str) else data, samples)
    parameter = next(module.parameters(), None)
    if parameter is not None:
        x = x.to(parameter.device)
        if x.is_floating_point() and parameter.is_floating_point():
            x = x.to(parameter.dtype)
    y = None if y is None else y.to(x.device)
    from gramian import __version__

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
    subject = Subject(module, x, y, seed)
    with _evaluating(module):
        for section in progress_bar(SECTIONS, "report", shown=progress, name=lambda section: section.title):
            found, drawn = _measure(section, subject)
            numbers[section.title] = _clean(found)
            figures[section.title] = [picture(axes) for axes in drawn]
    numbers_file = path.with_suffix(".json")
    path.write_text(page(numbers, figures), encoding="utf-8")
    numbers_file.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Report(path, numbers_file, numbers)
