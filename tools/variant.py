"""The tests on another build of the library: ``python tools/variant.py {sanitize,wide} [--json FILE] [TEST ...]``.

``sanitize`` has AddressSanitizer and UndefinedBehaviorSanitizer in it. Leaks of the interpreter and of torch are not ours to count;
those of an op show as growth in the fuzzer's results. ``wide`` compiles the avx512 level's vectors of 64 bytes to AVX2: what goes
wrong with 16 lanes, masks of tails and tiles of other sizes goes wrong there on any CPU, all but what only AVX-512's own
instructions do.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tree import Copy

TESTS = [
    f"tests/test_{name}.py"
    for name in (
        "fuzz", "engine", "neighbors", "count_within", "kmeans", "clid", "ntk", "ntk_attention", "attention", "attention_sigma",
        "spectra_grid", "spectra_fused", "spectra_sums", "ensemble", "information", "simplex",
    )
]  # fmt: skip
ALSO = {  # with -s: else what a sanitizer says ends in pytest's own file, and is lost with the process
    "sanitize": ["-s"],
    "wide": [],
}


def compiled(*arguments: str | Path) -> str:
    return subprocess.run(["c++", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def sanitizers(scratch: Path) -> dict[str, str]:
    """The environment in which an interpreter that knows nothing of sanitizers runs what is built with them."""
    throwing_new = scratch / "throwing_new.so"
    compiled("-O1", "-fPIC", "-shared", "-o", throwing_new, Path(__file__).with_name("throwing_new.cpp"))
    runtime = [compiled(f"-print-file-name={name}") for name in ("libasan.so", "libubsan.so")]
    return {
        "LD_PRELOAD": " ".join([str(throwing_new), *runtime]),
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:verify_asan_link_order=0:allocator_may_return_null=1"
        ":max_allocation_size_mb=2048",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=ALSO)
    parser.add_argument("tests", nargs="*", metavar="TEST", help="by default those of the kernels")
    parser.add_argument("--json", type=Path, help="times and results go here")
    parser.add_argument("--folder", type=Path, help="where the copy and its build stay; by default they do not")
    options = parser.parse_args()
    tests = options.tests or TESTS
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        folder, environment = options.folder or Path(scratch), {}
        if options.variant == "sanitize":
            copy, environment = Copy(folder, GRAMIAN_SANITIZE="address,undefined"), sanitizers(Path(scratch))
        else:
            copy = Copy(folder, GRAMIAN_WIDE="ON")
        if not copy.make():
            return 1
        built = time.monotonic() - began
        arguments = ["-q", *ALSO[options.variant], "-p", "no:cacheprovider", "-m", "not slow", *tests]
        passed = copy.passes(*arguments, seconds=3600, **environment)
        print(copy.said[-6000:])
    result = {
        "tests": tests,
        "passed": passed,
        "said": copy.said.strip().splitlines()[-1] if copy.said.strip() else "",
        "build_seconds": round(built),
        "test_seconds": round(time.monotonic() - began - built),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
