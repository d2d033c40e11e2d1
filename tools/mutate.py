"""The mutation drill: ``python tools/mutate.py [--json FILE] [--seconds S] [NAME ...]``.

Small faults are planted one by one in a copy of the tree, which is built anew; the tests must fail on each. First the fuzzer's short run of
the ops that the fault may touch, then the family's tests, up to the first that fails. What FILE knows to be seen is not done again.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tree import Copy


class Mutant(NamedTuple):
    """A text, what takes its place, and which tests should see it."""

    file: str  # below csrc
    old: str
    new: str
    ops: str  # the start of their names
    tests: list[str]


def read(table: Path) -> dict[str, Mutant]:
    mutants, place = {}, []
    for line in table.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            name, _, change = line.strip().partition(": ")
            old, _, new = change.partition(" =>")
            file, ops, tests = place
            mutants[f"{Path(file).stem}.{name}"] = Mutant(file, old, new.removeprefix(" "), ops, tests.split())
        elif not line.startswith("#"):
            place = line.split(" | ")
    return mutants


MUTANTS = read(Path(__file__).with_name("mutants.txt"))


def drill(copy: Copy, mutant: Mutant) -> dict:
    began, path = time.monotonic(), copy.root / "csrc" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) < 1:
        return {"result": "the text is gone"}
    path.write_text(text.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    try:
        if not copy.make():
            return {"result": "does not compile"}
        built = time.monotonic() - began
        files = [f"tests/{name}.py" for name in ("test_fuzz", *mutant.tests)]
        chosen = f"(right_or_refuses and {mutant.ops}) or not test_fuzz"
        survived = copy.passes("-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen, *files)
        seen = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", copy.said, re.MULTILINE)
        killer = None if survived else seen[1] if seen else "a crash"
    finally:
        path.write_text(text, encoding="utf-8")
    seconds = time.monotonic() - began
    return {
        "result": "killed" if killer else "survived",
        "by": killer,
        "build_seconds": round(built),
        "seconds": round(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    parser.add_argument("--json", type=Path, help="results are read from here, and written back after each")
    parser.add_argument("--folder", type=Path, help="where the copy and its build stay; by default they do not")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more after so long")
    options = parser.parse_args()
    known = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Copy(options.folder or Path(scratch))
        if not copy.make() or not copy.passes("-q", "-x", "tests/test_fuzz.py"):
            print("the tree fails as it is")
            return 1
        for name in options.names or MUTANTS:
            if known.get(name, {}).get("result") == "killed" and not options.names:
                continue
            if time.monotonic() - began > options.seconds:
                break
            known[name] = drill(copy, MUTANTS[name])
            print(f"{name:45} {known[name]}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(r["result"] == "killed" for r in known.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
