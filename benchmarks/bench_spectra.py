"""Fourier sums, kernel sums and radial spectra, against plain torch, scipy, finufft and ducc0."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.case import Case, Peer
from gramian import spectra

if TYPE_CHECKING:
    from collections.abc import Callable


def _points(n: int, k: int, d: int) -> Callable[[int], list[Tensor]]:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.rand(n, d, generator=generator),
            torch.randn(k, d, generator=generator),
            torch.randn(n, generator=generator),
        ]

    return setup


def _waves(inputs: list[Tensor]) -> Tensor:
    points, frequencies, values = inputs
    phases = 2 * math.pi * (frequencies @ points.mT)
    return torch.complex(phases.cos() @ values, -(phases.sin() @ values))


def _finufft(inputs: list[Tensor]) -> Tensor:
    import finufft

    points, frequencies, values = inputs
    turns = [t.contiguous().numpy() for t in (2 * math.pi * points).unbind(1)]
    wanted = [t.contiguous().numpy() for t in frequencies.unbind(1)]
    transform = {1: finufft.nufft1d3, 2: finufft.nufft2d3, 3: finufft.nufft3d3}[points.shape[1]]
    threads = torch.get_num_threads()
    return torch.from_numpy(transform(*turns, (values + 0j).numpy(), *wanted, isign=-1, eps=1e-5, nthreads=threads))


def _ndft_case(n: int, k: int, d: int, *, rounds: int) -> Case:
    def error(result: Tensor, inputs: list[Tensor]) -> float:
        wide = _waves([t[:64].double() if at == 1 else t.double() for at, t in enumerate(inputs)])
        return float((result[:64] - wide).abs().max() / inputs[2].double().norm())

    peers = [Peer(name="torch", version=partial(version, "torch"), call="cos and sin of k @ x.mT, @ v", run=_waves)]
    if d <= 3:
        peers.append(
            Peer(name="finufft", version=partial(version, "finufft"), call=f"nufft{d}d3(eps=1e-5)", run=_finufft)
        )
    return Case(
        op="spectra.ndft",
        name=f"n={n} k={k} d={d}",
        dtype="float32",
        setup=_points(n, k, d),
        ours=lambda inputs: spectra.ndft(*inputs),
        flops=2.0 * n * k * d,
        bytes=4.0 * (n + k) * d,
        error=error,
        peers=peers,
        rounds=rounds,
        memory=True,
    )


def _kernels(inputs: list[Tensor]) -> Tensor:
    points, frequencies, values = inputs
    return torch.exp(-0.5 * torch.cdist(frequencies, points).square()) @ values


def _kernel_case(n: int, k: int, d: int, *, rounds: int) -> Case:
    def setup(seed: int) -> list[Tensor]:
        points, centres, values = _points(n, k, d)(seed)
        return [points / math.sqrt(d), centres / math.sqrt(d), values]  # a length or so apart in any dimension

    def error(result: Tensor, inputs: list[Tensor]) -> float:
        wide = _kernels([t[:64].double() if at == 1 else t.double() for at, t in enumerate(inputs)])
        return float((result[:64] - wide).abs().max() / wide.abs().max())

    return Case(
        op="spectra.kernel_sum",
        name=f"gaussian n={n} m={k} d={d}",
        dtype="float32",
        setup=setup,
        ours=lambda inputs: spectra.kernel_sum(inputs[1], inputs[0], inputs[2]),
        flops=2.0 * n * k * d,
        bytes=4.0 * (n + k) * d,
        error=error,
        peers=[Peer(name="torch", version=partial(version, "torch"), call="exp(-cdist²/2) @ v", run=_kernels)],
        rounds=rounds,
        memory=True,
    )


def _grid(batch: int, shape: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    """The field, and for the peers the shell of each mode of the half lattice and how often it counts."""

    def setup(seed: int) -> list[Tensor]:
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
        squares = torch.zeros([])
        for axis, n in enumerate(shape):
            m = torch.arange(n // 2 + 1 if axis == len(shape) - 1 else n)
            m = torch.where(2 * m > n, n - m, m)
            squares = squares + m.square().reshape(-1, *[1] * (len(shape) - axis - 1))
        shells = (shape[0] + 1) // 2 + 1
        k = squares.double().sqrt()
        number = torch.where(k > shape[0] / 2, shells, (k + 0.5).floor()).long()
        weight = torch.full((shape[-1] // 2 + 1,), 2.0)
        weight[0] = 1
        if shape[-1] % 2 == 0:
            weight[-1] = 1
        return [x, number, weight.expand(number.shape).contiguous()]

    return setup


def _torch_shells(inputs: list[Tensor]) -> Tensor:
    x, number, weight = inputs
    axes = tuple(range(1, x.ndim))
    power = torch.view_as_real(torch.fft.rfftn(x, dim=axes)).square().sum(-1) * weight
    flat, shells = number.reshape(-1), int(number.max())
    return torch.stack([torch.bincount(flat, item.reshape(-1), minlength=shells + 1)[:shells] for item in power])


def _numpy_shells(transform: Callable[[Any, tuple[int, ...]], Any], inputs: list[Tensor]) -> Tensor:
    import numpy as np

    x, number, weight = (t.numpy() for t in inputs)
    modes = transform(x, tuple(range(1, x.ndim)))
    power = (modes.real**2 + modes.imag**2) * weight
    shells = int(number.max())
    sums = [np.bincount(number.ravel(), item.ravel(), minlength=shells + 1)[:shells] for item in power]
    return torch.from_numpy(np.stack(sums))


def _scipy_fft(x: Any, axes: tuple[int, ...]) -> Any:
    import scipy.fft

    return scipy.fft.rfftn(x, axes=axes, workers=torch.get_num_threads())


def _ducc_fft(x: Any, axes: tuple[int, ...]) -> Any:
    import ducc0

    return ducc0.fft.r2c(x, axes=axes, nthreads=torch.get_num_threads())


def _powerbox(inputs: list[Tensor]) -> Tensor:
    """Means over shells, which times their numbers of modes are sums; its own wave numbers and bins in each call."""
    import numpy as np
    import powerbox

    x, number, _ = inputs
    side, shells = x.shape[1], int(number.max())
    edges = 2 * math.pi * (np.arange(shells + 1) - 0.5) / side
    edges[0], edges[-1] = -1e-9, math.pi * (1 + 1e-9)
    found = powerbox.get_power(x[0].numpy(), float(side), bins=edges, remove_shotnoise=False, ignore_zero_mode=False)
    return torch.from_numpy(found.power * found.nsamples * x[0].numel())[None, :shells]


def _radial_case(batch: int, shape: tuple[int, ...], *, rounds: int) -> Case:
    axes = tuple(range(1, len(shape) + 1))
    samples = batch * math.prod(shape)

    def error(result: Tensor, inputs: list[Tensor]) -> float:
        wide = _torch_shells([inputs[0][:1].double(), inputs[1], inputs[2].double()])
        return float(
            ((result[:1] - wide).abs() / wide.clamp_min(1e-30)).max()
        )  # the last shell of an odd axis is empty

    powerbox = Peer(name="powerbox", version=partial(version, "powerbox"), call="get_power(bins=edges)", run=_powerbox)
    modes = batch * math.prod(shape[:-1]) * (shape[-1] // 2 + 1)
    return Case(
        op="spectra.radial_spectrum",
        name=f"{batch} x {' x '.join(map(str, shape))}",
        dtype="float32",
        setup=_grid(batch, shape),
        ours=lambda inputs: spectra.radial_spectrum(inputs[0], axes, reduce="sum").values,
        flops=2.5 * samples * math.log2(math.prod(shape)) + 4.0 * modes,
        bytes=12.0 * samples,
        error=error,
        peers=[
            Peer(
                name="torch",
                version=partial(version, "torch"),
                call="rfftn, |X|², bincount of shells",
                run=_torch_shells,
            ),
            Peer(
                name="scipy",
                version=partial(version, "scipy"),
                call="scipy.fft.rfftn, numpy.bincount",
                run=partial(_numpy_shells, _scipy_fft),
            ),
            Peer(
                name="ducc0",
                version=partial(version, "ducc0"),
                call="ducc0.fft.r2c, numpy.bincount",
                run=partial(_numpy_shells, _ducc_fft),
            ),
            *([powerbox] if samples <= 1 << 20 else []),
        ],
        rounds=rounds,
        memory=False,
    )


def _xrft(inputs: list[Tensor]) -> Tensor:
    """Means over a quarter as many shells as there are samples along an axis."""
    import xarray
    import xrft

    field = xarray.DataArray(inputs[0][0].numpy(), dims=["a", "b"])
    return torch.from_numpy(xrft.isotropic_power_spectrum(field, dim=["a", "b"], truncate=True).values)


def _against_xrft(side: int) -> Case:
    peer = Peer(name="xrft", version=partial(version, "xrft"), call="isotropic_power_spectrum", run=_xrft)
    case = _radial_case(1, (side, side), rounds=4)
    return replace(case, name=f"{case.name}, bins of xrft", peers=[peer], error="xrft has bins of its own")


def _modes(shape: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    """What torch's transform of a field leaves, and the shells of its modes by |k| and one by one."""
    grid = _grid(1, shape)

    def setup(seed: int) -> list[Tensor]:
        x, number, weight = grid(seed)
        modes = torch.view_as_real(torch.fft.rfftn(x, dim=tuple(range(1, x.ndim))))
        octant = number[tuple(slice(n // 2 + 1) for n in shape)].int().contiguous()
        return [modes, number, weight, octant]

    return setup


def _powers(inputs: list[Tensor]) -> Tensor:
    return inputs[0].square().sum(-1) * inputs[2]


def _after_fft_case(name: str, shape: tuple[int, ...], ours: Any, peer: Any, call: str, written: int) -> Case:
    """What the general route does after torch's FFT, whose transform it should read once; ``written`` bytes a mode leave."""
    fold, modes = 1 + (shape[-1] % 2 == 0), math.prod(shape[:-1]) * (shape[-1] // 2 + 1)

    def error(result: Tensor, inputs: list[Tensor]) -> float:
        wide = peer([inputs[0].double(), inputs[1], inputs[2].double()])
        return float(((result.reshape(wide.shape) - wide).abs() / wide.abs().max()).max())

    return Case(
        op=f"spectra.{name}",
        name=f"after torch's FFT, {' x '.join(map(str, shape))}",
        dtype="float32",
        setup=_modes(shape),
        ours=lambda inputs: ours(inputs, fold),
        flops=4.0 * modes,
        bytes=(8.0 + written) * modes,
        error=error,
        peers=[Peer(name="torch", version=partial(version, "torch"), call=call, run=peer)],
        rounds=4,
        memory=True,
    )


def _our_shells(inputs: list[Tensor], fold: int) -> Tensor:
    modes, _, _, octant = inputs
    shells = int(octant[(-1,) * octant.ndim]) + 1  # the corner holds what is dropped
    return torch.ops.gramian.spectra_shells(modes, None, octant, shells, fold)[:, :-1]


def _bincount(inputs: list[Tensor]) -> Tensor:
    number, power = inputs[1].reshape(-1), _powers(inputs)[0]
    shells = int(inputs[1].max())
    return torch.bincount(number, power.reshape(-1), minlength=shells + 1)[None, :shells]


def _our_powers(inputs: list[Tensor], fold: int) -> Tensor:
    return torch.ops.gramian.spectra_powers(inputs[0], None, fold, 1.0)


CASES = [
    _ndft_case(10_000, 1000, 784, rounds=10),
    _ndft_case(10_000, 1000, 3, rounds=10),
    _ndft_case(100_000, 10_000, 2, rounds=2),
    _kernel_case(10_000, 1000, 784, rounds=10),
    _kernel_case(20_000, 20_000, 10, rounds=2),
    _radial_case(1, (1024, 1024), rounds=6),
    _against_xrft(1024),
    _radial_case(1, (2048, 2048), rounds=6),
    _radial_case(1, (4096, 4096), rounds=2),
    _radial_case(1, (128, 128, 128), rounds=6),
    _radial_case(1, (192, 192, 192), rounds=4),
    _radial_case(4096, (64, 64), rounds=2),
    _radial_case(1, (1021, 1021), rounds=4),
    _after_fft_case("radial_spectrum", (4098, 4099), _our_shells, _bincount, "|X|², bincount of shells", 0),
    _after_fft_case("radial_spectrum", (258, 260, 254), _our_shells, _bincount, "|X|², bincount of shells", 0),
    _after_fft_case("power_spectrum", (4098, 4099), _our_powers, _powers, "|X|² times weights", 4),
]
