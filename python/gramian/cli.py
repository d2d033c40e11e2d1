"""The `gramian` command: what the ops run on, a tour on real data, a report on a model, the benchmark suite."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gramian
from gramian import _C, _cuda

if TYPE_CHECKING:
    from collections.abc import Sequence


def info() -> dict[str, Any]:
    """Gather what a report of a fault or of a measurement should say: build, processor, torch, CUDA."""
    build = _C.build_info()
    return {
        "gramian": gramian.__version__,
        "compiler": build["compiler"],
        "built with torch": build["built_with_torch"],
        "kernels": {
            "run on": _C.active_isa(),
            "best here": _C.best_isa(),
            "GRAMIAN_ISA": os.environ.get("GRAMIAN_ISA"),
        },
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": sys.version.split()[0],
        "cuda": {"kernels": build["cuda"], "why": _cuda.status, "torch": torch.version.cuda},
        "installed in": str(Path(_C.__file__).parent),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else os.uname().machine}, {len(os.sched_getaffinity(0))} threads"


def _info(options: argparse.Namespace) -> int:
    facts = info()
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    kernels, cuda = facts["kernels"], facts["cuda"]
    lowered = f"lowered from {kernels['best here']} by GRAMIAN_ISA" if kernels["GRAMIAN_ISA"] else "the best here"
    facts["kernels"] = f"{kernels['run on']} ({lowered})"
    facts["cuda"] = f"{'yes' if cuda['why'] == 'ready' else 'no'} ({cuda['why']})"
    for name, value in facts.items():
        print(f"{name:<18}{value}")
    return 0


def _tour(options: argparse.Namespace) -> int:
    missing = [name for name in ("sklearn", "matplotlib", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"gramian tour: needs {', '.join(missing)}; pip install 'gramian[demo]'", file=sys.stderr)
        return 1
    from gramian.tour import run

    run(options.out, quick=options.quick)
    return 0


def _report(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        print("gramian report: needs matplotlib; pip install 'gramian[plot]'", file=sys.stderr)
        return 1
    try:
        written = gramian.report(
            options.model,
            options.data,
            options.out,
            samples=options.samples,
            seed=options.seed,
            progress=not options.quiet,
        )
    except ValueError as refusal:
        print(f"gramian {refusal}", file=sys.stderr)
        return 1
    print(f"{written.page}\n{written.numbers_file}")
    return 0


def _bench(arguments: Sequence[str]) -> int:
    # The suite is part of a checkout, not of the installed package; an editable install knows its checkout.
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "benchmarks" / "__main__.py").is_file() and (folder / "csrc").is_dir():
            sys.path.insert(0, str(folder))
            sys.argv = ["python -m benchmarks", *arguments]
            runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
            return 0
    print("gramian bench: the benchmark suite is not installed; run this in a clone of gramian", file=sys.stderr)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["bench"]:  # its options are the suite's
        return _bench(given[1:])
    parser = argparse.ArgumentParser(prog="gramian", description=gramian.__doc__)
    parser.add_argument("--version", action="version", version=f"gramian {gramian.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("info", help="what the ops run on")
    command.add_argument("--json", action="store_true", help="the same as JSON")
    command.set_defaults(run=_info)
    command = commands.add_parser("tour", help="measure a network that learns handwritten digits, beside plain PyTorch")
    command.add_argument("--out", type=Path, default=Path("tour-figures"), help="folder of the figures (%(default)s)")
    command.add_argument("--quick", action="store_true", help="fewer epochs and images: for a look only")
    command.set_defaults(run=_tour)
    command = commands.add_parser(
        "report",
        help="measure a model on data: one page of figures, and all numbers as JSON",
        description="Measures a model on data and writes one page, and all numbers as JSON beside it: tangent kernel, layers, "
        "attention, frequencies. A section that does not apply says why.",
    )
    command.add_argument(
        "model", help="package.module:factory, or a TorchScript or exported (.pt2) file; it is run, so trust it"
    )
    command.add_argument("data", help="a .pt, .npy or .npz file: samples, or entries x and y")
    command.add_argument("--out", default="gramian-report.html", help="the page (%(default)s); the JSON goes beside it")
    command.add_argument("--samples", type=int, default=512, help="how many of the first samples to use (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of clusters and segments (%(default)s)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_report)
    commands.add_parser("bench", help="measure against the peers: `gramian bench --help`", add_help=False)
    options = parser.parse_args(given)
    try:
        _C.active_isa()  # reads GRAMIAN_ISA
    except ValueError as refusal:
        print(f"gramian: {refusal}", file=sys.stderr)
        return 1
    status: int = options.run(options)
    return status
