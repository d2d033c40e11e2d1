"""What `make` says to somebody who lacks something, before it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PREFLIGHT = [sys.executable, str(ROOT / "tools" / "preflight.py")]


def run(command, **environment):
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


def test_preflight_passes_where_gramian_was_built():
    done = run(PREFLIGHT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("compiler", "line"),
    [
        ("no-such-compiler", "there is no no-such-compiler: install g++ 12 or newer, or name one with CXX="),
        ("false", "gramian needs g++ 12 or newer, false is another or older: install one, or name it with CXX="),
    ],
)
def test_preflight_says_in_one_line_which_compiler_to_install(compiler, line):
    done = run(PREFLIGHT, CXX=compiler)
    assert done.returncode == 1
    assert done.stderr.endswith(f"{line}\n")
    assert done.stderr.count("\n") == 1


def test_make_names_the_python_that_is_missing(tmp_path):
    done = run(["make", "tour", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}"])
    assert done.returncode != 0
    assert "gramian needs Python 3.10 or newer: install python3, or name one with PYTHON=" in done.stderr


def test_make_without_a_goal_lists_the_goals():
    done = run(["make"])
    assert done.returncode == 0
    for goal in ("tour", "test", "lint", "docs", "wheel", "wheel-test", "bench", "clean"):
        assert f"make {goal} " in done.stdout
