"""Sums of waves, of radial functions and over shells."""

import math

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import is_finite, op, worst


def _pair_arguments(draw):
    dtype, d, m = draw.dtype(), draw.size(0, 17), draw.size()
    return (
        draw.values(draw.size(), d, dtype=dtype),
        draw.values(m, d, dtype=dtype),
        draw.values(m, draw.size(0, 17), dtype=dtype),
    )


def _kernel_arguments(draw):
    return *_pair_arguments(draw), draw.number(0, 5), draw.chance(0.4)


def _profile(u, profile, slope):
    r = np.sqrt(u)
    if profile == 0:
        value = np.exp(-u / 2)
        return -value / 2 if slope else value
    if profile == 1:
        value = np.exp(-r)
        return np.divide(-value / 2, r, out=np.zeros_like(r), where=r > 0) if slope else value
    if profile == 2:
        scaled = math.sqrt(3) * r
        return -1.5 * np.exp(-scaled) if slope else (1 + scaled) * np.exp(-scaled)
    if profile == 3:
        scaled = math.sqrt(5) * r
        value = np.exp(-scaled)
        return -(5 / 6) * (1 + scaled) * value if slope else (1 + scaled + scaled**2 / 3) * value
    return -0.5 * (1 + u) ** -1.5 if slope else (1 + u) ** -0.5


@op(
    _kernel_arguments,
    "Σ|v| (8 eps |φ| + |φ(u - δ) - φ(u + δ)|), δ = (d + 4) eps (|x|² + |y|²): φ at distances rounded so",
)
def spectra_kernel_sum(args, got):
    profile, slope = args[3:]
    x, y, v = map(wide, args[:3])
    eps = torch.finfo(args[0].dtype).eps
    if not is_finite(args):
        return 0.0
    norms = (x**2).sum(1)[:, None] + (y**2).sum(1)
    if norms.max(initial=0) > float(torch.finfo(args[0].dtype).max) / 8:
        return 0.0
    u = ((x[:, None] - y) ** 2).sum(2)
    apart = (x.shape[1] + 4) * eps * norms + 4 * eps * u + float(torch.finfo(args[0].dtype).tiny) * (x.shape[1] + 1)
    if profile == 1 and slope and (u <= 2 * apart).any():
        return 0.0  # its pole
    f, near, far = (_profile(t, profile, slope) for t in (u, np.maximum(u - apart, 0), u + apart))
    error = np.abs(near - far) + 8 * eps * (np.abs(near) + float(torch.finfo(args[0].dtype).tiny))
    size = np.abs(v)
    return worst(got[0], f @ v, np.abs(f) @ size, 2 * math.log2(len(y) + 2) + 4, floor=2 * (error @ size) + 1e-300)


@op(_pair_arguments, "Σ|v| (2π d eps Σ|k||x| + 8 eps)")
def spectra_ndft(args, got):
    k, x, v = map(wide, args)
    eps = torch.finfo(args[0].dtype).eps
    if not is_finite(args):
        return 0.0
    turns, size = k @ x.T, np.abs(k) @ np.abs(x).T
    error = 2 * np.longdouble(math.pi) * (x.shape[1] + 2) * eps * size + 8 * eps
    if error.max(initial=0) > 0.25:
        return 0.0
    turns = 2 * np.longdouble("3.14159265358979323846264338327950288") * (turns - np.round(turns))
    expected = np.stack([np.cos(turns) @ v, np.sin(turns) @ v])
    scale = np.broadcast_to(np.ones_like(turns) @ np.abs(v), expected.shape)
    return worst(got[0], expected, scale, 2 * math.log2(len(x) + 2) + 4, floor=2 * (error @ np.abs(v)) + 1e-300)


def _modes_arguments(draw, most):
    axes = draw.number(1, 5)
    sizes = [draw.size(0, most if axes < 3 else 5) for _ in range(axes)]
    x = draw.values(draw.size(0, 3), *sizes, 2, dtype=draw.dtype())
    return x, draw.values(*x.shape, dtype=x.dtype) if draw.chance(0.5) else None


