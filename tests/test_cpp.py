"""The C++ tests of the engine, plain and under sanitizers; no torch and no Python in those programs."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MISSING = [tool for tool in ("cmake", "ninja", "ctest", "c++") if shutil.which(tool) is None]


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: `make test` brings CMake and ninja")
@pytest.mark.parametrize("sanitize", ["", "address,undefined", "thread"], ids=["plain", "address", "thread"])
def test_cpp(tmp_path, sanitize):
    options = (
        "-DGRAMIAN_PYTHON=OFF",
        "-DGRAMIAN_CPP_TESTS=ON",
        "-DGRAMIAN_WERROR=ON",
        f"-DGRAMIAN_SANITIZE={sanitize}",
    )
    if sanitize:
        options += ("-DCMAKE_CXX_FLAGS_RELEASE=-O1",)  # -O3 under sanitizers takes minutes to compile
    run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    # Threads meet in the schedule alone; the other programs have one.
    targets = ["test_schedule"] if sanitize == "thread" else ["test_core_baseline", "test_cuda", "test_schedule"]
    if sanitize != "thread":
        targets += [
            t for t in ("test_core_avx2", "test_core_avx512") if t in run("ninja", "-C", tmp_path, "-t", "targets")
        ]
    run("cmake", "--build", tmp_path, "--target", *targets)
    chosen = "schedule" if sanitize == "thread" else "core|cuda|schedule"
    report = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "-R", chosen)
    assert "100% tests passed" in report
