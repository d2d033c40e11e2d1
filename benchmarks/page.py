"""The performance page of the documentation: two figures and all tables, from results files."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks import report

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; markers for print in grey.
WON, LOST, GREY = "#0072B2", "#D55E00", "#777777"
COLORS = (WON, LOST, "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
MARKERS = "os^Dvx*Ph"

PAGE = """# Performance

All figures and tables here are made from the results files of `python -m benchmarks`, which runs gramian and its peers in turns, in the same
round, on the same inputs. Cases that gramian loses stay in.

```{{include}} ../../benchmarks/README.md
:start-after: "## How to read a table"
:end-before: "## The engine bare"
```

## Against the peers

A point is a case: blue where gramian is faster, red where it is slower; the bar is the band over all rounds.

![ratios by op and peer](ratios.png)

{summary}

## Against the machine

What a case reaches, under the limits that its own run measured: the floating-point peak and the memory bandwidth. A point low on the right
is a small case, where the call itself takes the time; nearest neighbours pass the limit of float32 where bfloat16 products sort out most pairs
before. Points over the slope on the left lie in the caches.

![roofline](roofline.png)

## All cases

```{{toctree}}
:maxdepth: 1

{pages}
```
"""


def write(runs: dict[str, report.Results], folder: Path) -> None:
    """Write ``index.md``, a page of tables for each results file, and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    save(ratios(report.at_most_threads(list(runs.values()))), folder / "ratios.png")
    save(roofline(runs), folder / "roofline.png")
    for name, run in runs.items():
        _, _, tables = report.render(run).partition("\n")
        (folder / f"{name}.md").write_text(f"# {name}: all cases\n{tables}", encoding="utf-8")
    page = PAGE.format(summary=report.render_readme(list(runs.values())), pages="\n".join(runs))
    (folder / "index.md").write_text(page, encoding="utf-8")


def save(figure: Figure, path: Path) -> None:
    """Save as PNG, with the same bytes for the same numbers."""
    figure.savefig(path, dpi=120, metadata={"Software": None})


def ratios(rows: list[report.Row]) -> Figure:
    """Draw a line for each op and peer, a point for each case, with the band over its rounds."""
    found = report.by_peer(rows)
    figure, axes = _figure(8.2, 1.2 + 0.24 * len(found))
    for at, cases in enumerate(found.values()):
        for _, peer in cases:
            ratio, (low, high) = report.measured(peer)
            won = ratio >= 1
            axes.plot([low, high], [at, at], color=WON if won else LOST, lw=5, alpha=0.25, solid_capstyle="butt")
            axes.plot(ratio, at, color=WON if won else LOST, marker="o" if won else "X", ms=5, ls="", mew=0)
    axes.axvline(1, color=GREY, lw=1)
    axes.set_yticks(range(len(found)), [f"{op} · {peer}" for op, peer in found], fontsize=7)
    axes.set(
        xscale="log",
        xlabel="time of the peer / time of gramian (over 1: gramian is faster)",
        ylim=(len(found) - 0.5, -0.5),
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    return figure


def roofline(runs: dict[str, report.Results]) -> Figure:
    """Draw what each case reached under the limits that its run measured, at one thread."""
    figure, axes = _figure(7, 4.2)
    limits = [limit for run in runs.values() for limit in run["machine"]["limits"] if limit["threads"] == 1]
    intensity = [2.0**power for power in range(-3, 18)]
    for dtype, dash in (("bf16", ":"), ("f32", "-"), ("f64", "--")):
        peak = max(limit[f"peak_gflops_{dtype}"] for limit in limits)  # type: ignore[literal-required]
        bandwidth = max(limit["memory_gbs"] for limit in limits)
        roof = [min(peak, bandwidth * x) for x in intensity]
        axes.plot(intensity, roof, color=GREY, ls=dash, lw=1.2, label=f"limit, {dtype}")
    for (name, run), color, marker in zip(runs.items(), cycle(COLORS), cycle(MARKERS), strict=False):
        rows = [row for row in run["rows"] if row["threads"] == 1 and row["bytes"] and row["flops"]]
        x, y = [row["flops"] / row["bytes"] for row in rows], [row["flops"] / row["seconds"] / 1e9 for row in rows]
        axes.plot(x, y, color=color, marker=marker, ms=5, ls="", label=name)
    axes.set(xscale="log", yscale="log", xlabel="flops per byte of input and output", ylabel="GFLOP/s, one thread")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
