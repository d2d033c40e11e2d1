"""Says in one line what is missing before a build starts; for any Python from 3.6 on, so that an old one hears it too."""

import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import sysconfig

# What the kernels ask of a compiler beyond C++20: GCC's shuffles and half floats; the levels by name on x86-64.
PROBE = """
#include <version>
typedef float vec __attribute__((vector_size(16)));
typedef int ints __attribute__((vector_size(16)));
vec swap(vec v) { return __builtin_shuffle(v, ints{1, 0, 3, 2}); }
#if defined(__x86_64__)
_Float16 half = 1;
int level() { return __builtin_cpu_supports("x86-64-v4"); }
#endif
"""


def missing():
    """Return the line that says what to install, or None."""
    if sys.platform != "linux":
        return f"gramian builds on Linux, this is {platform.system()}"
    if sys.version_info < (3, 10):
        found = f"{sys.executable} is {platform.python_version()}"
        return f"gramian needs Python 3.10 or newer, {found}: install one and name it with PYTHON="
    if importlib.util.find_spec("ensurepip") is None:
        return f"{sys.executable} cannot make virtual environments: install python3-venv"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return f"{sys.executable} has no C headers: install python3-dev"
    return compiler_missing() or torch_too_old()


def compiler_missing():
    """Try the C++ compiler on what gramian's sources use."""
    compiler = os.environ.get("CXX") or "c++"
    command = [*shlex.split(compiler), "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    try:
        works = subprocess.run(command, input=PROBE.encode(), stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return f"gramian needs a C++20 compiler, there is no {compiler}: install g++ 12 or newer, or name one with CXX="
    if works:
        return None
    return f"gramian needs g++ 12 or newer, {compiler} is another or older: install one, or name it with CXX="


def torch_too_old():
    """Look at the version of the torch that this Python has, if it has one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("torch")
    except PackageNotFoundError:
        return None
    if tuple(int(part) for part in found.split("+")[0].split(".")[:2]) >= (2, 10):
        return None
    return f"gramian needs torch 2.10 or newer, {sys.prefix} has {found}: {sys.executable} -m pip install -U torch"


if __name__ == "__main__":
    sys.exit(missing())
