"""examples/plot_sixj_landscape.py: what it finds."""

import importlib.util
import math
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

EXAMPLE = Path(__file__).parent.parent / "examples" / "plot_sixj_landscape.py"


@pytest.mark.slow
def test_symbols_live_where_tetrahedra_do_and_the_simplex_flattens(tmp_path):
    spec = importlib.util.spec_from_file_location("plot_sixj_landscape", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.measure(spin=20)
    assert module.ratio(found) > 5
    # Points 0 and 1 stand over the centre of a triangle, in the plane orthogonal to it: flat when they are opposite each other.
    assert module.flat_at(found) == pytest.approx(math.sqrt(8 / 3), abs=0.01)
    module.plot(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
