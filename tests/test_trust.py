"""docs/trust.md says what tests/results say, and those say that nothing is wrong."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.oracles import OPS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tests" / "results"


def results(name):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_written_from_the_results():
    page = tool("trust").page({name: op.bound for name, op in OPS.items()})
    assert page == (ROOT / "docs" / "trust.md").read_text(encoding="utf-8"), "run `python tools/trust.py`"


def test_every_fault_can_be_planted(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    mutants = tool("mutate").MUTANTS
    assert len(mutants) >= 40
    for name, mutant in mutants.items():
        text = (ROOT / "csrc" / mutant.file).read_text(encoding="utf-8")
        assert mutant.old in text, f"{name}: tools/mutants.txt names text that is gone"
        assert mutant.new != mutant.old, name
        assert any(op.startswith(mutant.ops) for op in OPS), name
        assert all((ROOT / "tests" / f"{test}.py").exists() for test in mutant.tests), name


@pytest.mark.parametrize("name", sorted(results("fuzz")))
def test_fuzzing_left_no_fault_and_no_error_over_its_bound(name):
    found = results("fuzz")[name]
    assert found["fault_count"] == 0, found["faults"]
    assert all(ratio <= 1 for ratio, _ in found["worst"].values())
    assert found["grown_bytes"] < 64 << 20  # over thousands of problems


@pytest.mark.parametrize("table", ["fuzz", "determinism"])
def test_every_op_is_in_the_table(table):
    assert results(table).keys() == OPS.keys(), "run it for what is missing: see docs/adding-an-op.md"


def test_every_planted_fault_was_seen():
    assert {name: r for name, r in results("mutants").items() if r["result"] != "killed"} == {}


@pytest.mark.parametrize("name", sorted(results("determinism")))
def test_bits_repeat(name):
    found = results("determinism")[name]
    assert set(found["levels"].values()) == {1}
    assert found["processes_agree"]
    assert found["between_levels"] <= 2
