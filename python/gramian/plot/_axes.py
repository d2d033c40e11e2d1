"""What all figures share: colours, dashes and markers, axes that say what they show."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from torch import Tensor

T = TypeVar("T")

# Okabe and Ito's colours, which the colour-blind can tell apart, the darkest first; with dashes for print in grey.
STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#E69F00", (0, (5, 1)), "v"),
    ("#000000", (0, (1, 1)), "x"),
)


def make_axes(axes: Axes | None, x: str, y: str, title: str) -> Axes:
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("gramian.plot needs matplotlib: pip install 'gramian[plot]'") from error
        axes = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def numbers(values: Tensor) -> Any:
    return values.detach().double().cpu().numpy()


def say_if_empty(axes: Axes) -> None:
    if not axes.has_data():
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center")


def named(results: T | Mapping[str, T]) -> dict[str, T]:
    """Several results by name, or one that needs none."""
    return dict(results) if isinstance(results, Mapping) else {"": results}


def styled(results: Mapping[str, T]) -> Iterator[tuple[str, T, dict[str, Any]]]:
    """Each result with its name and how its line looks."""
    for (name, result), (color, dash, marker) in zip(results.items(), cycle(STYLES), strict=False):
        yield name, result, {"color": color, "ls": dash, "marker": marker, "ms": 3, "lw": 1.3}
