"""What goes wrong around an op: no memory, Ctrl-C, other threads, forks, folders and processors that lack something."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from gramian import _C, _cuda
from tests import ops
from tests.fuzz import resident_bytes

ROOT = Path(__file__).resolve().parent.parent
gramian_ops = torch.ops.gramian


def python(code, *, timeout=300, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


# ---- Memory ----

FAILING = """
import ctypes, sys, torch
import gramian
from tests import ops

shim = ctypes.CDLL(None)
shim.fail_allocation.argtypes, shim.allocations_left.restype = [ctypes.c_long], ctypes.c_long
torch.set_num_threads(2)
sites = 0
for name in ops.OPS:
    arguments = ops.OPS[name](torch.float32)
    expected = ops.call(name, ops.OPS[name](torch.float32))
    for n in range(1000):
        given = ops.OPS[name](torch.float32)
        shim.fail_allocation(n)
        try:
            got = ops.call(name, given)
        except MemoryError:
            sites += 1
            continue
        finally:
            left = shim.allocations_left()
            shim.fail_allocation(-1)
        assert left >= 0, f"{name}: allocation {n} failed and nobody said so"
        break
    else:
        raise AssertionError(f"{name}: too many allocations")
    after = ops.call(name, ops.OPS[name](torch.float32))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(after, expected)), name
print(sites)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_memory_that_is_not_to_be_had_is_a_memory_error_at_every_allocation(tmp_path):
    shim = tmp_path / "fail_allocation.so"
    source = ROOT / "tests" / "cpp" / "fail_allocation.cpp"
    subprocess.run(["c++", "-std=c++20", "-O1", "-shared", "-fPIC", source, "-o", shim, "-ldl"], check=True)
    done = python(FAILING, LD_PRELOAD=str(shim))
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100  # of 26 ops, each with its result and scratch


def test_a_result_too_large_for_any_memory_is_a_memory_error():
    with pytest.raises(MemoryError):
        gramian_ops.simplex_sixj_family(torch.zeros(5, 2, dtype=torch.int64), 1 << 60)


# ---- Ctrl-C ----


class Stop(Exception):
    pass


def _long(name):
    """Arguments with which an op takes many seconds."""
    rows = ops.rows
    return {
        "attention_vjp": lambda: [rows(1, 1, 16000, 64, seed=s) for s in range(4)],
        "gram_square_sum": lambda: [rows(120_000, 64), rows(120_000, 64)],
        "information_infonce": lambda: [rows(100_000, 64), rows(100_000, 64), True],
        "neighbors_count_within": lambda: [rows(200_000, 16), torch.full((200_000,), 1.0)],
        "neighbors_kmeans": lambda: [rows(100_000, 64), rows(2000, 64, seed=1), None, 100],
        "neighbors_knn": lambda: [rows(150_000, 32), 10, None, "euclidean", True],
        "ntk_linear_gram": lambda: [rows(20_000, 1, 512), rows(20_000, 1, 1, 512), None, None, False, True, False],
        "simplex_sixj": lambda: [torch.full((6, 200_000), 2000)],
        "spectra_ndft": lambda: [rows(50_000, 64), rows(50_000, 64), rows(50_000, 8)],
    }[name]()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "attention_vjp",
        "gram_square_sum",
        "information_infonce",
        "neighbors_count_within",
        "neighbors_kmeans",
        "neighbors_knn",
        "ntk_linear_gram",
        "simplex_sixj",
        "spectra_ndft",
    ],
)
def test_a_signal_stops_a_long_op(name):
    def stop(*_):
        raise Stop

    before, arguments = signal.signal(signal.SIGUSR1, stop), _long(name)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Stop):
            getattr(gramian_ops, name)(*arguments)
            signal.pause()  # the op was done before the signal came: then it comes here, and the test says nothing
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    small = ops.OPS[name](torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ops.call(name, small), ops.call(name, small), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_an_op_that_is_stopped_leaves_no_memory_behind():
    def stop(*_):
        raise Stop

    before, arguments = signal.signal(signal.SIGUSR1, stop), _long("neighbors_knn")
    resident = []
    try:
        for _ in range(10):
            timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            with pytest.raises(Stop):
                gramian_ops.neighbors_knn(*arguments)
                signal.pause()
            timer.join()
            resident.append(resident_bytes())
    finally:
        signal.signal(signal.SIGUSR1, before)
    result = 150_000 * 10 * (4 + 8)
    # A leak would be eight results. malloc may keep room for two or three between what else the process has.
    assert resident[-1] - resident[1] < 4 * result


def test_ctrl_c_is_a_keyboard_interrupt():
    code = """
import os, signal, threading, time, torch, gramian
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its background jobs to ignore it
x = torch.randn(300_000, 32)
try:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    gramian.neighbors.knn(x, 10)
except KeyboardInterrupt:
    print(len(gramian.neighbors.knn(x[:50], 3).indices))
"""
    assert python(code).stdout == "50\n"


# ---- Threads and processes ----


def test_many_threads_get_what_one_gets():
    def all_ops(_):
        return [t for name in ops.OPS for t in ops.call(name, ops.OPS[name](torch.float32))]

    expected = all_ops(0)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(all_ops, range(16)):
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got, expected, strict=True))


