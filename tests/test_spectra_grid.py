"""Spectra on grids: against numpy and scipy, Parseval's identity, exact shells, derivatives."""

import math

import numpy as np
import pytest
import torch
from torch.library import opcheck

from gramian import spectra

GRIDS = [(8,), (7,), (1,), (2,), (13, 6), (6, 13), (16, 16), (1, 9), (5, 4, 6), (4, 3, 5, 2)]


def field(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def last(shape):
    return tuple(range(-len(shape), 0))


@pytest.mark.parametrize("shape", GRIDS)
def test_power_is_that_of_numpy_and_keeps_parseval(shape):
    x, axes = field(3, *shape), last(shape)
    expected = torch.from_numpy(np.abs(np.fft.fftn(x.numpy(), axes=axes)) ** 2)
    whole = spectra.power_spectrum(x, axes, onesided=False)
    torch.testing.assert_close(whole, expected, rtol=1e-11, atol=1e-11)
    half = spectra.power_spectrum(x, axes)
    torch.testing.assert_close(half.sum(axes), math.prod(shape) * x.square().sum(axes), rtol=1e-12, atol=0)
    torch.testing.assert_close(spectra.power_spectrum(x + 0j, axes), expected, rtol=1e-11, atol=1e-11)
    y = field(3, *shape, seed=1)
    both = torch.from_numpy(np.fft.fftn(x.numpy(), axes=axes) * np.conj(np.fft.fftn(y.numpy(), axes=axes)))
    torch.testing.assert_close(spectra.cross_spectrum(x, y, axes, onesided=False), both, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("norm", ["ortho", "forward"])
def test_norms_are_those_of_the_transform(norm):
    x = field(6, 10)
    expected = torch.fft.rfftn(x, norm=norm).abs().square()
    expected[:, 1:-1] *= 2
    torch.testing.assert_close(spectra.power_spectrum(x, (0, 1), norm=norm), expected)


def test_density_is_that_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    x = field(4, 37)
    for window in (None, "hann"):
        theirs = signal.periodogram(
            x.numpy(), fs=4.0, window="boxcar" if window is None else window, detrend="constant"
        )[1]
        ours = spectra.power_spectrum(x, window=window, detrend="mean", norm="density", spacing=0.25)
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-10, atol=1e-12)


def shells_by_hand(x, y, axes, spacing, edges=None):
    """Every mode of the full lattice by itself."""
    modes = torch.fft.fftn(x, dim=axes) * torch.fft.fftn(y, dim=axes).conj()
    shape = [x.shape[axis] for axis in axes]
    k = torch.meshgrid(
        *(torch.fft.fftfreq(n, s, dtype=torch.float64) for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    k = sum(one.square() for one in k).sqrt()
    if edges is None:
        step = 1 / max(n * s for n, s in zip(shape, spacing, strict=True))
        number = (k / step + 0.5 + 1e-9).floor().long()
    else:
        number = torch.bucketize(k, edges, right=True) - 1
    return k, number, modes


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("complex_field", [False, True])
@pytest.mark.parametrize("shape", GRIDS)
def test_shells_hold_every_mode_once(shape, complex_field, truncate):
    axes, spacing = last(shape), [0.5] * len(shape)
    x, y = field(2, *shape), field(2, *shape, seed=1)
    if complex_field:
        x, y = torch.complex(x, y), torch.complex(y, -x)
    k, number, modes = shells_by_hand(x, y, axes, spacing)
    found = spectra.radial_spectrum(x, axes, y=y, reduce="sum", truncate=truncate, spacing=0.5)
    kept = k <= 1 + 1e-12 if truncate else torch.ones_like(k, dtype=torch.bool)
    for shell in range(len(found.k)):
        inside = (number == shell) & kept
        assert found.counts[shell] == inside.sum()
        expected = modes[:, inside].sum(1)
        expected = expected if complex_field else expected.real + 1j * found.values[:, shell].imag
        torch.testing.assert_close(found.values[:, shell], expected, rtol=1e-9, atol=1e-9)
    power = spectra.radial_spectrum(x, axes, reduce="sum", truncate=truncate, spacing=0.5)
    total = math.prod(shape) * x.abs().square().sum(axes)
    torch.testing.assert_close(power.values.sum(-1) + power.dropped, total, rtol=1e-12, atol=0)
    mean = spectra.radial_spectrum(x, axes, truncate=truncate, spacing=0.5).values
    torch.testing.assert_close(mean, power.values / power.counts, equal_nan=True)


def test_the_imaginary_part_of_a_fold_is_that_of_the_kept_half():
    x, y = field(9, 8), field(9, 8, seed=1)
    half = torch.fft.rfftn(x) * torch.fft.rfftn(y).conj()
    half[:, 1:-1] *= 2
    found = spectra.radial_spectrum(x, y=y, reduce="sum", truncate=False)
    torch.testing.assert_close(found.values.sum(), half.sum())


def test_edges_are_half_open_and_the_last_is_closed():
    x, edges = field(12, 12), torch.tensor([0.0, 1 / 12, 0.25, 0.5], dtype=torch.float64)
    k, _, modes = shells_by_hand(x, x, (0, 1), (1.0, 1.0))
    found = spectra.radial_spectrum(x, bins=edges, reduce="sum")
    for shell, (low, high) in enumerate([(0, 1 / 12), (1 / 12, 0.25), (0.25, 0.5 + 1e-12)]):
        inside = (k >= low - 1e-12) & (k < high - (1e-12 if high < 0.5 else 0))
        assert found.counts[shell] == inside.sum()
        torch.testing.assert_close(found.values[shell], modes[inside].real.sum())
    assert len(spectra.radial_spectrum(x, bins=5).k) == 5


def test_a_wave_is_in_its_shell_and_uneven_grids_have_their_own_lengths():
    i = torch.arange(16.0, dtype=torch.float64)
    x = torch.cos(2 * math.pi * 3 * i / 16)[:, None] * torch.cos(2 * math.pi * 4 * i / 16)
    values = spectra.radial_spectrum(x, reduce="sum").values
    assert values[5].item() == pytest.approx(16384)
    assert values[[0, 1, 2, 3, 4, 6, 7, 8]].abs().max() < 1e-20 * 16384 + 1e-9
    wave = torch.cos(2 * math.pi * 0.25 * torch.arange(40.0, dtype=torch.float64))[:, None].expand(40, 7)
    found = spectra.radial_spectrum(wave, spacing=(1.0, 2.0), reduce="sum", truncate=False)
    assert found.k[found.values.argmax()].item() == pytest.approx(0.25)


def test_white_noise_is_white():
    found = spectra.radial_spectrum(field(64, 32, 32), norm="ortho")
    assert (found.values.mean(0) - 1).abs().max() < 0.15


def test_coherence_is_between_none_and_all():
    x, noise = field(64, 64), field(64, 64, seed=1)
    assert (spectra.coherence(x, -2 * x).values - 1).abs().max() < 1e-12
    values = spectra.coherence(x, x + noise).values[5:]
    assert (values > 0.2).all()
    assert (values < 0.8).all()


@pytest.mark.parametrize("complex_field", [False, True])
def test_spectra_have_derivatives(complex_field):
    x, y = field(1, 7, 2), field(1, 7, 2, seed=1)  # 7: not for our own transform
    if complex_field:
        x, y = torch.complex(x[:, :3], y[:, :3]), torch.complex(y[:, :3], x[:, :3])
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: spectra.power_spectrum(t, (-2, -1), window="hann"), x)
    for calls in (
        lambda t, _: spectra.radial_spectrum(t, window="hann").values,
        lambda t, u: torch.view_as_real(spectra.radial_spectrum(t, y=u).values),
    ):
        assert torch.autograd.gradcheck(calls, (x, y), check_batched_grad=True)
        assert torch.autograd.gradgradcheck(calls, (x, y))


def test_ops_of_modes_follow_the_rules_of_torch():
    shell = torch.arange(9, dtype=torch.int32).reshape(3, 3) % 5
    x, y = field(2, 4, 3, 2), field(2, 4, 3, 2, seed=1)
    shells, powers = torch.ops.gramian.spectra_shells.default, torch.ops.gramian.spectra_powers.default
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for op, rest in ((shells, (shell, 5, 1)), (powers, (2, 0.5))):
        opcheck(op, (x.clone().requires_grad_(), None, *rest), test_utils=checks)
        opcheck(op, (x, y.clone().requires_grad_(), *rest), test_utils=checks)
        one, both = x.clone().requires_grad_(), (x.clone().requires_grad_(), y.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda t: op(t, None, *rest), one, check_forward_ad=True)  # noqa: B023
        assert torch.autograd.gradcheck(
            lambda t, u: op(t, u, *rest),  # noqa: B023
            both,
            check_forward_ad=True,
            check_batched_grad=True,
        )
        mapped = torch.vmap(lambda t: op(t, None, *rest))(torch.stack([x, y]))  # noqa: B023
        assert torch.equal(mapped[1], op(y, None, *rest))


def test_ops_of_modes_have_the_same_bits_for_every_number_of_threads():
    x = field(2, 300, 500, dtype=torch.float32)
    kept, found = torch.get_num_threads(), []
    modes = torch.view_as_real(torch.fft.rfftn(x, dim=(-2, -1)))
    shell = (torch.arange(151 * 251, dtype=torch.int32) % 77).reshape(151, 251)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        shells = torch.ops.gramian.spectra_shells(modes, None, shell, 77, 2)
        found.append((shells, torch.ops.gramian.spectra_powers(modes, None, 2, 0.1)))
    torch.set_num_threads(kept)
    for at in (0, 1):
        assert torch.equal(found[0][at], found[1][at])
        assert torch.equal(found[0][at], found[2][at])


def test_strides_axes_and_other_inputs():
    x = field(4, 9, 3, 8)
    expected = spectra.power_spectrum(x.permute(0, 2, 1, 3).contiguous(), (-2, -1))
    torch.testing.assert_close(spectra.power_spectrum(x, (1, 3)), expected)
    assert spectra.power_spectrum(torch.arange(6)).dtype == torch.get_default_dtype()
    assert spectra.power_spectrum(x[:0], (1, 3)).shape == (0, 3, 9, 5)
    assert spectra.radial_spectrum(x[:0], (1, 3)).values.shape == (0, 3, 6)
    bad = x.clone()
    bad[0, 0, 0, 0] = torch.nan
    values = spectra.radial_spectrum(bad, (1, 3)).values
    assert values[0, 0].isnan().all()
    assert values[1:].isfinite().all()


def test_spectra_grid_refuses_what_does_not_fit():
    x = field(6, 8)
    modes, shell = field(1, 2, 3, 2), torch.zeros(2, 2, dtype=torch.int32)
    op = torch.ops.gramian.spectra_shells
    for call, message in [
        (lambda: op(modes[0], None, shell, 1, 0), r"shells: shell must be contiguous int32 \[n/2 \+ 1"),
        (lambda: op(modes[0, 0], None, shell, 1, 0), r"shells: x must be \[b, n1, .., 2\] with 1 to 4 axes, got shape"),
        (lambda: op(modes.mT, None, shell, 1, 0), r"shells: x must be \[b, n1, .., 2\] with 1 to 4 axes, got shape"),
        (
            lambda: torch.ops.gramian.spectra_powers(modes.transpose(1, 2), None, 0, 1.0),
            "powers: x must be contiguous",
        ),
        (lambda: op(modes, modes.float(), shell, 1, 0), r"shells: y must have the dtype of x \(float64\), got float32"),
        (
            lambda: op(modes, None, shell.long(), 1, 0),
            r"shells: shell must be contiguous int32 .*, got int64 of shape \(2, 2\)",
        ),
        (lambda: op(modes, None, shell + 1, 1, 0), "shells: shell must be from 0 to 0, got 1"),
        (lambda: op(modes, None, shell, 1, 3), "shells: fold must be 0, 1 or 2, got 3"),
        (lambda: spectra.power_spectrum(x, (0, 0)), "power_spectrum: dim must name different axes of x"),
        (lambda: spectra.power_spectrum(x, 2), "power_spectrum: dim must name different axes of x"),
        (lambda: spectra.power_spectrum(x, ()), "power_spectrum: dim must name 1 to 4 axes"),
        (lambda: spectra.power_spectrum(x[:, :0]), "power_spectrum: x must have samples along dim"),
        (
            lambda: spectra.power_spectrum(x.half()),
            "power_spectrum: x must be float32, float64 or complex of them, got torch.float16",
        ),
        (
            lambda: spectra.power_spectrum(x, window="box"),
            "power_spectrum: window must be 'hann', a tensor or None, got 'box'",
        ),
        (
            lambda: spectra.power_spectrum(x, window=torch.ones(3)),
            "power_spectrum: window must have the 8 samples of its axis",
        ),
        (
            lambda: spectra.power_spectrum(x, window=torch.zeros(8), norm="density"),
            "power_spectrum: window must not be zero",
        ),
        (lambda: spectra.power_spectrum(x, norm="max"), "power_spectrum: norm must be one of backward"),
        (lambda: spectra.power_spectrum(x, detrend="linear"), "power_spectrum: detrend must be 'none' or 'mean'"),
        (lambda: spectra.power_spectrum(x, spacing=0), "power_spectrum: spacing must be positive"),
        (
            lambda: spectra.power_spectrum(x + 0j, onesided=True),
            "power_spectrum: onesided must not be True for complex x",
        ),
        (lambda: spectra.cross_spectrum(x, x[:3]), "cross_spectrum: y must have the shape, dtype and device of x"),
        (lambda: spectra.radial_spectrum(x, bins=0), "radial_spectrum: bins must be at least 1, got 0"),
        (
            lambda: spectra.radial_spectrum(x, bins=torch.tensor([1.0, 0.5])),
            "radial_spectrum: bins must be edges that rise",
        ),
        (
            lambda: spectra.radial_spectrum(x, reduce="max"),
            "radial_spectrum: reduce must be 'mean' or 'sum', got 'max'",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
