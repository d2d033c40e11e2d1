"""The CUDA ops: on a GPU where there is one; everywhere else on the host, where the same source runs as fibers."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest
import torch

from gramian import _C, _cuda
from tests.checks import LAYOUTS, assert_same_neighbors, refuses, wide
from tests.reference import engine as reference
from tests.reference.neighbors import distance_table

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MISSING = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool) is None]


def build(folder, target, *options):
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    report = ""
    for step in (command, ["ninja", "-v", "-C", folder, target]):
        done = subprocess.run([str(part) for part in step], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        report += done.stdout + done.stderr
    return folder / f"{target}.so", report


# ---- The ops ----


class Emulated:
    """Calls a CUDA op on the host, with its threads in three orders: a race would show as different bits."""

    def __init__(self, library):
        self.set_order = ctypes.CDLL(str(library)).gramian_thread_order

    def __call__(self, name, *arguments):
        results = []
        for order in (1, 7, 0):
            self.set_order(order)
            result = getattr(torch.ops.gramian_emulated, name)(*arguments)
            results.append((result,) if isinstance(result, torch.Tensor) else result)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        return result


class OnGpu:
    def __call__(self, name, *arguments):
        moved = [a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments]
        result = getattr(torch.ops.gramian, name)(*moved)
        return result.cpu() if isinstance(result, torch.Tensor) else tuple(r.cpu() for r in result)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: `make test` brings CMake and ninja")
    library, _ = build(
        tmp_path_factory.mktemp("emulated"), "_ops_emulated", "-DGRAMIAN_CUDA=off", "-DGRAMIAN_CUDA_EMULATED=ON"
    )
    torch.ops.load_library(library)
    return Emulated(library)


@pytest.fixture(
    params=["emulated", *([pytest.param("cuda", marks=pytest.mark.cuda)] if _cuda.status == "ready" else [])]
)
def call(request):
    return request.getfixturevalue("emulated") if request.param == "emulated" else OnGpu()


def rows(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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
def test_a_cuda_op_refuses_what_the_cpu_op_refuses(call):
    x = torch.zeros(4, 3)
    with refuses("gram_square_sum: y must have d = 3 columns like x, got 2"):
        call("gram_square_sum", x, x[:, :2])


@pytest.mark.slow
def test_what_the_device_cannot_hold_is_refused_with_both_sizes(emulated):
    x = torch.zeros(1, 1, dtype=torch.bfloat16)  # expanded: it takes no memory here
    with pytest.raises(
        ValueError, match=r"^gram_square_sum: its arguments must leave room .* has \d+ MiB; .* need \d+ MiB$"
    ):
        emulated("gram_square_sum", x.expand(2**24, 2**14), x.expand(1, 2**14))


# ---- knn ----

METRICS = ["euclidean", "sqeuclidean", "cosine", "ip", "chebyshev"]
MODES = {"self": (None, False, False), "exclude self": (None, True, False), "causal": (None, False, True)}


def check_knn(call, x, k, y=None, metric="euclidean", exclude_self=False, causal=False, *, exact=False):
    distances, indices = call("neighbors_knn", x, k, y, metric, exclude_self, causal)
    assert indices.dtype == torch.int64
    assert distances.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    options = {} if y is not None else {"exclude_self": exclude_self, "causal": causal}
    table = distance_table(x, y, metric=metric, **options)
    tolerance = {}
    if not exact:
        size = x.shape[-1] * 2.0**-52  # d roundings of float64, and one to the result's type
        largest = x.double().norm(dim=1).max() * (x if y is None else y).double().norm(dim=1).max()
        absolute = {"cosine": size, "ip": size * float(largest)}.get(metric, 0.0)
        tolerance = {"relative": torch.finfo(distances.dtype).eps + size, "absolute": absolute}
    assert_same_neighbors((-distances if metric == "ip" else distances, indices), table, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*MODES, "queries"])
@pytest.mark.parametrize("metric", METRICS)
def test_knn_equals_the_reference(call, metric, mode):
    for dtype, n, m, d, k in [
        (torch.float32, 2, 3, 3, 1),
        (torch.float32, 129, 260, 17, 7),
        (torch.float64, 65, 129, 5, 12),
        (torch.bfloat16, 13, 33, 17, 12),
        (torch.float16, 40, 5, 33, 3),
    ]:
        y = rows(m, d, seed=1, dtype=dtype) if mode == "queries" else None
        _, exclude_self, causal = MODES.get(mode, (None, False, False))
        check_knn(
            call, rows(n, d, dtype=dtype), min(k, m if mode == "queries" else n - 1), y, metric, exclude_self, causal
        )


@pytest.mark.slow
def test_knn_decides_near_ties_exactly(call):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (300, 2), generator=generator).float()  # nine places: every row has many duplicates
    check_knn(call, x, 5, exact=True)
    check_knn(call, x, 5, None, "euclidean", True, exact=True)
    check_knn(call, x + 2.0**20, 5, None, "sqeuclidean", False, True, exact=True)
    tight = rows(1, 8) + 1e-6 * rows(200, 8, seed=1)  # scores cannot tell these apart, and no list holds them all
    check_knn(call, torch.cat([tight, 1e4 * rows(20, 8, seed=2)]), 3)
    check_knn(call, torch.ones(200, 1), 3, exact=True)
    check_knn(call, torch.tensor([[1e30], [1e-30], [0.0], [-1e30]]), 2)


@pytest.mark.slow
def test_knn_of_many_neighbours_batches_and_layouts(call):
    check_knn(call, rows(150, 3), 149, None, "euclidean", True)
    x = rows(3, 20, 6)
    distances, indices = call("neighbors_knn", x, 2)
    for b in range(3):
        for together, alone in zip((distances[b], indices[b]), call("neighbors_knn", x[b], 2), strict=True):
            assert torch.equal(together, alone)
    for layout in LAYOUTS.values():
        for got, expected in zip(
            call("neighbors_knn", layout(x), 2), call("neighbors_knn", layout(x).clone(), 2), strict=True
        ):
            assert torch.equal(got, expected)
    assert call("neighbors_knn", torch.empty(0, 3), 2)[0].shape == (0, 2)
    assert call("neighbors_knn", torch.empty(4, 0), 2)[1].tolist() == [[0, 1]] * 4


@pytest.mark.slow
def test_knn_refuses(call):
    x = rows(4, 3)
    bad = x.clone()
    bad[2, 1] = torch.nan
    with refuses("knn: x must be finite, got a NaN or an infinity in row 2"):
        call("neighbors_knn", bad, 1)
    with refuses("knn: y must be finite, got a NaN or an infinity in row 2"):
        call("neighbors_knn", x, 1, bad)
    with refuses("knn: k must be from 1 to 3, the rows to choose from, got 4"):
        call("neighbors_knn", x, 4, None, "ip", True)
    with refuses("knn: metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got manhattan"):
        call("neighbors_knn", x, 1, None, "manhattan")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_assign_equals_the_cpu_op(call, dtype):
    wide_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x, centers = rows(2, 150, 9, dtype=dtype), rows(2, 70, 9, seed=1, dtype=wide_dtype)
    centers[:, 3] = x[:, 5].to(wide_dtype)
    centers[:, 40] = centers[:, 3]  # a tie, for the lower index
    squared, labels = call("neighbors_assign", x, centers)
    expected, nearest = torch.ops.gramian.neighbors_assign(x, centers)
    assert torch.equal(labels, nearest)
    torch.testing.assert_close(squared, expected, rtol=2 * torch.finfo(wide_dtype).eps * 9, atol=0)  # orders of d terms
    assert squared[0, 5] == 0
    with refuses("assign: centers must be finite, got a NaN or an infinity in row 1"):
        call("neighbors_assign", x[0], torch.tensor([[0.0] * 9, [torch.inf] * 9], dtype=wide_dtype))


# ---- The library ----


@pytest.fixture(scope="module")
def cuda_build(tmp_path_factory):
    if MISSING or shutil.which("nvcc") is None:
        pytest.skip("needs nvcc, cmake and ninja")
    return build(tmp_path_factory.mktemp("cuda"), "_ops_cuda", "-DGRAMIAN_CUDA=on", "-DCMAKE_CUDA_FLAGS=-Xptxas=-v")


@pytest.mark.slow
def test_no_kernel_spills_registers(cuda_build):
    kernels = re.findall(r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill", cuda_build[1])
    assert any("square_sum_kernel" in name for name, *_ in kernels)
    assert [name for name, stack, spills in kernels if (stack, spills) != ("0", "0")] == []


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
