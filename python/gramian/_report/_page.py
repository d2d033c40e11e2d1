"""The page: tables and figures in one file that loads nothing."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any, cast

from ._sections import SECTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture(axes: Axes) -> str:
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


def page(numbers: dict[str, Any], figures: dict[str, list[str]]) -> str:
    title = f"gramian report: {numbers['subject']['model']}"
    parts = [f"<h1>{html.escape(title)}</h1>", _table(numbers["subject"])]
    for section in SECTIONS:
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
