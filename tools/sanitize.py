"""The ops under AddressSanitizer and UndefinedBehaviorSanitizer: ``python tools/sanitize.py [--json FILE] [TEST ...]``.

Builds a copy of the library with both, and runs the tests on it, by default the fuzzer's short run and the engine's. Leaks of the
interpreter and of torch are not ours to count; those of an op show as growth in the fuzzer's results.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tree import Copy

TESTS = ["tests/test_fuzz.py", "tests/test_engine.py"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", metavar="TEST", default=TESTS)
    parser.add_argument("--json", type=Path, help="times and results go here")
    parser.add_argument("--folder", type=Path, help="where the copy and its build stay; by default they do not")
    options = parser.parse_args()
    runtime = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    with tempfile.TemporaryDirectory() as scratch:
        throwing_new = Path(scratch) / "throwing_new.so"
        source = Path(__file__).with_name("throwing_new.cpp")
        subprocess.run(["c++", "-O1", "-fPIC", "-shared", "-o", throwing_new, source], check=True)
        began = time.monotonic()
        copy = Copy(options.folder or Path(scratch), sanitize="address,undefined")
        if not copy.make():
            return 1
        built = time.monotonic() - began
        passed = copy.passes(
            "-q",
            "-s",  # else what a sanitizer says ends in pytest's own file, and is lost with the process
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            *options.tests,
            seconds=3600,
            LD_PRELOAD=" ".join([str(throwing_new), *runtime]),
            ASAN_OPTIONS="detect_leaks=0:alloc_dealloc_mismatch=0:verify_asan_link_order=0:allocator_may_return_null=1"
            ":max_allocation_size_mb=2048",
            UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
        )
        print(copy.said[-6000:])
    result = {
        "tests": options.tests,
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
