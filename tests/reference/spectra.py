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