def test_the_number_of_threads_may_change_while_ops_run():
    before = torch.get_num_threads()
    x = ops.rows(700, 40)
    expected = gramian_ops.neighbors_knn(x, 5, None, "euclidean", True)

    def change():
        for threads in (1, 3, 2, 4) * 10:
            torch.set_num_threads(threads)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20):
            got = gramian_ops.neighbors_knn(x, 5, None, "euclidean", True)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    finally:
        changer.join()
        torch.set_num_threads(before)


FORK = """
import os, torch, gramian
torch.set_num_threads({threads})
x = torch.randn(2000, 16)
first = gramian.neighbors.knn(x, 3).indices
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(gramian.neighbors.knn(x, 3).indices, first) else 1)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_after_use_can_use_it(threads):
    assert python(FORK.format(threads=threads), timeout=60).stdout == "0\n"


HASH = """
import hashlib, torch, gramian
from tests import ops
digest = hashlib.sha256()
for name in sorted(ops.OPS):
    for t in ops.call(name, ops.OPS[name](torch.float32)):
        digest.update(t.numpy().tobytes())
print(digest.hexdigest())
"""


def test_results_are_the_same_bits_in_every_process():
    results = {
        python(HASH, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads).stdout for seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(results) == 1
    assert len(results.pop()) == 65


# ---- Surroundings ----


def test_it_works_in_a_folder_that_cannot_be_written():
    code = "import gramian, torch; print(gramian.neighbors.knn(torch.eye(3), 1).indices.shape)"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/proc",
        env={**os.environ, "HOME": "/proc", "TMPDIR": "/proc"},
    )
    assert done.stdout == "torch.Size([3, 1])\n", done.stderr


def test_a_lower_level_is_chosen_by_the_environment():
    code = "import gramian, torch; print(gramian._C.active_isa(), gramian.engine.gram_square_sum(torch.eye(3), torch.eye(3)).item())"
    assert python(code, GRAMIAN_ISA="baseline").stdout == "baseline 3.0\n"


def test_a_broken_cuda_library_costs_only_cuda(tmp_path, monkeypatch):
    (tmp_path / "_ops_cuda.so").write_bytes(b"not a library")
    monkeypatch.setattr(_C, "__file__", str(tmp_path / "_C.so"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("GRAMIAN_NO_CUDA", raising=False)
    assert _cuda.load().startswith("the CUDA library does not load: ")


# ---- Found by fuzzing ----


def test_a_row_that_overflows_its_sum_is_refused():
    out = torch.zeros(2, 1, 2, 1)
    a, g = [torch.zeros(2, 1, 3)], [torch.zeros(2, 1, 1, 3)]
    far = (1 << 63) - 1
    with pytest.raises(ValueError, match=r"^layers_gram_: row and col must place the 2 by 2 samples within out"):
        gramian_ops.ntk_layers_gram_(out, a, g, [], [], [0], [0], True, False, far, far, False)


@pytest.mark.parametrize("name", ops.OPS)
def test_a_mixture_of_tensors_with_and_without_values_is_refused(name):
    arguments = ops.OPS[name](torch.float32)
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor)]
    if len(tensors) < 2:
        pytest.skip("takes one tensor")
    arguments[tensors[-1]] = arguments[tensors[-1]].to("meta")
    with pytest.raises(ValueError, match=f"^{name}: tensors must be on one device, got cpu and meta$"):
        getattr(gramian_ops, name)(*arguments)


@pytest.mark.parametrize("scale", [1e-160, 1e-300])
def test_a_cosine_distance_knows_a_small_row_beside_a_large_one(scale):
    x = torch.tensor([[3.0, 4.0], [-4.0, 3.0]], dtype=torch.float64)
    distances, indices = gramian_ops.neighbors_knn(x * scale, 1, x.flip(0) * 1e3, "cosine")
    assert indices.tolist() == [[1], [0]]
    assert distances.abs().max() < 1e-15


def test_a_refusal_is_one_line_whatever_was_given():
    with pytest.raises(ValueError, match=r"^knn: metric must be [^\n]*, got a b$"):
        gramian_ops.neighbors_knn(torch.zeros(3, 2), 1, None, "a\nb")
