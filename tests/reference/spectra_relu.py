"""Spectra of functions by dense quadrature, in float64: slow and plain."""

import math

import numpy as np
import torch


def gauss(points):
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


def on_line(f, knots, frequencies, points=500):
    """Integral over [0, 1] of f(t) exp(-2 pi i k t), Gauss's rule between the knots; f: [n] -> [n, c]."""
    nodes, weights = gauss(points)
    t = (knots[:-1, None] + nodes * knots.diff()[:, None]).flatten()
    w = (weights * knots.diff()[:, None]).flatten()
    waves = torch.exp(-2j * math.pi * frequencies.double()[:, None] * t)
    return (waves * w) @ f(t).to(waves.dtype)


def on_square(f, low, high, frequencies, points):
    """Midpoint rule over [low, high]^2; f: [n, 2] -> [n, c]."""
    step = (high - low) / points
    line = low + step * (torch.arange(points, dtype=torch.float64) + 0.5)
    total = 0
    for part in line.split(100):
        x = torch.cartesian_prod(part, line)
        waves = torch.exp(-2j * math.pi * (x @ frequencies.double().T))
        total = total + waves.T @ f(x).to(waves.dtype) * step**2
    return total
