"""From samples to shells by our own transform: every length that it takes against torch's FFT in float64."""

import itertools
import math

import pytest
import torch

from gramian import spectra
from tests import checks
from tests.reference import spectra as reference

op = torch.ops.gramian.spectra_grid_shells

SMOOTH = [n for n in range(1, 301) if spectra._grid_shells._is_smooth(n)]
LARGE = [512, 625, 729, 1000, 1024, 1536, 2025, 2048, 4096, 6561]
SHAPES = [
    (1, 1),
    (2, 1),
    (1, 2),
    (8, 8),
    (15, 16),
    (27, 50),
    (64, 64),
    (1, 1, 1),
    (4, 6, 10),
    (5, 3, 15),
    (16, 20, 18),
    (2, 3, 4, 5),
    (3, 1, 2, 1),
]


def field(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def shells_of(shape):
    """Each |k| is a shell of its own, so that no error hides behind another mode."""
    halves = [n // 2 + 1 for n in shape]
    return torch.arange(math.prod(halves), dtype=torch.int32).reshape(halves), math.prod(halves)


def error(found, expected):
    """In units of the rounding of the total power: what Parseval leaves to each mode."""
    return (
        float(((found.double() - expected).abs() / expected.sum(1, keepdim=True)).max()) / torch.finfo(found.dtype).eps
    )


def test_every_length_is_that_of_torch(isa):
    # The other axis is short and of changing length, so that blocks of lanes have every remainder.
    for n, other in zip(SMOOTH + LARGE, itertools.cycle([3, 8, 10, 4, 15, 1, 16, 9]), strict=False):
        for shape in ((n, other), (other, n)):
            x, (shell, shells) = field(2, *shape), shells_of(shape)
            # About an eps for each of at most ten passes, on the largest mode.
            assert error(op(x, None, shell, shells), reference.grid_shells(x, None, shell, shells)) < 8, shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3, 11])
def test_grid_shells_is_the_power_of_each_mode(isa, dtype, batch):
    for shape in SHAPES:
        x, window = field(batch, *shape, dtype=dtype), field(sum(shape), dtype=dtype, seed=1)
        shell, shells = shells_of(shape)
        for weights in (None, window):
            expected = reference.grid_shells(x, weights, shell, shells)
            assert error(op(x, weights, shell, shells), expected) < 8, shape  # as above


@pytest.mark.parametrize("shape", [(480, 300), (72, 40, 50), (30, 16, 12, 18)])
def test_large_grids_go_through_memory_in_parts(isa, shape):
    x = field(2, *shape)
    axes = tuple(range(1, x.ndim))
    found = spectra.radial_spectrum(x, axes, reduce="sum", truncate=False, window="hann")
    windowed = x
    for axis in axes:
        hann = torch.hann_window(x.shape[axis], dtype=x.dtype)
        windowed = windowed * hann.reshape(-1, *[1] * (x.ndim - 1 - axis))
    total = math.prod(shape) * windowed.square().sum(axes)
    torch.testing.assert_close(found.values.sum(-1), total, rtol=1e-13, atol=0)  # Parseval
    zero = torch.zeros_like(x)  # the cross power takes the other route
    other = spectra.radial_spectrum(x, axes, y=x + zero, reduce="sum", truncate=False, window="hann")
    torch.testing.assert_close(found.values, other.values.real, rtol=1e-11, atol=0)
    assert torch.equal(found.counts, other.counts)


@pytest.mark.parametrize("shape", [(1, 300, 400), (37, 24, 20), (2, 40, 48, 36)])
def test_grid_shells_has_the_same_bits_for_every_number_of_threads(isa, shape):
    x = field(*shape, dtype=torch.float32)
    k = sum(torch.arange(n // 2 + 1).reshape(-1, *[1] * (x.ndim - 2 - a)) for a, n in enumerate(shape[1:]))
    checks.check_thread_counts_agree(lambda: op(x, None, k.int(), int(k.max()) + 1))


def test_grid_shells_reads_any_layout(layout):
    x = layout(field(3, 8, 12))
    shell, shells = shells_of((8, 12))
    torch.testing.assert_close(op(x, None, shell, shells), op(x.clone(), None, shell, shells), rtol=0, atol=0)
    assert op(x[:0], None, shell, shells).shape == (0, shells)


def test_nan_stays_in_its_item():
    x = field(12, 8, 6, dtype=torch.float32)
    x[3, 2, 5] = torch.nan
    found = op(x, None, *shells_of((8, 6)))
    assert found[3].isnan().all()
    assert found[[*range(3), *range(4, 12)]].isfinite().all()


def test_grid_shells_follows_the_rules_of_autograd(check_differentiable):
    shell = torch.tensor([[0, 1, 2], [3, 0, 1]], dtype=torch.int32)
    # What varies in size is the batch: the grid is that of its table of shells.
    check_differentiable(
        lambda x, window: op(x.unflatten(-1, (3, 4)), window[0], shell, 4), field(2, 12), field(2, 7, seed=1)
    )


def test_grid_shells_has_derivatives_over_more_axes():
    shell = torch.arange(12, dtype=torch.int32).reshape(3, 2, 2) % 5
    x = field(1, 4, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: op(x, None, shell, 5), x, check_forward_ad=True)


def test_grid_shells_refuses_what_does_not_fit():
    x, shell = field(2, 4, 6), shells_of((4, 6))[0]
    for arguments, message in [
        ((x[0], None, shell, 12), "x must be [b, n1, .., nD] with 2 to 4 axes, got shape (4, 6)"),
        ((x.half(), None, shell, 12), "x must be float32 or float64, got float16"),
        ((x[:, :, :0], None, shell, 12), "x must have 2^a 3^b 5^c samples along its axes, got shape (2, 4, 0)"),
        ((field(2, 7, 6), None, shell, 12), "x must have 2^a 3^b 5^c samples along its axes, got shape (2, 7, 6)"),
        (
            (x, None, shell[:2], 12),
            "shell must be contiguous int32 with n/2 + 1 along each axis of x (2, 4, 6), got int32 of shape (2, 4)",
        ),
        (
            (x, None, shell.long(), 12),
            "shell must be contiguous int32 with n/2 + 1 along each axis of x (2, 4, 6), got int64 of shape (3, 4)",
        ),
        ((x, None, shell, 11), "shell must be from 0 to 10, got 11"),
        ((x, None, shell - 1, 12), "shell must be from 0 to 11, got -1"),
        ((x, None, shell, 0), "shells must be at least 1, got 0"),
        ((x, x[0, 0], shell, 12), "window must be contiguous with 10 weights, those of each axis, got shape (6,)"),
        ((x, torch.ones(10), shell, 12), "window must have the dtype of x (float64), got float32"),
    ]:
        with checks.refuses(f"grid_shells: {message}"):
            torch.ops.gramian.spectra_grid_shells(*arguments)
