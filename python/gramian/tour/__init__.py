"""A tour on real data: trains a small network on scikit-learn's digits and measures it, beside plain PyTorch.

Every family has a module here with one function, `section(subject, measure) -> Section`, and its name in SECTIONS.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

from gramian.tour import report
from gramian.tour.measure import Measure
from gramian.tour.subject import train

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = ("ntk", "dynamics", "neighbors", "information", "attention", "spectra", "ensemble", "simplex")


def run(out: Path, *, quick: bool = False) -> None:
    """Print what all sections find, and save their figures in `out`."""
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    report.head()
    measure = Measure([f"gramian.tour.{name}" for name in SECTIONS])
    subject = train(quick=quick)
    report.describe(subject)
    modules = [importlib.import_module(f"gramian.tour.{name}") for name in SECTIONS]
    figures = []
    for number, (name, module) in enumerate(zip(SECTIONS, modules, strict=True), start=1):
        section = module.section(subject, measure)
        report.show(number, section)
        section.figure.savefig(out / f"{name}.png")
        figures.append((out / f"{name}.png", section.caption))
    report.foot(figures, time.perf_counter() - begin)
