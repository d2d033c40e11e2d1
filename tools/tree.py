"""A copy of the tree, built and tested apart from it: what the mutation drill and the variants work on."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Without the finder of an editable install, so that the copy is what is imported.
RUN = (
    "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in type(f).__name__ and 'editable' not in "
    "type(f).__module__]; sys.path[:0] = ['.', 'python']; "
)


class Copy:
    """A copy of the tree and its build: kernels at -O1, which compile in a third of the time, and options of CMake's."""

    def __init__(self, folder: Path, **changed: str) -> None:
        self.root, self.build = folder / "tree", folder / "build"
        if not self.root.exists():
            tracked = subprocess.run(
                ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.split()
            for name in tracked:
                if (ROOT / name).is_file():
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, self.root / name)
            flags = self.root / "cmake" / "kernels.cmake"
            text = flags.read_text(encoding="utf-8").replace("-O3", "-O1")
            if "avx512f" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):  # then its level need only compile
                text = text.replace("-mprefer-vector-width=512", "-mprefer-vector-width=512 -O0")
            flags.write_text(text, encoding="utf-8")
        import pybind11

        options = {
            "SKBUILD_PROJECT_VERSION": "0",
            "SKBUILD_PROJECT_VERSION_FULL": version("gramian"),
            "GRAMIAN_CUDA": "off",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "CMAKE_CXX_FLAGS_RELEASE": "-O1",
            "CMAKE_CXX_COMPILER_LAUNCHER": shutil.which("ccache")
            or "",  # a fault that is taken out again costs nothing
        } | changed
        set_options = [f"-D{name}={value}" for name, value in options.items()]
        command = ["cmake", "-S", self.root, "-B", self.build, "-G", "Ninja", *set_options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def make(self) -> bool:
        """Build, and put the libraries where the copy imports them; False if that fails."""
        done = subprocess.run(["cmake", "--build", self.build], capture_output=True, text=True, check=False)
        for library in self.build.glob("*.so"):
            shutil.copy2(library, self.root / "python" / "gramian" / library.name)
        if done.returncode:
            print(done.stdout[-1500:])
        return done.returncode == 0

    def passes(self, *arguments: str, seconds: float = 900, **environment: str) -> bool:
        """Whether pytest with these arguments passes on the copy."""
        code = RUN + f"import pytest; sys.exit(pytest.main({list(arguments)!r}))"
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=self.root,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return False
        self.said = done.stdout + done.stderr
        return done.returncode == 0
