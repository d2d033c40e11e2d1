"""The bits of every op's results over threads, runs, processes and levels: ``python -m tests.determinism --json FILE [OP ...]``."""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from gramian import _C
from tests.fuzz import LEVELS, _flat, call
from tests.oracles import OPS, Draw

SEEDS = range(3 << 20, (3 << 20) + 20)
THREADS = (1, 2, 3)


def given(op, seed):
    draw = Draw(seed, tame=True)
    return op.draw(draw)


def results(op):
    """What an op gives of every seed."""
    return [_flat(call(op, given(op, seed))) for seed in SEEDS]


def digest(found):
    hashed = hashlib.sha256()
    for tensors in found:
        for t in tensors:
            hashed.update(t.numpy().tobytes())
    return hashed.hexdigest()


def digests(names):
    return {name: digest(results(OPS[name])) for name in names}


def share(op, found):
    """The largest error, as a share of the op's accuracy bound."""
    return max(op.ratio(given(op, seed), result) for seed, result in zip(SEEDS, found, strict=True))


def measure(names):
    np.seterr(all="ignore")
    levels, before = LEVELS[: LEVELS.index(_C.best_isa()) + 1], _C.active_isa()
    other = subprocess.run(
        [sys.executable, "-m", "tests.determinism", *names], capture_output=True, text=True, check=True
    ).stdout
    table, elsewhere = {}, json.loads(other)
    for name in names:
        op = OPS[name]
        row, errors = {"levels": {}}, []
        for level in levels:
            _C.set_isa(level)
            seen = set()
            for threads in (*THREADS, 1):
                torch.set_num_threads(threads)
                found = results(op)
                seen.add(digest(found))
            row["levels"][level] = len(seen)
            errors.append(share(op, found))
        row["processes_agree"] = digest(found) == elsewhere[name]  # of the best level
        row["between_levels"] = sum(sorted(errors)[-2:])  # each level is that near the same reference
        table[name] = row
    _C.set_isa(before)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help="names of ops; all by default")
    parser.add_argument(
        "--json",
        type=Path,
        help="results are read from here and written back; without it, the digests of this process are printed",
    )
    options = parser.parse_args()
    names = options.ops or list(OPS)
    if options.json is None:
        torch.set_num_threads(2)
        print(json.dumps(digests(names)))
        return
    known = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    options.json.write_text(json.dumps(known | measure(names), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
