"""examples/plot_clid.py: it runs, draws, and its numbers are what its parts say."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parent.parent / "examples" / "plot_clid.py"


@pytest.mark.slow
def test_plot_clid(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("plot_clid", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    summary = example.main(["--data", "digits", "--quick", "--out", str(tmp_path / "clid.png")])
    assert (tmp_path / "clid.png").read_bytes().startswith(b"\x89PNG")
    assert set(summary) == {"CLID", "CL alone", "ID alone", "CLID, fitted"}
    # Weights fitted to the accuracies explain them at least as well as any other weights, in Pearson's measure.
    assert summary["CLID, fitted"] >= max(abs(summary[name]) for name in ("CLID", "CL alone", "ID alone")) - 1e-9
    printed = capsys.readouterr().out
    accuracy = {
        line[:16].strip(): float(line.split()[-1])
        for line in printed.splitlines()
        if line.startswith(("random", "pca", "supervised", "contrastive"))
    }
    assert accuracy["pca 2"] < accuracy["pca 8"] < accuracy["pca 32"]
    assert accuracy["supervised 2"] > 0.85
