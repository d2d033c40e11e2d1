"""The benchmark suite's machinery. No timing decides a result: seconds are given, or only looked at in shape.

Worker processes import this module for its `CASES`.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import harness, machine, report
from benchmarks.case import Case, Peer
from benchmarks.worker import OURS, Worker, WorkerError, environment_variables, moved
from gramian import _cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.machine import Limits
    from benchmarks.report import PeerRow, Results, Row


def _sum_of_squares(inputs: list[int]) -> int:
    return sum(number * number for number in inputs)


def _refuse(_: list[int]) -> int:
    message = "numbers must be small\nsecond line"
    raise ValueError(message)


def _absent() -> str:
    message = "No module named 'absent'"
    raise ModuleNotFoundError(message)


def _chatter(inputs: list[int]) -> int:
    os.write(1, b"noise of a peer\n")
    return _sum_of_squares(inputs) + 1


def _case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "op": "toy.squares",
        "name": "n=10",
        "dtype": "float64",
        "setup": lambda seed: list(range(seed, seed + 10)),
        "ours": _sum_of_squares,
        "flops": 20.0,
        "bytes": 80.0,
        "error": lambda result, _: abs(result - 285) / 285,
        "rounds": 4,
    }
    return Case(**{**fields, **changes})


CASES = [
    _case(
        memory=True,
        peers=[
            Peer(name="off by one", version=lambda: "1.2", call="sum(x) | 1", run=_chatter),
            Peer(name="refuses", version=lambda: "3.4", call="f(x)", run=_refuse),
            Peer(name="absent", version=_absent, call="absent.f(x)", run=_sum_of_squares),
            Peer(name="forced", version=lambda: "5", call="f(x)", run=_sum_of_squares, environment="tuned"),
        ],
    ),
    _case(ours=lambda _: os._exit(7)),
    _case(
        ours=lambda _: [os.environ.get(key) for key in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS")],
        error=lambda result, _: float(result != [None, "1"]),
    ),
]
HASTE = harness.Effort(turn_seconds=0.0, limit_seconds=0.01)
LIMIT: Limits = {
    "threads": 1,
    "peak_gflops_f32": 200.0,
    "peak_gflops_f64": 100.0,
    "peak_gflops_bf16": 400.0,
    "memory_gbs": 40.0,
}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One worker for all tests: its import of torch takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_CORETYPE", "Haswell")
        with Worker("user", 1) as started:
            yield started


def _peer_row(**changes: Any) -> PeerRow:
    row: PeerRow = {
        "name": "peer",
        "version": "1.0",
        "call": "peer.f(x)",
        "environment": "user",
        "threads": 1,
        "seconds": 2e-3,
        "iqr": 1e-5,
        "first_call": 0.25,
        "ratio": 2.0,
        "band": [1.9, 2.1],
        "error": 3e-7,
        "memory_mib": None,
        "failure": None,
    }
    return {**row, **changes}  # type: ignore[typeddict-item]


def _row(*peers: PeerRow, **changes: Any) -> Row:
    row: Row = {
        "op": "toy.squares",
        "case": "n=10",
        "dtype": "float32",
        "threads": 1,
        "rounds": 10,
        "seconds": 1e-3,
        "iqr": 1e-5,
        "first_call": 0.5,
        "flops": 1.0,
        "bytes": 1.0,
        "of_peak": 0.5,
        "limit": "flops",
        "error": 1e-7,
        "error_note": None,
        "memory_mib": 12.0,
        "peers": list(peers),
    }
    return {**row, **changes}  # type: ignore[typeddict-item]


def _results(*rows: Row, null_band: tuple[float, float] = (0.99, 1.01)) -> Results:
    null: list[report.Null] = [{"case": "toy.squares n=10 float32", "threads": 1, "band": list(null_band)}]
    facts = machine.facts()
    facts["limits"] = [LIMIT]
    return {"machine": facts, "quick": False, "trusted": report.is_trusted(null), "null": null, "rows": list(rows)}


# Rounds and bands


def test_interleave_turns_the_order_round_and_gives_each_input_both_orders() -> None:
    turns: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], float]:
        def turn(first_input: int) -> float:
            turns.append((name, first_input))
            return float(len(turns))

        return turn

    seconds = harness.interleave([side("ours"), side("a"), side("b")], 4)
    assert [name for name, _ in turns] == ["ours", "a", "b", "b", "a", "ours"] * 2
    assert [first_input for _, first_input in turns] == [0] * 6 + [1] * 6
    assert seconds == [[1.0, 6.0, 7.0, 12.0], [2.0, 5.0, 8.0, 11.0], [3.0, 4.0, 9.0, 10.0]]


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_case_refuses_rounds_that_favour_one_order(rounds: int) -> None:
    with pytest.raises(ValueError, match=f"rounds must be even and at least 2, got {rounds}"):
        _case(rounds=rounds)


def test_compare_takes_the_ratio_of_medians_and_the_extremes_of_rounds() -> None:
    assert harness.compare([1.0, 1.0, 2.0, 1.0], [2.0, 3.0, 2.0, 8.0]) == (2.5, [1.0, 8.0])


def test_interquartile_range_of_a_line() -> None:
    assert harness.interquartile_range([5.0, 1.0, 3.0, 2.0, 4.0]) == 2.0


@pytest.mark.parametrize(
    ("band", "excluded"),
    [
        ((1.004, 1.2), False),
        ((1.006, 1.2), True),
        ((0.8, 0.996), False),
        ((0.8, 0.994), True),
        ((0.9, 1.1), False),
        ((1.0, 1.0), False),
        ((11.0, 250.0), True),
    ],
)
def test_band_is_judged_as_printed(band: tuple[float, float], *, excluded: bool) -> None:
    assert report.excludes_one(band) is excluded
    text = report.render(_results(_row(_peer_row(ratio=1.5, band=list(band)))))
    assert ("**1.50**" in text) is excluded


# Limits


@pytest.mark.parametrize(
    ("changes", "share", "limit"),
    [
        ({"dtype": "float32", "flops": 50e9}, 0.25, "flops"),
        ({"dtype": "float64", "flops": 50e9}, 0.5, "flops"),
        ({"dtype": "bfloat16", "flops": 300e9}, 1.5, "flops"),
        ({"flops": 300e9, "bf16_filter": True}, 0.75, "flops"),
        ({"flops": 1e9, "bytes": 10e9}, 0.25, "bytes"),
        ({"flops": 1e9, "bytes": 2000.0}, 0.01, "flops"),  # fits twice into the cache: memory is no limit
    ],
)
def test_fraction_of_limit(changes: dict[str, Any], share: float, limit: str) -> None:
    measured, binding = machine.fraction_of_limit(_case(**changes), 1.0, LIMIT, 1000)
    assert measured == pytest.approx(share)
    assert binding == limit


def test_over_the_limit_is_a_formula_bug() -> None:
    assert "101% flops: **formula bug**" in report.render(_results(_row(of_peak=1.01)))
    assert "formula bug" not in report.render(_results(_row(of_peak=1.001)))


def test_limits_are_measured() -> None:
    measured = machine.limits(2, seconds=0.01)
    assert measured["threads"] == 2
    assert min(measured["peak_gflops_f32"], measured["peak_gflops_f64"], measured["memory_gbs"]) > 0


# Report


def test_null_that_excludes_one_distrusts_the_run() -> None:
    results = _results(_row(_peer_row()), null_band=(1.01, 1.08))
    assert not results["trusted"]
    for text in (report.render(results), report.render_readme([results])):
        assert (
            "NOT TRUSTED: ours against ours is not 1.00 (toy.squares n=10 float32, 1 thread: 1.01-1.08). Rerun" in text
        )
    assert "null 1.01-1.08. **NOT TRUSTED, rerun**" in report.render(results)
    assert "NOT TRUSTED" not in report.render(_results(_row(_peer_row())))


def test_losing_case_stays_and_is_marked() -> None:
    losing = _peer_row(ratio=0.5, band=[0.4, 0.6])
    undecided = _peer_row(name="even", ratio=0.99, band=[0.9, 1.1])
    lines = report.render(_results(_row(losing, undecided))).splitlines()
    assert any("| **0.50** | 0.40-0.60 | <- we lose |" in line for line in lines)
    assert not any("we lose" in line for line in lines if "even" in line)


def test_summary_is_the_geometric_mean_over_all_cases() -> None:
    rows = [_row(_peer_row(ratio=ratio, band=[ratio, ratio]), case=f"n={ratio}") for ratio in (0.5, 2.0, 8.0)]
    text = report.render_readme(
        [_results(*rows, _row(_peer_row(seconds=None, ratio=None, band=None, failure="absent")))]
    )
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["toy.squares float32, 1 thread", "peer 1.0", "2.00", "**0.50** to **8.00**", "3, 1 lost"]
    cells = [cell.strip() for cell in report.render(_results(*rows)).splitlines()[-1].split("|")[1:-1]]
    assert cells[2:] == ["2.00", "3", "**0.50** (n=0.5) <- we lose", "**8.00** (n=8.0)"]


def test_runs_of_two_machines_stand_in_two_tables() -> None:
    runs = [_results(_row(_peer_row())) for _ in range(3)]
    runs[1]["machine"] = {**runs[1]["machine"], "isa": "another"}
    assert [part.count("\n") for part in report.render_readme(runs).split("\n\n") if part.startswith("|")] == [2, 2]


def test_table_shows_wide_spread_failure_and_missing_error() -> None:
    failed = _peer_row(name="gone", version=None, seconds=None, ratio=None, band=None, failure="ImportError: gone")
    tuned = _peer_row(environment="tuned", call="a | b")
    text = report.render(_results(_row(failed, tuned, iqr=2e-4, error=None, error_note="exact")))
    assert "1.00 ms (IQR 20%)" in text
    assert "not measured" in text
    assert "ImportError: gone" in text
    assert r"peer 1.0 (tuned): `a \| b`" in text
    assert "No error for n=10: exact." in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (0.5, "500 ms"), (1e-3, "1.00 ms"), (4.2e-6, "4.20 us"), (4.2e-8, "0.0420 us")],
)
def test_seconds_are_printed_with_their_unit(seconds: float, text: str) -> None:
    assert f"| {text} " in report.render(_results(_row(seconds=seconds, iqr=0.0)))


def test_results_survive_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = _results(_row(_peer_row()))
    path = tmp_path / "results.json"
    report.save(results, path)
    assert report.load(path) == results
    assert command.main(["report", str(path)]) == 0
    assert capsys.readouterr().out == report.render(results)


def test_readme_table_is_replaced_between_its_markers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    report.save(_results(_row(_peer_row(name="slow"), threads=1), _row(_peer_row(), threads=2)), one)
    report.save(_results(_row(_peer_row(name="rival"))), other)
    readme.write_text(f"before\n{report.README_BEGIN}\nstale line\n{report.README_END}\nafter\n", encoding="utf-8")
    for _ in range(2):  # twice: the markers must survive
        assert command.main(["readme", str(one), str(other), "--readme", str(readme)]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{report.README_BEGIN}\n")
    assert text.endswith(f"\n{report.README_END}\nafter\n")
    assert "stale line" not in text
    assert text.count("peer 1.0") == 1
    assert "rival" in text
    assert "slow" not in text  # only the run's most threads
    assert (tmp_path / "docs" / "images" / "measured.png").read_bytes().startswith(b"\x89PNG")


def test_page_shows_every_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = tmp_path / "toys.json"
    report.save(_results(_row(_peer_row(ratio=0.5, band=[0.4, 0.6]), threads=1)), one)
    for folder in ("a", "b"):
        assert command.main(["page", str(tmp_path / folder), str(one)]) == 0
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "ab")
    assert first == second  # the figures too
    assert set(first) == {"index.md", "toys.md", "ratios.png", "roofline.png"}
    assert re.search(rb"peer 1.0 *\| 0.50 \| \*\*0.50\*\* *\| 1, 1 lost", first["index.md"])
    assert b"<- we lose" in first["toys.md"]


@pytest.mark.parametrize("text", ["", report.README_BEGIN, report.README_END + report.README_BEGIN])
def test_readme_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="readme: text must hold one line"):
        report.replace_between_markers(text, "table")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_family"], "family must be one of .*, got no_such_family"),
        (["--threads", "0"], "separated by commas, got 0"),
        (["--case", "no such case"], "no case has 'no such case'"),
        (["--json", "no/such/folder/x.json"], "existing folder, got no/such/folder/x.json"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error)


# Workers


def test_environment_has_what_a_user_has() -> None:
    base = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "HOME": "h", "OMP_NUM_THREADS": "7"}
    user = environment_variables("user", 2, base)
    assert not {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(user)
    assert user["HOME"] == "h"
    assert {user[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"2"}
    tuned = environment_variables("tuned", 2, base)
    assert tuned["OPENBLAS_CORETYPE"] == "SkylakeX"
    assert "OPENBLAS_L2_SIZE" not in tuned
    assert environment_variables("kept", 2, base)["MALLOC_MMAP_MAX_"] == "0"


def test_worker_answers_and_survives_a_refusal(worker: Worker) -> None:
    worker.ask("open", __name__, 0)
    assert worker.ask("first", OURS)["error"] == 0.0
    first = worker.ask("first", 1)
    assert first["version"] == "1.2"
    assert first["error"] == 1 / 285
    with pytest.raises(WorkerError, match="second line") as refusal:
        worker.ask("first", 2)
    assert refusal.value.reason == "ValueError: numbers must be small"
    assert worker.ask("turn", OURS, 3, 1, warm=True) > 0


def test_worker_runs_in_its_environment(worker: Worker) -> None:
    worker.ask("open", __name__, 2)
    assert worker.ask("first", OURS)["error"] == 0.0


def test_worker_that_dies_is_named() -> None:
    with Worker("user", 1) as doomed:
        doomed.ask("open", __name__, 1)
        with pytest.raises(RuntimeError, match=r"worker \(user, threads=1\) ended with exit code 7 in first"):
            doomed.ask("first", OURS)


def test_measure_makes_a_row_for_every_side(worker: Worker, tmp_path: Path) -> None:
    found = harness.Found(__name__, 0, CASES[0])
    contest = harness.start(found, {"user": worker}, HASTE)
    null = harness.measure_null(contest, 1)
    row = harness.measure(contest, LIMIT, 0, HASTE)
    assert (row["op"], row["case"], row["threads"], row["rounds"]) == ("toy.squares", "n=10", 1, 4)
    assert row["error"] == 0.0
    assert row["memory_mib"] is None or row["memory_mib"] >= 0.0
    off, refuses, absent, forced = row["peers"]
    assert off["error"] == 1 / 285
    assert off["band"] is not None
    assert off["band"][0] <= off["band"][1]
    assert refuses["failure"] == "ValueError: numbers must be small"
    assert absent["failure"] == "ModuleNotFoundError: No module named 'absent'"
    assert forced["failure"] == "this CPU cannot run OpenBLAS's SkylakeX kernels"  # as no tuned worker was given
    results = _results(row)
    results["null"] = [null]
    report.save(results, tmp_path / "results.json")
    assert report.load(tmp_path / "results.json") == results
    assert "off by one 1.2: `sum(x) \\| 1`" in report.render(results)


def test_a_long_case_takes_its_first_call_for_a_turn(worker: Worker) -> None:
    worker.ask("open", __name__, 0)
    side = harness.Side(worker, OURS, HASTE, long=True)
    assert side.turn(0) == side.first["seconds"]
    assert side.turn(0) != side.first["seconds"]
    case = replace(CASES[0], long=True, memory=False, peers=[])
    contest = harness.Contest(harness.Found(__name__, 0, case), {OURS: side}, {})
    assert harness.measure_null(contest, 1)["band"][0] > 0
    assert harness.measure(contest, LIMIT, 0, HASTE)["rounds"] == CASES[0].rounds


def test_a_call_of_many_seconds_is_made_once(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ONCE_SECONDS", 0.0)
    worker.ask("open", __name__, 0)
    side = harness.Side(worker, OURS, HASTE, long=True)
    assert [side.turn(0), side.turn(1)] == [side.first["seconds"]] * 2
    assert not harness.Side(worker, OURS, HASTE).once


def test_inputs_of_any_shape_go_to_the_device():
    meta = torch.device("meta")
    model = torch.nn.Linear(2, 2)
    tensors, count, named, moved_model = moved(([torch.ones(2)], 3, {"x": torch.ones(1)}, model), meta)
    assert tensors[0].device == named["x"].device == moved_model.weight.device == meta
    assert count == 3


@pytest.mark.skipif(_cuda.status == "ready", reason="there is a GPU")
def test_a_run_on_a_gpu_says_why_there_is_none(capsys):
    with pytest.raises(SystemExit):
        command.main(["engine", "--device", "cuda"])
    assert f"--device cuda needs a GPU that gramian can use: {_cuda.status}" in capsys.readouterr().err
