"""Kernel sums and Fourier sums: against their definitions, identities, and derivatives."""

import math

import pytest
import torch
from torch.library import opcheck

from gramian import spectra
from tests.reference import spectra as reference

KERNELS = list(reference.PROFILES)
SIZES = [
    (1, 1, 1, 1),
    (3, 2, 0, 1),
    (13, 33, 3, 2),
    (97, 1057, 5, 3),
    (5, 4300, 2, 1),
    (200, 65, 513, 1),
    (20, 70, 2, 70),
]


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def rows(n, d, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kernel", ["laplace", "matern32", "matern52"])
def test_a_squared_distance_that_rounds_below_zero_is_zero(isa, kernel):
    # Rows against themselves, with norms from 0.1 to 1000: some of the differences come out negative.
    x = torch.randn(200, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 200)[:, None]
    assert spectra.kernel_sum(x, x, torch.ones(200), kernel=kernel).isfinite().all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n", "m", "d", "c"), SIZES)
def test_kernel_sum_equals_the_definition(kernel, n, m, d, c):
    x, y, v = rows(n, d), rows(m, d, seed=1), rows(m, c, seed=2)
    expected = reference.kernel_sum(x, y, v, kernel, 3.0)
    scale = reference.kernel_sum(x, y, v.abs(), kernel, 3.0)
    assert (
        (spectra.kernel_sum(x, y, v, kernel=kernel, bandwidth=3.0) - expected).abs() <= 2e-13 * scale + 1e-300
    ).all()
    found = spectra.kernel_sum(x.float(), y.float(), v.float(), kernel=kernel, bandwidth=3.0)
    assert found.dtype == torch.float32
    # A distance near zero of rows with |x|² = d has an error of sqrt(eps d), and Laplace's cusp shows it.
    assert ((found - expected).abs() <= (2e-3 if kernel == "laplace" else 2e-5) * scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d", "c"), SIZES)
def test_ndft_equals_the_definition(dtype, n, m, d, c):
    x, k, v = rows(m, d, dtype), rows(n, d, dtype, 1), rows(m, c, dtype, 2)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    scale = v.double().abs().sum(0)
    for values in (v, torch.complex(v, rows(m, c, dtype, 3))):
        for sign in (-1, 1):
            found = spectra.ndft(x, k, values, sign=sign)
            assert ((found - reference.ndft(x, k, values, sign)).abs() <= 2 * tolerance * scale).all()
    assert torch.equal(spectra.ndft(x, k, v[:, 0]), spectra.ndft(x, k, v)[:, 0])


def test_ndft_of_a_grid_is_the_fast_transform():
    values = rows(24, 3)
    n = torch.arange(24, dtype=torch.float64)[:, None]
    assert relative_error(spectra.ndft(n / 24, n, values), torch.fft.fft(values, dim=0)) < 1e-13
    assert (
        relative_error(spectra.ndft(n / 24, 2 * math.pi * n, values, units="angular"), torch.fft.fft(values, dim=0))
        < 1e-12
    )
    back = spectra.ndft_adjoint(n / 24, n, torch.fft.fft(values, dim=0)) / 24
    assert relative_error(back, values + 0j) < 1e-13
    assert relative_error(spectra.ndft(n / 24, n, values, norm="mean"), torch.fft.fft(values, dim=0) / 24) < 1e-13


def test_ndft_equals_finufft():
    finufft = pytest.importorskip("finufft")
    x, k = rows(300, 2), 5 * rows(40, 2, seed=1)
    v = torch.complex(rows(300, 1, seed=2), rows(300, 1, seed=3))[:, 0]
    turns = [t.contiguous().numpy() for t in (2 * math.pi * x).unbind(1)]
    theirs = finufft.nufft2d3(*turns, v.numpy(), *(t.contiguous().numpy() for t in k.unbind(1)), isign=-1, eps=1e-13)
    assert relative_error(spectra.ndft(x, k, v), torch.from_numpy(theirs)) < 1e-11


def test_phases_beyond_a_hundred_turns_need_float64():
    x, k, v = rows(50, 3, torch.float32), 3e3 * rows(20, 3, torch.float32, 1), rows(50, 1, torch.float32, 2)
    expected = reference.ndft(x, k, v)
    found = spectra.ndft(x, k, v, phase_dtype=torch.float64)
    assert found.dtype == torch.complex64
    assert ((found - expected).abs() <= 1e-6 * v.abs().sum()).all()
    assert ((spectra.ndft(x, k, v) - expected).abs() > 1e-4 * v.abs().sum()).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_sum_has_the_derivatives_of_the_definition(kernel):
    x, y, v, h = (
        t.requires_grad_()
        for t in (rows(5, 3), rows(7, 3, seed=1), rows(7, 2, seed=2), torch.tensor(1.5, dtype=torch.float64))
    )
    g = rows(5, 2, seed=3)
    ours = torch.autograd.grad((spectra.kernel_sum(x, y, v, kernel=kernel, bandwidth=h) * g).sum(), (x, y, v, h))
    theirs = torch.autograd.grad((reference.kernel_sum(x, y, v, kernel, h) * g).sum(), (x, y, v, h))
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(one, other) < 1e-11
    assert torch.autograd.gradcheck(
        lambda *t: spectra.kernel_sum(*t, kernel=kernel), (x, y, v), check_forward_ad=True, check_batched_grad=True
    )


def test_the_gaussian_has_every_derivative():
    inputs = tuple(t.requires_grad_() for t in (rows(3, 2), rows(4, 2, seed=1), rows(4, 1, seed=2)))
    assert torch.autograd.gradgradcheck(spectra.kernel_sum, inputs)
    x = inputs[0].detach().requires_grad_()
    first = torch.autograd.grad(spectra.kernel_sum(x, *inputs[1:], kernel="matern52").sum(), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="the matern52 kernel has one derivative in x and y"):
        first.sum().backward()


def test_the_slope_is_zero_where_rows_of_a_cusp_meet():
    x = rows(4, 2).requires_grad_()
    spectra.kernel_sum(x, x.detach(), torch.ones(4, dtype=torch.float64), kernel="laplace").sum().backward()
    assert x.grad.isfinite().all()


def test_ndft_has_every_derivative():
    inputs = tuple(t.requires_grad_() for t in (rows(4, 2), rows(3, 2, seed=1), rows(4, 2, seed=2)))
    assert torch.autograd.gradcheck(spectra.ndft, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(spectra.ndft, inputs)


def test_sums_are_differentiable(check_differentiable):
    check_differentiable(
        lambda x, y, v: spectra.kernel_sum(x, y, v, bandwidth=2.0), rows(5, 2), rows(4, 2, seed=1), rows(4, 2, seed=2)
    )


def test_waves_are_differentiable(check_differentiable):
    check_differentiable(torch.ops.gramian.spectra_ndft.default, rows(4, 2), rows(4, 2, seed=1), rows(4, 2, seed=2))


def test_ops_follow_the_rules_of_torch():
    x, y, v = rows(5, 3), rows(7, 3, seed=1), rows(7, 2, seed=2)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    opcheck(torch.ops.gramian.spectra_kernel_sum.default, (x.requires_grad_(), y, v, 3), test_utils=checks)
    opcheck(torch.ops.gramian.spectra_ndft.default, (x, y.requires_grad_(), v), test_utils=checks)
    stacked = torch.stack([v, 2 * v])
    mapped = torch.vmap(lambda t: spectra.kernel_sum(x.detach(), y.detach(), t))(stacked)
    assert torch.equal(mapped[1], spectra.kernel_sum(x.detach(), y.detach(), stacked[1]))
    compiled = torch.compile(lambda t: spectra.kernel_sum(t, y, v).sum(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), spectra.kernel_sum(x, y, v).sum())


@pytest.mark.parametrize("m", [50, 9000])
def test_sums_are_the_same_bits_for_every_number_of_threads(m):
    x, y, v = rows(150, 4, torch.float32), rows(m, 4, torch.float32, 1), rows(m, 2, torch.float32, 2)
    kept = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append((spectra.kernel_sum(x, y, v), spectra.ndft(y, x, v)))
    torch.set_num_threads(kept)
    for sums, waves in found[1:]:
        assert torch.equal(sums, found[0][0])
        assert torch.equal(waves, found[0][1])


def test_strides_and_nothing_at_all():
    x, y, v = rows(20, 6)[::2, ::2], rows(3, 14, seed=1).mT, rows(14, 6, seed=2)[:, ::3]
    assert torch.equal(spectra.kernel_sum(x, y, v), spectra.kernel_sum(x.contiguous(), y.contiguous(), v.contiguous()))
    assert torch.equal(spectra.ndft(y, x, v), spectra.ndft(y.contiguous(), x.contiguous(), v.contiguous()))
    assert spectra.kernel_sum(x[:0], y, v).shape == (0, 2)
    assert (spectra.kernel_sum(x, y[:0], v[:0]) == 0).all()
    assert spectra.ndft(y, x, v[:, :0]).shape == (10, 0)


def test_a_nan_stays_in_its_row():
    x, y, v = rows(4, 2), rows(5, 2, seed=1), rows(5, 1, seed=2)
    x[1, 0] = torch.nan
    for found in (spectra.kernel_sum(x, y, v), spectra.ndft(y, x, v)):
        assert found[1].isnan().all()
        assert found[[0, 2, 3]].isfinite().all()


def test_gaussian_eigenpairs_are_those_of_the_matrix():
    x = rows(150, 3)
    matrix = reference.kernel_sum(x, x, torch.eye(150), "gaussian", 1.5)
    pairs = spectra.gaussian_eigenpairs(x, 4, bandwidth=1.5, tol=1e-10, generator=torch.Generator().manual_seed(0))
    assert pairs.converged
    assert relative_error(pairs.values, torch.linalg.eigvalsh(matrix).flip(0)[:4]) < 1e-10
    assert relative_error(matrix @ pairs.vectors, pairs.vectors * pairs.values) < 1e-8


def test_spectra_refuses_what_does_not_fit():
    x, y, v = rows(3, 2), rows(4, 2), rows(4, 1)
    kernel_sum, ndft = torch.ops.gramian.spectra_kernel_sum, torch.ops.gramian.spectra_ndft
    for call, message in [
        (lambda: kernel_sum(x[0], y, v, 0), r"kernel_sum: x must be \[n, d\], got shape \(2,\)"),
        (lambda: kernel_sum(x, rows(4, 3), v, 0), r"kernel_sum: y must be \[m, 2\] like x, got shape \(4, 3\)"),
        (lambda: kernel_sum(x, y, v[:3], 0), r"kernel_sum: values must be \[4, c\] like y, got shape \(3, 1\)"),
        (lambda: kernel_sum(x, y.float(), v, 0), r"kernel_sum: y must have the dtype of x \(float64\), got float32"),
        (lambda: kernel_sum(x.half(), y, v, 0), "kernel_sum: x must be float32 or float64, got float16"),
        (lambda: kernel_sum(x, y, v, 5), "kernel_sum: profile must be 0 to 4, got 5"),
        (lambda: ndft(x, y, v[:2]), r"ndft: values must be \[4, c\] like points, got shape \(2, 1\)"),
        (lambda: spectra.kernel_sum(x, y, v, kernel="box"), "kernel_sum: kernel must be one of gaussian, .* got 'box'"),
        (lambda: spectra.kernel_sum(x, y, v, bandwidth=0), "kernel_sum: bandwidth must be positive, got 0"),
        (lambda: spectra.ndft(y, x, v, units="hertz"), "ndft: units must be 'cycles' or 'angular', got 'hertz'"),
        (lambda: spectra.ndft(y, x, v, sign=0), "ndft: sign must be -1 or 1, got 0"),
        (lambda: spectra.ndft(y, x, v, norm="ortho"), "ndft: norm must be 'none' or 'mean', got 'ortho'"),
        (
            lambda: spectra.ndft(y, x, v, phase_dtype=torch.int8),
            "ndft: phase_dtype must be torch.float32 or torch.float64",
        ),
        (lambda: spectra.gaussian_eigenpairs(x, 4), "gaussian_eigenpairs: k must be from 1 to n = 3, got 4"),
        (
            lambda: spectra.gaussian_eigenpairs(x, 2, max_iter=1),
            "gaussian_eigenpairs: max_iter must be at least k = 2, got 1",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
