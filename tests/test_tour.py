"""The tour: that it runs, says what it should, and measures rightly."""

import importlib
import re
import subprocess
import sys

import pytest
import torch

from gramian import cli

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
pytest.importorskip("sklearn")

from gramian import tour
from gramian.tour.measure import Measure


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour")
    done = subprocess.run(
        [sys.executable, "-m", "gramian", "tour", "--quick", "--out", str(folder / "figures")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "figures"


def test_every_section_prints_and_draws(printed):
    text, folder = printed
    for number, name in enumerate(tour.SECTIONS, start=1):
        assert re.search(rf"^ {number}  \w", text, re.MULTILINE)
        assert str(folder / f"{name}.png") in text
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_gramian_and_plain_torch_agree(printed):
    # A line of the comparison: work, two times, ratio, two sizes, ratio, difference.
    rows = re.findall(r"(?:MB|GB|unknown).* (\d\.\de[+-]\d\d)$", printed[0], re.MULTILINE)
    assert len(rows) >= 5
    # torch.cdist loses digits where |x|^2 + |y|^2 - 2xy cancels: near 1e-5 of the largest here. A tie in K-means that
    # rounding decides the other way would move a centre by about a row in a cluster: near 1e-2.
    assert max(map(float, rows)) < 1e-2


def test_a_missing_package_is_named_in_one_line(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert cli.main(["tour"]) == 1
    assert capsys.readouterr().err == "gramian tour: needs matplotlib; pip install 'gramian[demo]'\n"


def allocate(megabytes):
    kept = torch.ones(megabytes, 1000, 250)
    (kept + 1).sum()  # a second array as large, given back at once
    return kept[:1, :1, :1].clone()


def fail():
    raise ValueError("on purpose")


def test_measure_sees_the_peak_and_the_result():
    measured = Measure(["gramian"])(allocate, 64)
    assert measured.result.item() == 1
    assert measured.seconds > 0
    assert measured.peak_bytes == pytest.approx(128e6, rel=0.05)  # thread stacks and small change: a few MB


def test_measure_raises_what_the_function_raised():
    with pytest.raises(ValueError, match="on purpose"):
        Measure(["gramian"])(fail)
