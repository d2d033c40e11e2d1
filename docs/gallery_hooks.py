"""How the gallery runs the scripts of examples/: each as by itself, and with its figure file away from the sources."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import torch

FIGURES = Path(__file__).parent.parent / "build" / "gallery"


def arguments(_configuration: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """Return the command line of a script, and give back its docstring, whose first line is its help."""
    source = Path(script["src_file"])
    script["example_globals"]["__doc__"] = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")), clean=False)
    FIGURES.mkdir(parents=True, exist_ok=True)
    return ["--out", os.path.relpath(FIGURES / f"{source.stem}.png", source.parent)]  # shown on the page


def reset(_configuration: dict[str, Any], _script: str) -> None:
    """Begin anew, whatever the script before has set."""
    torch.set_num_threads(1)  # the networks are too small for more
    torch.manual_seed(0)
