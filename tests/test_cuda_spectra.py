"""The CUDA ops of spectra, on a GPU or emulated: see test_cuda.py."""

import math

import pytest
import torch

from tests.checks import LAYOUTS, refuses, wide
from tests.cuda import rows
from tests.reference import spectra as reference

pytestmark = pytest.mark.slow

KERNELS = list(reference.PROFILES)
DTYPES = [torch.float32, torch.float64]


def assert_within(got, expected, scale, count):
    """Each sum is within ``count`` roundings of ``scale``, what its terms add up to without their signs."""
    error = abs(wide(got) - wide(expected))
    assert (error <= count * torch.finfo(got.dtype).eps * wide(scale) + 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_sum_equals_the_definition(call, kernel, dtype):
    for n, m, d, c in [(1, 1, 1, 1), (130, 140, 3, 2), (5, 300, 17, 18)]:
        x, y, v = rows(n, d, dtype=dtype), rows(m, d, seed=1, dtype=dtype), rows(m, c, seed=2, dtype=dtype)
        got = call("spectra_kernel_sum", x, y, v, KERNELS.index(kernel), False)
        # A kernel moves by less than the squared distance does, and that by d roundings of |x|^2 + |y|^2.
        assert_within(got, reference.kernel_sum(x, y, v, kernel), v.abs().sum(0).expand(n, c), 40 * (d + 2))


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_sum_of_slopes_equals_the_cpu_op(call, kernel):
    x, v = rows(20, 3, dtype=torch.float64), rows(20, 2, seed=1, dtype=torch.float64)
    arguments = (x, x, v, KERNELS.index(kernel), True)  # the diagonal: rows that meet
    torch.testing.assert_close(
        call("spectra_kernel_sum", *arguments), torch.ops.gramian.spectra_kernel_sum(*arguments), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_ndft_equals_the_definition(call, dtype):
    for n, m, d, c in [(1, 1, 1, 1), (130, 70, 2, 3), (3, 260, 5, 20)]:
        k, x, v = 3 * rows(n, d, dtype=dtype), rows(m, d, seed=1, dtype=dtype), rows(m, c, seed=2, dtype=dtype)
        cos, sin = call("spectra_ndft", k, x, v)
        phase = (k.abs() @ x.abs().mT).max() * 7 * (d + 1) + 4  # roundings of the phase, in radians
        expected = reference.ndft(x, k, v, 1)
        scale = v.abs().sum(0).expand(n, c)
        assert_within(cos, expected.real, scale, float(phase))
        assert_within(sin, expected.imag, scale, float(phase))


def test_sums_read_any_layout_and_propagate_what_is_not_finite(call):
    x, y, v = rows(9, 4), rows(7, 4, seed=1), rows(7, 3, seed=2)
    for layout in LAYOUTS.values():
        given = [layout(t) for t in (x, y, v)]
        copies = [t.clone(memory_format=torch.contiguous_format) for t in given]
        assert torch.equal(call("spectra_kernel_sum", *given, 2, False), call("spectra_kernel_sum", *copies, 2, False))
        assert torch.equal(call("spectra_ndft", *given), call("spectra_ndft", *copies))
    x[3, 1] = torch.nan
    assert call("spectra_kernel_sum", x, y, v, 0, False).isnan().any(1).tolist() == [i == 3 for i in range(9)]
    assert call("spectra_ndft", x, y, v)[0].isnan().any(1).tolist() == [i == 3 for i in range(9)]


def test_sums_of_nothing_are_zero(call):
    assert torch.equal(call("spectra_kernel_sum", rows(3, 2), rows(0, 2), rows(0, 4), 0, False), torch.zeros(3, 4))
    assert call("spectra_ndft", rows(0, 2), rows(3, 2), rows(3, 4)).shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cross", [False, True], ids=["power", "cross"])
def test_shells_equal_the_cpu_op(call, dtype, cross):
    for batch, sizes, shells, fold in [
        (1, (1,), 1, 0),
        (3, (9, 7), 5, 1),
        (1, (140, 130), 91, 2),
        (2, (6, 5, 4), 3, 0),
        (2, (3, 4, 2, 5), 3, 1),
    ]:
        x, y = rows(batch, *sizes, 2, dtype=dtype), rows(batch, *sizes, 2, seed=1, dtype=dtype)
        table = [n // 2 + 1 for n in sizes[:-1]] + [sizes[-1] if fold else sizes[-1] // 2 + 1]
        shell = torch.arange(math.prod(table), dtype=torch.int32).view(table).div(200, rounding_mode="floor") % shells
        shell[..., ::3] = torch.arange(shell[..., ::3].numel(), dtype=torch.int32).view_as(shell[..., ::3]) % shells
        arguments = (x, y if cross else None, shell, shells, fold)
        scale = torch.ops.gramian.spectra_shells(x.double(), None, shell, shells, fold)
        scale = scale + torch.ops.gramian.spectra_shells(y.double(), None, shell, shells, fold)
        expected = torch.ops.gramian.spectra_shells(*arguments)
        assert_within(call("spectra_shells", *arguments), expected, scale.expand_as(expected), 8)


def test_spectra_ops_refuse_what_the_cpu_ops_refuse(call):
    x = torch.zeros(3, 2)
    with refuses("kernel_sum: profile must be 0 to 4, got 5"):
        call("spectra_kernel_sum", x, x, x, 5, False)
    with refuses("ndft: points must be [m, 2] like frequencies, got shape (3, 1)"):
        call("spectra_ndft", x, x[:, :1], x)
    shell = torch.tensor([[0, 3]], dtype=torch.int32)
    with refuses("shells: shell must be from 0 to 2, got 3"):
        call("spectra_shells", torch.zeros(1, 1, 2, 2), None, shell, 3, 0)
    with refuses(f"shells: shell must be from 0 to 2, got {-(2**31)}"):
        call("spectra_shells", torch.zeros(1, 1, 2, 2), None, shell.fill_(-(2**31)), 3, 0)
