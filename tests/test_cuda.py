"""The CUDA engine and library; the ops of a family are in test_cuda_<family>.py. On a GPU where there is one; everywhere
else on the host, where the same source runs as fibers.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gramian import _C, _cuda, ensemble, spectra
from gramian.attention import _search
from tests.checks import LAYOUTS, refuses, wide
from tests.cuda import DTYPES, MISSING, ROOT, build, rows
from tests.ops import OPS
from tests.reference import engine as reference


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_gram_square_sum_equals_the_reference(call, dtype):
    # A tile is 128 (float64: 64) rows and columns, a slab 16 features, a group of tiles 8 rows of them.
    for n, m, d in [(1, 1, 1), (63, 65, 15), (64, 64, 16), (127, 129, 17), (128, 128, 48), (600, 70, 5), (1030, 3, 33)]:
        x, y = rows(n, d, dtype=dtype), rows(m, d, seed=1, dtype=dtype)
        got = call("gram_square_sum", x, y)
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        bound = (d + 2) * torch.finfo(got.dtype).eps * reference.gram_square_sum(x.abs(), y.abs())
        assert abs(wide(got) - reference.gram_square_sum(x, y)) <= bound, (n, m, d)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gram_square_sum_reads_any_layout(call, dtype, layout):
    x, y = LAYOUTS[layout](rows(37, 21, dtype=dtype)), rows(41, 21, seed=1, dtype=dtype)
    assert torch.equal(call("gram_square_sum", x, y), call("gram_square_sum", x.clone(), y))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)])
def test_gram_square_sum_of_nothing_is_zero(call, shape):
    n, m, d = shape
    assert call("gram_square_sum", torch.ones(n, d), torch.ones(m, d)) == 0


@pytest.mark.slow
def test_gram_square_sum_reads_every_half_and_propagates_what_is_not_finite(call):
    every = torch.arange(2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = every[every.isfinite()].view(64, -1)
    got = call("gram_square_sum", torch.ones(1, finite.shape[1], dtype=torch.float16), finite)
    expected = finite.double().sum(1).square().sum()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)  # rows are added up in float32
    for bad in (torch.nan, torch.inf):
        for dtype in DTYPES:
            x = torch.ones(40, 5, dtype=dtype)
            x[33, 2] = bad
            assert not call("gram_square_sum", x, torch.ones(3, 5, dtype=dtype)).isfinite()


@pytest.mark.slow
def test_float32_is_rounded_to_tf32_where_torch_allows_it(emulated):
    x = torch.tensor([[1 + 2.0**-12, 2.0**-30], [torch.inf, 1.0]])[:1]
    g = torch.ones(1, 1, 1, 1)
    allowed = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)
    try:
        emulated.library.gramian_ask_tf32(allowed)
        assert emulated("gram_square_sum", x, x) == 1  # the tie goes to the even one
        assert emulated("gram_square_sum", x + 2.0**-11, x) == (1 + 2.0**-10) ** 2
        assert emulated("ntk_linear_gram", x[None], g, None, None, False, False, False).item() == 1
    finally:
        emulated.library.gramian_ask_tf32(None)
    assert emulated("gram_square_sum", x, x) > 1


@pytest.mark.slow
def test_a_cuda_op_refuses_what_the_cpu_op_refuses(call):
    x = torch.zeros(4, 3)
    with refuses("gram_square_sum: y must have d = 3 columns like x, got 2"):
        call("gram_square_sum", x, x[:, :2])


@pytest.mark.slow
def test_what_there_is_no_memory_for_is_an_error_with_its_size_before_any_work(emulated):
    x = torch.zeros(1, 1, dtype=torch.bfloat16)  # expanded: it takes no memory here
    with pytest.raises(
        MemoryError,
        match=r"^gram_square_sum: the kernels take 68719476744 MiB beside arguments and results, and of the device's "
        r"\d+ MiB \d+ are free$",
    ):
        emulated("gram_square_sum", x.expand(2**40, 2**14), x.expand(1, 2**14))
    q = torch.zeros(1, 1, 1, 1).expand(1, 1, 2**40, 1)
    v = torch.zeros(1, 1, 1, 2**15)
    with pytest.raises(MemoryError, match=r"^gramian: no memory for a result of 137438953472 MiB$"):
        emulated("attention_jvp", q, v[..., :1], v, q, v[..., :1], v)


def _elsewhere(arguments):
    """``arguments`` with one tensor after the other on another device."""
    for at, value in enumerate(arguments):
        if isinstance(value, torch.Tensor):
            yield [*arguments[:at], value.to("meta"), *arguments[at + 1 :]]
        elif isinstance(value, list):
            for changed in _elsewhere(value):
                yield [*arguments[:at], changed, *arguments[at + 1 :]]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_tensors_of_several_devices_are_refused_before_one_is_made_current(emulated, name):
    if not torch._C._dispatch_has_kernel(f"gramian_emulated::{name}"):
        return  # an op of the CPU alone
    op = getattr(torch.ops.gramian_emulated, name).default
    given = OPS[name](torch.float32)
    if sum(isinstance(t, torch.Tensor) for value in given for t in (value if isinstance(value, list) else [value])) < 2:
        return
    for arguments in _elsewhere(given):
        with pytest.raises(ValueError, match=r" must be on the device of |: indices must be on the device of "):
            op._op_dk(torch._C.DispatchKey.CPU, *arguments)


# ---- CUDA graphs ----

# The number of rounds, the size of a result or a table that the host makes depends on what is in the arguments.
WAITING = {
    "neighbors_kmeans",
    "neighbors_kmeans_plus_plus",
    "simplex_sixj",
    "simplex_sixj_blocks",
    "simplex_sixj_family",
    "simplex_sixj_table",
    "simplex_threej",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_an_op_can_be_captured_in_a_graph_or_says_that_it_cannot(call, name):
    if not torch._C._dispatch_has_kernel(f"gramian_emulated::{name}"):
        return  # an op of the CPU alone
    arguments = OPS[name](torch.float32)
    if name in WAITING:
        with pytest.raises(RuntimeError, match="gramian: this op waits for the device, so a CUDA graph cannot capture"):
            call.captured(name, *arguments)
        return
    again = OPS[name](torch.float32)
    got, expected = call.captured(name, *arguments), call(name, *again)
    torch.testing.assert_close([got, arguments], [expected, again], rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_what_a_graph_cannot_refuse_shows_in_its_results(call):
    x = rows(140, 3)
    bad = x.index_fill(0, torch.tensor([130]), torch.nan)
    reach, lost = torch.ones(140), torch.full((140,), torch.nan)
    searches = [("knn", bad, 2), ("knn", x, 2, bad), ("assign", bad, x[:2]), ("assign", x, bad), ("knn_pass", bad, 2)]
    searches += [("knn_both", x, x[:3], 1, "euclidean", lost, None), ("knn_both", x, x, 1, "ip", reach, lost)]
    for name, *arguments in searches:
        for t in call.captured(f"neighbors_{name}", *arguments):
            assert (t == -1).all() if t.dtype == torch.int64 else t.isnan().all()
    for arguments in [(bad, reach), (x, reach, bad), (x, lost)]:
        assert (call.captured("neighbors_count_within", *arguments) == -1).all()
    for shell in (5, -1):
        modes = rows(2, 4, 3, 2), None, torch.full((3, 3), shell, dtype=torch.int32), 5, 1
        assert call.captured("spectra_shells", *modes).isnan().all()


# ---- The Python layers, which must leave tensors on their device: here meta, which nothing can be read from ----


@pytest.mark.parametrize(("method", "top"), [("lanczos", 1), ("lanczos", 2), ("power", 1)])
def test_singular_values_are_sought_on_the_device_and_looked_at_every_eighth_step(monkeypatch, method, top):
    looked = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: torch.zeros(t.shape, dtype=t.dtype))
    monkeypatch.setattr(
        _search._Search, "update", lambda _, step, *found: looked.append((step, {t.device.type for t in found}))
    )
    j = torch.empty(2, 16, 12, device="meta")
    search, right = _search.solve(
        "sigma",
        lambda v: (j.mT @ (j @ v[..., None]))[..., 0],
        torch.empty(2, 12, device="meta"),
        halves=(lambda v: (j @ v[..., None])[..., 0], lambda u: (j.mT @ u[..., None])[..., 0]),
        method=method,
        top=top,
        tol=0.0,
        max_iter=10,
    )
    assert looked == [(8, {"cpu"}), (10, {"cpu"})]
    assert {t.device.type for t in _search.result(search, None, right, j, (2,), 12) if t is not None} == {"meta"}


def test_radial_spectra_and_ensembles_stay_on_the_device():
    field = torch.empty(3, 32, 48, device="meta")
    for x in (field, field[:, :31], field[..., 0]):
        for window in (None, "hann"):
            dim = (-2, -1) if x.dim() == 3 else -1
            found = spectra.radial_spectrum(x, dim, window=window)
            assert {t.device.type for t in found if isinstance(t, torch.Tensor)} == {"meta"}
    for loss in ("squared", "probability", "cross_entropy"):
        parts = ensemble.BiasVariance(field[0], loss=loss)
        parts.update(field.new_empty(4, 32, 48), 0)
        parts.close(0)
        assert {t.device.type for t in parts._folded.values()} == {"meta"}


# ---- The library ----


@pytest.fixture(scope="module")
def cuda_build(tmp_path_factory):
    if MISSING or shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, cmake and ninja")
    return build(
        tmp_path_factory.mktemp("cuda"),
        "_ops_cuda",
        "-DGRAMIAN_CUDA=on",
        "-DCMAKE_CUDA_FLAGS=-Xptxas=-v",
    )


@pytest.mark.slow
def test_no_kernel_spills_registers(cuda_build):
    targets = {"80", "90", "100"}
    kernels = re.findall(
        r"Compiling entry function '(\S+)' for 'sm_(\d+)'\n.*\n\s*(\d+) bytes stack frame, (\d+) bytes spill",
        cuda_build[1],
    )
    for source in ROOT.glob("csrc/*/*.cu"):  # every kernel was compiled, for every architecture
        for kernel in re.findall(r"__global__ void[^{;]*?(\w+_kernel)\(", source.read_text(encoding="utf-8")):
            assert {target for name, target, *_ in kernels if kernel in name} == targets, kernel
    assert [entry for entry in kernels if entry[2:] != ("0", "0")] == []


@pytest.mark.slow
def test_the_cuda_library_needs_only_the_stable_interface_of_torch(cuda_build):
    names = subprocess.run(
        ["nm", "-D", "--undefined-only", cuda_build[0]], capture_output=True, text=True, check=True
    ).stdout
    undefined = [line.split()[-1].split("@")[0] for line in names.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in undefined)
    demangled = subprocess.run(
        ["c++filt"], input="\n".join(undefined), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    # No C++ of torch, no CUDA library (the runtime is linked in), no Python.
    foreign = r"(at|c10|torch|caffe2|gramian)::|(vtable|typeinfo) for (at|c10|torch)|cu[A-Z]|_?Py"
    assert [name for name in demangled if re.match(foreign, name)] == []
    needed = subprocess.run(["readelf", "-d", cuda_build[0]], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", needed)
    assert "libtorch_cpu.so" in libraries
    assert [
        n
        for n in libraries
        if n != "libtorch_cpu.so" and not re.match(r"lib(c|m|stdc\+\+|gcc_s|dl|rt|pthread)\.so|ld-linux", n)
    ] == []
    content = cuda_build[0].read_bytes()
    for folder in (ROOT, Path(torch.__file__).parent):
        assert f"{folder}/".encode() not in content


@pytest.mark.slow
def test_the_cuda_library_loads_without_a_gpu_and_registers_every_op(cuda_build, emulated):
    code = (
        f"import torch, gramian; torch.ops.load_library({str(cuda_build[0])!r}); import sys; "
        "print(*[torch._C._dispatch_has_kernel_for_dispatch_key('gramian::' + n, 'CUDA') for n in sys.argv[1:]])"
    )
    names = [
        n.removeprefix("gramian_emulated::") for n in torch._C._dispatch_get_all_op_names() if "gramian_emulated" in n
    ]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert names
    assert done.stdout.split() == ["True"] * len(names)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is not None or bool(MISSING), reason="there is an nvcc")
def test_asking_for_cuda_without_nvcc_is_an_error_that_names_it(tmp_path):
    with pytest.raises(AssertionError, match="GRAMIAN_CUDA=on needs nvcc"):
        build(tmp_path, "_ops_cuda", "-DGRAMIAN_CUDA=on")


def test_info_says_why_there_is_no_cuda():
    assert _cuda.status == "ready" or "CUDA" in _cuda.status
    if not _C.build_info()["cuda"]:
        assert _cuda.status == "this build has no CUDA kernels"


def test_loading_is_skipped_on_request_and_without_a_device(monkeypatch, tmp_path):
    (tmp_path / "_ops_cuda.so").touch()
    monkeypatch.setattr(_C, "__file__", str(tmp_path / "_C.so"))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _cuda.load() == "this torch has no CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _cuda.load() == "no CUDA device"
    monkeypatch.setenv("GRAMIAN_NO_CUDA", "1")
    assert _cuda.load() == "GRAMIAN_NO_CUDA is set"
