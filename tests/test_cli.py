"""The `gramian` command, as a user runs it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from gramian import _C, cli


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gramian", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_info_names_what_the_ops_run_on(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["gramian"] == _C.build_info()["version"]
    assert lines["kernels"].split()[0] == _C.active_isa()
    assert lines["torch"] == torch.__version__
    assert lines["threads"] == str(torch.get_num_threads())


def test_info_json_holds_the_same_facts(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kernels"]["run on"] == _C.active_isa()
    assert facts["cuda"]["kernels"] == _C.build_info()["cuda"]
    assert facts["cuda"]["why"]


def test_info_says_that_the_level_was_lowered():
    done = run("info", GRAMIAN_ISA="baseline")
    assert f"baseline (lowered from {_C.best_isa()} by GRAMIAN_ISA)" in done.stdout


def test_an_unknown_level_is_refused_in_one_line():
    done = run("info", GRAMIAN_ISA="avx1024")
    assert done.returncode == 1
    assert done.stderr == "gramian: GRAMIAN_ISA must be baseline, avx2 or avx512, got avx1024\n"


def test_bench_outside_a_checkout_says_where_the_suite_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "lib" / "site-packages" / "gramian" / "cli.py"))
    assert cli.main(["bench"]) == 1
    assert "run this in a clone of gramian" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["infos"]])
def test_a_wrong_command_exits_with_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: gramian" in capsys.readouterr().err