def _counted(x, y, fold):
    """Power of each mode as often as it counts, its imaginary part, and the scale of both."""
    a, b = wide(x), wide(x if y is None else y)
    weight, kept = np.ones(x.shape[-2]), x.shape[-2]
    if fold:
        weight[1 : kept - (fold == 2 and kept > 1)] = 2
    real = weight * (a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1])
    imaginary = weight * (a[..., 1] * b[..., 0] - a[..., 0] * b[..., 1])
    return [real] if y is None else [real, imaginary], weight * np.abs(a).sum(-1) * np.abs(b).sum(-1)


def _shells_arguments(draw):
    x, y = _modes_arguments(draw, 17)
    shells, fold = draw.size(1, 17), draw.number(0, 3)
    table = [n // 2 + 1 for n in x.shape[1:-1]]
    if fold:
        table[-1] = x.shape[-2]
    return x, y, draw.integers(0, shells, *table).int(), shells, fold


@op(_shells_arguments, "8 eps Σ|x||y| of a shell", dense=True)
def spectra_shells(args, got):
    x, y, shell, shells, fold = args
    if not is_finite(args):
        return 0.0
    parts, size = _counted(x, y, fold)
    sizes = x.shape[1:-1]
    axes = [np.minimum(np.arange(n), n - np.arange(n)) for n in sizes]
    if fold:
        axes[-1] = np.arange(sizes[-1])
    number = np.asarray(shell)[np.ix_(*axes)].reshape(-1, 1)
    where = (number == np.arange(shells)).astype(np.longdouble)
    expected = np.stack([part.reshape(len(x), len(number)) @ where for part in parts], -1)
    scale = np.broadcast_to((size.reshape(len(x), len(number)) @ where)[..., None], expected.shape)
    return worst(got[0], expected, scale, 8, floor=float(torch.finfo(x.dtype).tiny) * (len(number) + 1))


@op(lambda draw: (*_modes_arguments(draw, 40), draw.number(0, 3), 0.75), "4 eps |x||y|", dense=True)
def spectra_powers(args, got):
    x, y, fold, factor = args
    if not is_finite(args):
        return 0.0
    parts, size = _counted(x, y, fold)
    expected = factor * np.stack(parts, -1)
    scale = np.broadcast_to(factor * size[..., None], expected.shape)
    return worst(got[0], expected, scale, 4, floor=4 * float(torch.finfo(x.dtype).tiny))


def _grid_arguments(draw):
    dtype, axes = draw.dtype(), draw.number(2, 5)
    sizes = [int(draw.choice((1, 2, 3, 4, 5) if axes > 2 else (1, 2, 3, 5, 8, 12, 15, 16, 20))) for _ in range(axes)]
    shells = draw.size(1, 17)
    window = draw.values(sum(sizes), dtype=dtype) if draw.chance(0.4) else None
    shell = draw.integers(0, shells, *(n // 2 + 1 for n in sizes)).int()
    return draw.values(draw.size(0, 2), *sizes, dtype=dtype), window, shell, shells


@op(_grid_arguments, "32 log2(modes) eps modes Σ|x|², of a shell", dense=True)
def spectra_grid_shells(args, got):
    x, window, shell, shells = args
    if not is_finite(args):
        return 0.0
    sizes, modes = x.shape[1:], wide(x).astype(np.clongdouble)
    first = 0
    for axis, n in enumerate(sizes, 1):
        if window is not None:
            modes = modes * wide(window)[first : first + n].reshape(-1, *[1] * (len(sizes) - axis))
        first += n
    size = (np.abs(modes) ** 2).sum(axis=tuple(range(1, modes.ndim)))
    for axis, n in enumerate(sizes, 1):
        turns = np.outer(np.arange(n), np.arange(n)) % n / np.longdouble(n)
        wave = np.exp(-2j * np.longdouble("3.14159265358979323846264338327950288") * turns)
        modes = np.moveaxis(np.tensordot(modes, wave, (axis, 0)), -1, axis)
    power = (np.abs(modes) ** 2).reshape(len(x), int(np.prod(sizes)))
    folded = np.ix_(*[np.minimum(np.arange(n), n - np.arange(n)) for n in sizes])
    where = (np.asarray(shell)[folded].reshape(-1, 1) == np.arange(shells)).astype(np.longdouble)
    count = int(np.prod(sizes))
    expected = power @ where
    scale = np.broadcast_to(count * size[:, None], expected.shape)
    floor = float(torch.finfo(x.dtype).tiny) * count * count
    return worst(got[0], expected, scale, 32 * (math.log2(count) + 1), floor=floor)
