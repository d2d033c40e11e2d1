"""The command: `python -m benchmarks` measures; `report`, `readme` and `page` turn results files into text and figures."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import harness, machine, page, report
from benchmarks.harness import Found
from benchmarks.worker import TUNED
from gramian import _cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; 1 means that the run is not to be trusted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {"report": _report, "readme": _readme, "page": _page}
    if given and given[0] in commands:
        return commands[given[0]](given[1:])
    return _run(given)


def _run(arguments: list[str]) -> int:
    families = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure gramian against its peers.")
    parser.add_argument("family", nargs="*", help=f"of {', '.join(families)}; all if none is named")
    parser.add_argument("--json", type=Path, metavar="F", help="write the results there, anew after each case")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: for a look, not for a table")
    parser.add_argument("--threads", type=_thread_counts, metavar="N,N", help="default: 1 and all cores")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where inputs live; peers of a CPU then drop out"
    )
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose op, size or dtype has it")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.family) - set(families))
    if unknown:
        parser.error(f"family must be one of {', '.join(families)}, got {', '.join(unknown)}")
    if options.json and not options.json.parent.is_dir():  # found out now, not after the first hour
        parser.error(f"--json must name a file in an existing folder, got {options.json}")
    if options.device == "cuda" and _cuda.status != "ready":
        parser.error(f"--device cuda needs a GPU that gramian can use: {_cuda.status}")
    cases = [
        Found(module, index, case)
        for module in (f"benchmarks.bench_{family}" for family in options.family or families)
        for index, case in enumerate(importlib.import_module(module).CASES)
        if options.case in case.label
    ]
    if not cases:
        parser.error(f"no case has {options.case!r} in its op, size or dtype")
    with _lock():
        threads = options.threads or sorted({1, machine.cores()} if options.device == "cpu" else {machine.cores()})
        results = _measure(cases, threads, options.json, device=options.device, quick=options.quick)
    sys.stdout.write(report.render(results))
    return 0 if results["trusted"] else 1


def _measure(
    cases: list[Found], thread_counts: list[int], path: Path | None, *, device: str, quick: bool
) -> report.Results:
    effort = harness.QUICK if quick else harness.Effort()
    facts = machine.facts()
    facts["tuned"] = f"OPENBLAS_CORETYPE={TUNED}" if machine.has_avx512() else None
    results: report.Results = {"machine": facts, "quick": quick, "trusted": True, "null": [], "rows": []}
    cache_bytes = machine.last_cache_bytes(facts["caches"])
    if device == "cuda":
        facts["gpu"], cache_bytes = machine.gpu(), machine.gpu_cache_bytes()
    environments = {peer.environment for found in cases for peer in found.case.peers}
    for threads in thread_counts:
        with harness.start_workers(threads, device, environments) as workers:
            limit: machine.Limits = workers["user"].ask("limits", effort.limit_seconds)
            facts["limits"].append(limit)
            ops: set[str] = set()
            for found in cases:
                sys.stderr.write(f"{found.case.label} threads={threads}\n")
                contest = harness.start(found, workers, effort)
                if found.case.op not in ops:  # the first case of each op is its null
                    ops.add(found.case.op)
                    results["null"].append(harness.measure_null(contest, threads))
                    results["trusted"] = report.is_trusted(results["null"])
                results["rows"].append(harness.measure(contest, limit, cache_bytes, effort))
                if path:
                    report.save(results, path)
    return results


def _report(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description="Print the tables of a run.")
    parser.add_argument("results", type=Path)
    sys.stdout.write(report.render(report.load(parser.parse_args(arguments).results)))
    return 0


def _readme(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks readme", description="Renew table and figure of the README."
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    options = parser.parse_args(arguments)
    runs = [report.load(path) for path in options.results]
    text = options.readme.read_text(encoding="utf-8")
    text = report.replace_between_markers(text, report.render_readme(runs))
    options.readme.write_text(text, encoding="utf-8")
    figure = options.readme.parent / "docs" / "images" / "measured.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    page.save(page.ratios(report.at_most_threads(runs)), figure)
    return 0


def _page(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks page", description="Write the page of the documentation."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    page.write({path.stem: report.load(path) for path in options.results}, options.folder)
    return 0


def _thread_counts(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        message = f"must be numbers from 1 on, separated by commas, got {text}"
        raise argparse.ArgumentTypeError(message)
    return [int(count) for count in text.split(",")]


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold the machine's one lock for timing: two runs at once would measure each other."""
    with (Path(tempfile.gettempdir()) / "gramian-benchmarks.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("waiting for another benchmark run on this machine\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
