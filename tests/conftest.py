"""Fixtures: what a test runs on. The checks themselves are in checks.py."""

import pytest
import torch

from gramian import _C
from tests import checks

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
