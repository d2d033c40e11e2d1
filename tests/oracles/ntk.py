"""Tangent kernels of layers: every gradient in full, multiplied."""

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import is_finite, op, worst


def _jacobian(a, g, ones, one_hot=0):
    a, g = wide(a), wide(g)
    if one_hot:
        a = (a == np.arange(one_hot)).astype(np.longdouble)
    if ones:
        a = np.concatenate([a, np.ones((*a.shape[:-1], 1))], -1)
    shape = (*g.shape[:-2], g.shape[-1] * a.shape[-1])
    return [np.einsum("...ncto,...nti->...ncoi", *pair).reshape(shape) for pair in ((g, a), (np.abs(g), np.abs(a)))]


def _gram(left, right, trace):
    return np.einsum("...ncp,...mcp->...nm" if trace else "...ncp,...mep->...ncme", left, right)


def _sides(draw, dtype, batch, t, d_in, c, d_out, least=0):
    n = draw.size(least, 8)
    return draw.values(*batch, n, t, d_in, dtype=dtype), draw.values(*batch, n, c, t, d_out, dtype=dtype)


def _gram_arguments(draw):
    dtype, bias = draw.dtype(halves=True), draw.chance(0.5)
    batch = (2,) if draw.chance(0.2) else ()
    sizes = (draw.size(1, 5), draw.size(0 if bias else 1, 17), draw.size(0, 5), draw.size(0, 17))
    a1, g1 = _sides(draw, dtype, batch, *sizes)
    a2, g2 = _sides(draw, dtype, batch, *sizes) if draw.chance(0.5) else (None, None)
    return a1, g1, a2, g2, bias, draw.chance(0.5), draw.chance(0.5)


def _peak(args):
    """The largest product of the halves that a kernel may multiply before the other half makes it small again."""
    a = max((float(np.abs(wide(t)).max(initial=1)) for t in args[::2] if t is not None), default=1)
    g = max((float(np.abs(wide(t)).max(initial=1)) for t in args[1::2] if t is not None), default=1)
    return a, g


_BOUND = "4 (t (d_in + d_out) + 8) eps Σ|terms|"


def _floor(peak, dtype, terms):
    a, g = peak
    return float(torch.finfo(dtype).tiny) * terms * (1 + a * a + g * g + a * g)


@op(_gram_arguments, _BOUND)
def ntk_linear_gram(args, got):
    a1, g1, a2, g2, bias, trace, _ = args
    a2, g2 = (a1, g1) if a2 is None else (a2, g2)
    if not is_finite(args):
        return 0.0
    peak = _peak((a1, g1, a2, g2))
    kept = got[0].dtype
    units = 4 * (a1.shape[-2] * (a1.shape[-1] + g1.shape[-1]) + 8) * max(1, g1.shape[-3] if trace else 1)
    if max(peak) ** 2 * units > float(torch.finfo(kept).max) or peak[0] ** 2 * peak[1] ** 2 * units > float(
        torch.finfo(kept).max
    ):
        return 0.0
    left, right = _jacobian(a1, g1, bias), _jacobian(a2, g2, bias)
    expected, scale = (_gram(left[i], right[i], trace) for i in (0, 1))
    return worst(got[0], expected, scale, units, floor=_floor(peak, kept, units * g1.shape[-1] + 1))


def _layers_arguments(draw):
    dtype, trace, two = draw.dtype(), draw.chance(0.5), draw.chance(0.5)
    c, layers = draw.size(1, 5), draw.size(1, 3)
    n, m = draw.size(0, 8), draw.size(0, 8)
    a1, g1, a2, g2, bias, route = [], [], [], [], [], []
    for _ in range(layers):
        ones, one_hot = draw.chance(0.5), draw.chance(0.2)
        t, d_in, d_out = draw.size(1, 5), 1 if one_hot else draw.size(0 if ones else 1, 17), draw.size(0, 17)

        def activations(rows, t=t, d_in=d_in, one_hot=one_hot):
            return draw.integers(0, 5, rows, t, 1).to(dtype) if one_hot else draw.values(rows, t, d_in, dtype=dtype)

        a1.append(activations(n))
        g1.append(draw.values(n, c, t, d_out, dtype=dtype))
        if two:
            a2.append(activations(m))
            g2.append(draw.values(m, c, t, d_out, dtype=dtype))
        bias.append(int(ones) + 2 * int(one_hot))
        route.append(0 if one_hot else int(draw.chance(0.5)))
    kept, accumulate = 1 if trace else c, draw.chance(0.5)
    columns, mirror = m if two else n, two and draw.chance(0.5)
    row, col = draw.number(0, 3), draw.number(0, 3)
    if not two:
        col = row
    elif mirror:
        col = row + n
    rows = max(row + n, col + columns) + 1
    out = torch.zeros(rows, kept, rows, kept, dtype=dtype) + (1 if accumulate else 0)
    return out, a1, g1, a2, g2, bias, route, trace, accumulate, row, col, mirror


@op(_layers_arguments, f"{_BOUND}, summed over layers", mutates=(0,))
def ntk_layers_gram_(args, got):
    out, a1, g1, a2, g2, bias, _, trace, accumulate, row, col, mirror = args
    if not is_finite((*a1, *g1, *a2, *g2)):
        return 0.0
    expected, scale, units, floor = 0, 0, 16 * len(a1), 0.0
    for i, (a, g) in enumerate(zip(a1, g1, strict=True)):
        other = (a2[i], g2[i]) if a2 else (a, g)
        peak, one_hot = _peak((a, g, *other)), 5 if bias[i] & 2 else 0
        units += 4 * (a.shape[1] * (a.shape[2] + g.shape[3]) + 8) * (g.shape[1] if trace else 1)
        if max(peak) ** 4 * units > float(torch.finfo(out.dtype).max):
            return 0.0
        left, right = _jacobian(a, g, bias[i] & 1, one_hot), _jacobian(*other, bias[i] & 1, one_hot)
        expected, scale = expected + _gram(left[0], right[0], trace), scale + _gram(left[1], right[1], trace)
        floor += _floor(peak, out.dtype, units * g.shape[3] + 1)
    if trace:
        expected, scale = (t[:, None, :, None] for t in (expected, scale))
    whole, sizes = wide(out).copy(), np.abs(wide(out))
    n, m = expected.shape[0], expected.shape[2]
    place = (slice(row, row + n), slice(None), slice(col, col + m))
    if accumulate:
        expected, scale = expected + whole[place], scale + sizes[place]
    whole[place], sizes[place] = expected, scale
    if mirror:
        place = (slice(col, col + m), slice(None), slice(row, row + n))
        whole[place], sizes[place] = (t.transpose(2, 3, 0, 1) for t in (expected, scale))
    return worst(got[0], whole, sizes, units, floor=floor)
