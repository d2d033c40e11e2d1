"""What was built: nothing of one instruction set, of this machine or of one torch in it that should not be."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gramian
from gramian import _C

ROOT = Path(__file__).parent.parent
LIBRARIES = {"_C": Path(_C.__file__), "_ops_cpu": Path(_C.__file__).parent / "_ops_cpu.so"}
needs_binutils = pytest.mark.skipif(not shutil.which("readelf") or not shutil.which("nm"), reason="no binutils")
needs_elf = pytest.mark.skipif(sys.platform != "linux", reason="not an ELF platform")


def output(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def symbols(path, *options):
    """(letter, name) of each symbol."""
    return [
        tuple(line.split()[-2:]) for line in output("nm", *options, str(path)).splitlines() if len(line.split()) > 1
    ]


@pytest.fixture(scope="module")
def kernel_objects(tmp_path_factory):
    """The objects of the kernels, by instruction set: of the last build here, or of one that is made for the test."""
    folders = [folder for folder in ROOT.glob("build/*/CMakeFiles/kernels_*.dir") if list(folder.rglob("*.o"))]
    if not folders:
        if not shutil.which("cmake") or not shutil.which("ninja"):
            pytest.skip("no build folder, and no cmake and ninja to make one")
        build = tmp_path_factory.mktemp("build")
        output("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DGRAMIAN_PYTHON=OFF")
        targets = [
            line.split(":")[0] for line in output("ninja", "-C", str(build), "-t", "targets", "all").splitlines()
        ]
        output("ninja", "-C", str(build), *[t for t in targets if t.endswith("_kernel.cpp.o")])
        folders = list(build.glob("CMakeFiles/kernels_*.dir"))
    sources = {path.name for path in (ROOT / "csrc").rglob("*_kernel.cpp")}  # a build folder may hold what was deleted
    return [o for folder in folders for o in folder.rglob("*.o") if o.name.removesuffix(".o") in sources]


@needs_elf
@needs_binutils
def test_kernels_share_no_symbol_between_instruction_sets(kernel_objects):
    assert len(kernel_objects) >= 3
    for path in kernel_objects:
        weak = [name for letter, name in symbols(path) if letter in "WVuvw"]
        assert weak == [], f"{path.name}: the linker may keep one level's copy for all"
        isa = re.search(r"kernels_(\w+)\.dir", str(path))[1]
        exported = output("nm", "-gC", "--defined-only", str(path)).splitlines()
        assert exported
        assert all(f"gramian::{isa}::" in name for name in exported)


@needs_elf
@needs_binutils
@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_holds_no_path_of_the_machine_that_built_it(name):
    content = LIBRARIES[name].read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent, Path.home()):
        if len(folder.parts) > 2 or folder == ROOT:
            assert f"{folder}/".encode() not in content


@needs_elf
@needs_binutils
@pytest.mark.parametrize(
    ("name", "needed", "runpath"),
    [("_ops_cpu", "libtorch_cpu.so", "$ORIGIN/../torch/lib"), ("_C", "_ops_cpu.so", "$ORIGIN")],
)
def test_a_library_finds_the_next_one_beside_it(name, needed, runpath):
    dynamic = output("readelf", "--dynamic", "--wide", str(LIBRARIES[name]))
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed in libraries
    system = r"lib(c|m|stdc\+\+|gcc_s|pthread)\.so.*|ld-linux.*"
    assert [library for library in libraries if library != needed and not re.fullmatch(system, library)] == []
    assert re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic) == [runpath]


@needs_elf
@needs_binutils
def test_the_ops_need_only_the_stable_interface_of_torch():
    undefined = [name.split("@")[0] for _, name in symbols(LIBRARIES["_ops_cpu"], "-D", "--undefined-only")]
    assert any(name.startswith("aoti_torch_") for name in undefined)
    demangled = subprocess.run(
        ["c++filt"], input="\n".join(undefined), capture_output=True, text=True, check=True
    ).stdout
    cpp = [
        name
        for name in demangled.splitlines()
        if re.match(r"(at|c10|torch|caffe2)::|(vtable|typeinfo) for (at|c10|torch)", name)
    ]
    assert cpp == []
    assert [name for name in undefined if name.startswith(("Py", "_Py"))] == []
    assert [name for name in undefined if name.startswith(("GOMP_", "omp_"))] == []  # torch's threads, no second pool
    assert "__extendhfsf2" not in undefined  # or the wheel would need GCC 12's library where it is installed


def imported(**environment):
    return subprocess.run(
        [sys.executable, "-c", "from gramian import _C; print(_C.active_isa())"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


LEVELS = ["baseline", "avx2", "avx512"]


def test_the_environment_lowers_the_level():
    assert imported(GRAMIAN_ISA="baseline").stdout.strip() == "baseline"
    assert imported(GRAMIAN_ISA="").stdout.strip() == _C.best_isa()


@pytest.mark.parametrize("wanted", ["sse9", *LEVELS[LEVELS.index(_C.best_isa()) + 1 :]])
def test_a_level_that_is_not_there_is_refused_by_name(wanted):
    done = imported(GRAMIAN_ISA=wanted)
    assert done.returncode == 1
    expected = f"at most {_C.best_isa()} on this CPU" if wanted in LEVELS else "baseline, avx2 or avx512"
    assert done.stderr.splitlines()[-1] == f"ValueError: GRAMIAN_ISA must be {expected}, got {wanted}"


@pytest.mark.parametrize("wanted", ["sse9", *LEVELS[LEVELS.index(_C.best_isa()) + 1 :]])
def test_set_isa_refuses_what_is_not_there(wanted):
    before = _C.active_isa()
    with pytest.raises(ValueError, match=f"got {wanted}$"):
        _C.set_isa(wanted)
    assert _C.active_isa() == before


def test_the_build_says_what_it_is():
    info = _C.build_info()
    assert info["version"] == gramian.__version__ == importlib.metadata.version("gramian")
    assert info["compiler"]
    assert info["oldest_torch"] == "2.10"
