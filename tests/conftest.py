"""Fixtures: what a test runs on. The checks themselves are in checks.py."""

import pytest
import torch

from gramian import _C, _cuda
from tests import checks, cuda

LEVELS = ["baseline", "avx2", "avx512"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=LEVELS[: LEVELS.index(_C.best_isa()) + 1])
def isa(request):
    """Every instruction-set level that this CPU has, one after the other."""
    before = _C.active_isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=checks.LAYOUTS)
def layout(request):
    """A function from a tensor to one of the same shape that does not lie contiguous in memory."""
    return checks.LAYOUTS[request.param]


@pytest.fixture(params=checks.AUTOGRAD_CHECKS)
def check_differentiable(request):
    """``check_differentiable(function, *inputs)``, once for each of the autograd checks: see checks.py."""
    yield checks.AUTOGRAD_CHECKS[request.param]
    if request.param.startswith("compile"):
        torch.compiler.reset()


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """``emulated(name, *arguments)`` calls a CUDA op on the host: see cuda.py."""
    if cuda.MISSING:
        pytest.skip(f"needs {', '.join(cuda.MISSING)}: `make test` brings CMake and ninja")
    library, _ = cuda.build(
        tmp_path_factory.mktemp("emulated"), "_ops_emulated", "-DGRAMIAN_CUDA=off", "-DGRAMIAN_CUDA_EMULATED=ON"
    )
    torch.ops.load_library(library)
    return cuda.Emulated(library)


@pytest.fixture(
    params=["emulated", *([pytest.param("cuda", marks=pytest.mark.cuda)] if _cuda.status == "ready" else [])]
)
def call(request):
    """``call(name, *arguments)`` calls a CUDA op: emulated, and on the GPU where there is one."""
    return request.getfixturevalue("emulated") if request.param == "emulated" else cuda.OnGpu()
