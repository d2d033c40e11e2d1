"""Writes docs/trust.md from tests/results: ``python tools/trust.py``. Nothing in that page is typed."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "tests" / "results", ROOT / "docs" / "trust.md"

HEAD = """# Trust

What the tests know of every op: how many inputs it has met, how far a result was from the plain reference, which bits repeat, and
whether the tests would notice a fault. This page is written by `python tools/trust.py` from what the commands below left in
`tests/results`; a test holds it to that.

"""


def _load(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _fuzzing(fuzz: dict) -> str:
    total, faults = sum(r["inputs"] for r in fuzz.values()), sum(r["fault_count"] for r in fuzz.values())
    rows = []
    for name, r in sorted(fuzz.items()):
        counts = r["counts"]
        rows.append(
            [
                f"`{name}`", f"{r['inputs']:,}", f"{r['first_seed']}–{r['next_seed'] - 1}", f"{counts.get('problems', 0):,}",
                f"{counts.get('guises', 0):,}", f"{counts.get('refused', 0):,}", str(r["fault_count"]), f"{r['seconds']:.0f}",
            ]
        )  # fmt: skip
    return (
        "## Fuzzing\n\n"
        f"`make fuzz`: {total:,} inputs, {faults} faults. A seed gives a problem (sizes from 0 up to over a tile, one of them now\n"
        "and then over a task's block, all dtypes, integers that tie, clusters that cancel, scales that overflow, denormals, NaN and\n"
        "infinity, memory that overlaps), which is compared with a reference in the widest float; the same problem in up to 55 guises, no two\n"
        "alike (strides and offsets of each tensor, threads, with and without autograd, subclasses, tensors that need a gradient), which must\n"
        "give the same bits; and corruptions of it (dtypes, shapes, `meta`, sparse and quantised tensors, numbers out of range),\n"
        "which must be answered right or refused in one line. Crashes, hangs and growth of memory count as faults. Each call is one input.\n\n"
        + _table(["op", "inputs", "seeds", "problems", "guises", "refused", "faults", "seconds"], rows)
    )


def _open() -> str:
    """What was found and is not mended yet. The tables leave out the runs that met it."""
    found = _load("open")
    if not found:
        return ""
    rows = [[f"`{r['op']}`", str(r["seed"]), r["what"], r["error"]] for r in found]
    return "## Open\n\nFound, and not mended yet; the tables leave out the runs that met it.\n\n" + _table(
        ["op", "seed", "what", "how"], rows
    )


def _accuracy(fuzz: dict, bounds: dict) -> str:
    rows = []
    for name, r in sorted(fuzz.items()):
        if name not in bounds:
            continue
        worst = {}
        for key, (ratio, _) in r["worst"].items():
            level, dtype = key.split()
            worst.setdefault(dtype, {})[level] = ratio
        for dtype, by_level in sorted(worst.items()):
            cells = [f"{by_level[level]:.3f}" if level in by_level else "" for level in ("baseline", "avx2", "avx512")]
            rows.append([f"`{name}`", dtype, bounds[name].replace("|", "\\|"), *cells])
    return (
        "## Accuracy\n\n"
        "The worst error that fuzzing met, as a share of the bound in the third column: at most 1, or the tests fail. Four of ten\n"
        "tensors are made to go wrong: offsets up to 10⁷ times the spread, so that differences cancel; clusters; norms that range over\n"
        "twenty decades, from tensor to tensor or row to row; features that outweigh the rest, and scores whose softmax is nearly one-hot;\n"
        "simplices a thousandth high or with an edge of 1e-4; spins up to 2j = 400. `eps` is the unit of the dtype in\n"
        "which the op computes (float32 for bfloat16 and float16), `eps64` that of float64, and Σ\\|terms\\| the sum of the magnitudes of\n"
        "all that is added up. Where rounding alone decides (scores whose rounding exceeds a quarter, flat simplices), nothing is compared.\n\n"
        + _table(["op", "dtype of its first tensor", "bound", "baseline", "avx2", "avx512"], rows)
    )


def _determinism(rows_of: dict) -> str:
    if not rows_of:
        return ""
    rows = [
        [
            f"`{name}`",
            "yes" if all(count == 1 for count in r["levels"].values()) else "no",
            "yes" if r["processes_agree"] else "no",
            f"{r['between_levels']:.3f}",
        ]
        for name, r in sorted(rows_of.items())
    ]
    return (
        "## Determinism\n\n"
        "`python -m tests.determinism --json tests/results/determinism.json`: the same bits with 1, 2 and 3 threads and when run again, and\n"
        "in another process; and how far apart the results of two instruction-set levels may be at most, in units of the op's accuracy\n"
        "bound: the sum of their distances to the reference.\n\n"
        + _table(["op", "threads and runs", "processes", "levels, bounds"], rows)
    )


def _drill(mutants: dict) -> str:
    if not mutants:
        return "## Mutation drill\n\nNot run yet: `make drill`.\n"
    killed = sum(r["result"] == "killed" for r in mutants.values())
    lines = (ROOT / "tools" / "mutants.txt").read_text(encoding="utf-8").splitlines()
    planned = sum(line.startswith("  ") for line in lines)
    seen = {name: (r.get("by") or "").removeprefix("tests/") for name, r in mutants.items()}
    by_fuzzer = sum(by.startswith("test_fuzz.py") for by in seen.values())
    rows = [[f"`{name}`", r["result"], f"`{seen[name]}`" if seen[name] else ""] for name, r in sorted(mutants.items())]
    return (
        "## Mutation drill\n\n"
        f"`make drill`: {killed} of {len(mutants)} planted faults make the tests fail, {by_fuzzer} of them the fuzzer's short run"
        f"{'' if len(mutants) == planned else f'; {planned - len(mutants)} were not planted yet'}.\n\n"
        + _table(["fault", "result", "seen by"], rows)
    )


VARIANTS = {
    "sanitize": "all kernels and ops under AddressSanitizer and UndefinedBehaviorSanitizer",
    "wide": "the avx512 level, its vectors of 64 bytes compiled to AVX2 instructions",
}


def _variants() -> str:
    lines = []
    for name, what in VARIANTS.items():
        if result := _load(name):
            lines.append(
                f"- `make {name}`: {what}, {', '.join(result['tests'])}: {'passed' if result['passed'] else 'failed'} "
                f"({result['said'].strip('= ')}); {result['build_seconds']} s to build, {result['test_seconds']} s to run.\n"
            )
        else:
            lines.append(f"- `make {name}`: {what}. Not run yet.\n")
    return "## Other builds\n\nThe engine's C++ tests run under sanitizers in `make test`.\n\n" + "".join(lines)


def page(bounds: dict) -> str:
    """The text of docs/trust.md, given each op's bound in words."""
    fuzz = _load("fuzz")
    parts = [
        _fuzzing(fuzz),
        _open(),
        _accuracy(fuzz, bounds),
        _determinism(_load("determinism")),
        _drill(_load("mutants")),
        _variants(),
    ]
    return HEAD + "\n".join(part for part in parts if part)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.oracles import OPS

    PAGE.write_text(page({name: op.bound for name, op in OPS.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
