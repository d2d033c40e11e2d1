"""What the tour prints: text in columns, with bold and dim where a terminal shows them."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

import gramian
from gramian import _C

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

    from gramian.tour.measure import Measure, Measured
    from gramian.tour.subject import Subject

_WIDTH = 88

T = TypeVar("T")


@dataclass(frozen=True)
class Versus:
    """The same work, done by gramian and by plain PyTorch."""

    work: str
    ours: Measured
    plain: Measured
    difference: float  # the largest, relative to the largest value


@dataclass(frozen=True)
class Section:
    """What a family's module hands back."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    finding: str
    versus: Sequence[Versus]
    figure: Figure
    caption: str


def progress(items: Iterable[T], title: str, unit: str) -> Iterable[T]:
    """Return `items` with a bar that goes when they are through, on a terminal."""
    bar: Iterable[T] = tqdm(items, desc=f" {title}", unit=unit, leave=False, disable=None)
    return bar


def versus(
    work: str, measure: Measure, ours: Callable[..., Tensor], plain: Callable[..., Tensor], *given: Any
) -> Versus:
    """Measure the same work done both ways."""
    first, second = (measure(side, *given) for side in progress((ours, plain), work, "side"))
    difference = (first.result - second.result).abs().max() / second.result.abs().max()
    return Versus(work, first, second, float(difference))


def head() -> None:
    """Say what runs, before anything takes time."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an old terminal may have no arrow
    print(f"\n {_bold(f'gramian {gramian.__version__}')}  {_C.active_isa()} kernels, {torch.get_num_threads()} threads")
    print(_dim(f" beside plain PyTorch {torch.__version__} on the same threads"))


def describe(subject: Subject) -> None:
    """Say what was trained on what."""
    network = subject.snapshots[-1]
    linears = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    widths = "-".join(str(width) for width in (linears[0].in_features, *(layer.out_features for layer in linears)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    held_out = len(subject.images) - subject.learned
    print(f"\n data     scikit-learn's digits: {subject.learned} images to learn from, {held_out} held out")
    print(f" network  {widths}, ReLU, {parameters:,} parameters, {len(subject.snapshots) - 1} epochs of SGD")


def show(number: int, section: Section) -> None:
    """Print a section."""
    print(f"\n {_bold(f'{number}  {section.title}')}")
    _paragraph(section.about)
    _table(section.header, section.rows)
    _paragraph(section.finding)
    header = ("the same work", "gramian", "PyTorch", "", "gramian", "PyTorch", "", "difference")
    rows = [
        (
            both.work,
            _seconds(both.ours.seconds),
            _seconds(both.plain.seconds),
            _ratio(both.plain.seconds, both.ours.seconds),
            _bytes(both.ours.peak_bytes),
            _bytes(both.plain.peak_bytes),
            _ratio(both.plain.peak_bytes, both.ours.peak_bytes),
            f"{both.difference:.1e}",
        )
        for both in section.versus
    ]
    _table(header, rows, above=("", "time", "", "", "peak memory", "", "", "largest"))


def foot(figures: Sequence[tuple[Path, str]], seconds: float) -> None:
    """Say where the figures are."""
    print(f"\n {_bold('Figures')}")
    for path, caption in figures:
        print(f" {path}  {_dim(caption)}")
    print(_dim(f"\n {seconds:.0f} seconds in all\n"))


def _paragraph(text: str) -> None:
    print()
    for line in textwrap.wrap(text, _WIDTH - 5):
        print(f"    {_dim(line)}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], above: Sequence[str] | None = None) -> None:
    """Print columns: the first to the left, the others to the right."""
    lines = [*([above] if above else []), header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print()
    for number, line in enumerate(lines):
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        style = _dim if number < len(lines) - len(rows) else str
        print(style("  ".join(["    " + line[0].ljust(widths[0]), *cells])))


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.{0 if seconds >= 0.1 else 1}f} ms"


def _bytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _ratio(plain: float | None, ours: float | None) -> str:
    if plain is None or not ours:
        return ""
    ratio = plain / ours
    return f"{ratio:.{0 if ratio >= 10 else 1}f}x"


def _styled(code: int, text: str) -> str:
    shown = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{code}m{text}\x1b[0m" if shown else text


def _bold(text: str) -> str:
    return _styled(1, text)


def _dim(text: str) -> str:
    return _styled(2, text)
