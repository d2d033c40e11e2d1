"""Spectra from their definitions, in float64."""

import math

import torch

PROFILES = {
    "gaussian": lambda r: torch.exp(-(r**2) / 2),
    "laplace": lambda r: torch.exp(-r),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * torch.exp(-math.sqrt(3) * r),
    "matern52": lambda r: (1 + math.sqrt(5) * r + 5 / 3 * r**2) * torch.exp(-math.sqrt(5) * r),
    "inverse_multiquadric": lambda r: (1 + r**2) ** -0.5,
}


def kernel_sum(x, y, values, kernel, bandwidth=1.0):
    apart = (x.double()[:, None] - y.double()[None]) / bandwidth
    r = (apart.square().sum(2) + 1e-300).sqrt()  # a derivative at 0 that is not NaN
    return PROFILES[kernel](r) @ values.double()


def ndft(points, frequencies, values, sign=-1):
    phases = 2 * math.pi * (frequencies.double() @ points.double().mT)
    wide = values.to(torch.complex128)
    return torch.polar(torch.ones_like(phases), sign * phases) @ wide


def grid_shells(x, window, shell, shells):
    """Power of every mode of the full lattice, added up by |k|."""
    axes, field = tuple(range(1, x.ndim)), x.double()
    if window is not None:
        for axis, weights in zip(axes, window.double().split(list(x.shape[1:])), strict=True):
            field = field * weights.reshape(-1, *[1] * (x.ndim - 1 - axis))
    power = torch.fft.fftn(field, dim=axes).abs().square()
    number = shell.long()
    for axis, n in enumerate(x.shape[1:]):
        m = torch.arange(n)
        number = number.index_select(axis, torch.minimum(m, n - m))
    return torch.zeros(len(x), shells, dtype=torch.float64).index_add(1, number.reshape(-1), power.flatten(1))
