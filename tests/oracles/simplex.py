"""6j and 3j symbols from Racah's sums in exact integers, weights from points of R⁴."""

import functools
import itertools
import math

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import op
from tests.reference import simplex as reference

EPS = np.finfo(np.float64).eps
_SYMBOL_BOUND = "16 eps (|symbol| + 1 / √(2 j + 1)), j the largest spin"


def _root(numerator, denominator):
    """The square root of a fraction of big integers, in the widest float."""
    shift = max(0, 140 - numerator.bit_length() + denominator.bit_length())
    shift += shift % 2
    root = math.isqrt((numerator << shift) // denominator) if numerator else 0
    digits = max(0, root.bit_length() - 63)
    return np.ldexp(np.longdouble(root >> digits), digits - shift // 2)


def _triangle(a, b, c):
    """Of doubled spins a, b, c: a+b-c, a-b+c, -a+b+c and a+b+c, halved; None where there is no triangle."""
    if (a + b + c) % 2 or a + b < c or abs(a - b) > c:
        return None
    return (a + b - c) // 2, (a - b + c) // 2, (-a + b + c) // 2, (a + b + c) // 2


@functools.lru_cache(1 << 18)
def _sixj(j1, j2, j3, l1, l2, l3):
    triangles = [_triangle(*t) for t in ((j1, j2, j3), (j1, l2, l3), (l1, j2, l3), (l1, l2, j3))]
    if None in triangles:
        return np.longdouble(0)
    low = [t[3] for t in triangles]
    high = ((j1 + j2 + l1 + l2) // 2, (j2 + j3 + l2 + l3) // 2, (j3 + j1 + l3 + l1) // 2)
    f, c, (a12, a13, a23, _) = math.factorial, math.comb, triangles[0]
    # Racah's sum, its factorials gathered into binomials: whole numbers
    total = sum(
        (-1) ** t * c(t + 1, t - low[0]) * c(a12, t - low[3]) * c(a13, t - low[2]) * c(a23, t - low[1])
        for t in range(max(low), min(high) + 1)
    )
    deltas = [(math.prod(map(f, t[:3])), f(t[3] + 1)) for t in triangles]  # Δ² of each, numerator and denominator
    numerator = total**2 * deltas[0][1] * math.prod(d[0] for d in deltas[1:])
    root = _root(numerator, deltas[0][0] * math.prod(d[1] for d in deltas[1:]))
    return root if total > 0 else -root


@functools.lru_cache(1 << 18)
def _threej(j1, j2, j3, m1, m2, m3):
    triangle = _triangle(j1, j2, j3)
    if triangle is None or m1 + m2 + m3 or any(abs(m) > j or (j + m) % 2 for j, m in ((j1, m1), (j2, m2), (j3, m3))):
        return np.longdouble(0)
    f, c, (a12, a13, a23, whole) = math.factorial, math.comb, triangle
    up, down = (j1 - m1) // 2, (j2 + m2) // 2
    total = sum((-1) ** t * c(a12, t) * c(a13, up - t) * c(a23, down - t) for t in range(min(a12, up, down) + 1))
    numerator = total**2 * math.prod(f((j + m) // 2) * f((j - m) // 2) for j, m in ((j1, m1), (j2, m2), (j3, m3)))
    root = _root(numerator, f(a12) * f(a13) * f(a23) * f(whole + 1))
    return root if (total > 0) == ((j1 - j2 - m3) % 4 == 0) else -root


def _ratio(got, expected, largest):
    """A symbol is one entry of a normalised family: an error beside 1 / sqrt of the dimension, and of the symbol."""
    got, expected = wide(got), np.asarray(expected, dtype=np.longdouble)
    bound = 16 * EPS * (np.abs(expected) + 1 / np.sqrt(np.longdouble(largest) + 1))
    return float((np.abs(got - expected) / bound).max(initial=0))


def _spins(draw, rows):
    most = draw.choice((2, 6, 12, 20, 20, 60, 400 if draw.chance(0.2) else 20))
    return draw.integers(0, most + 1, rows, draw.size(0, 17 if most < 60 else 4))


@op(lambda draw: (_spins(draw, 6),), _SYMBOL_BOUND)
def simplex_sixj(args, got):
    return _ratio(got[0], [_sixj(*s) for s in args[0].T.tolist()], int(args[0].max()) if args[0].numel() else 0)


def _threej_arguments(draw):
    spins = _spins(draw, 6)
    if draw.chance(0.8):  # mostly what exists
        for i in range(3):
            spins[3 + i] = 2 * (draw.integers(0, 1 << 20, spins.shape[1]) % (spins[i] + 1)) - spins[i]
        spins[5] = -spins[3] - spins[4]
    return (spins,)


@op(_threej_arguments, _SYMBOL_BOUND)
def simplex_threej(args, got):
    return _ratio(got[0], [_threej(*s) for s in args[0].T.tolist()], int(args[0][:3].max()) if args[0].numel() else 0)


def _family_arguments(draw):
    spins = _spins(draw, 5)
    return spins, draw.number(0, 4) + 1 + (int(spins.max()) if spins.numel() else 0)


@op(_family_arguments, _SYMBOL_BOUND)
def simplex_sixj_family(args, got):
    spins, width = args
    first, values = got
    ratio = 0.0
    for i, (j2, j3, l1, l2, l3) in enumerate(spins.T.tolist()):
        start, last = max(abs(j2 - j3), abs(l2 - l3)), min(j2 + j3, l2 + l3)
        expected = [_sixj(x, j2, j3, l1, l2, l3) for x in range(start, last + 1, 2)]
        expected = expected if any(expected) else []
        assert not expected or int(first[i]) == start
        whole = np.zeros(width, dtype=np.longdouble)
        whole[: len(expected)] = expected
        ratio = max(ratio, _ratio(values[i], whole, max(j2, j3, l1, l2, l3)))
    return ratio


def _blocks_ratio(blocks, limit, values, offsets):
    expected = []
    assert offsets[0] == 0
    for i, (a, b, c, d) in enumerate(blocks.T.tolist()):
        rows = range(max(abs(a - b), abs(c - d)), min(a + b, c + d, limit) + 1, 2)
        cols = range(max(abs(a - d), abs(c - b)), min(a + d, c + b, limit) + 1, 2)
        whole = (a + b + c + d) % 2 == 0
        expected += [_sixj(x, a, b, y, c, d) for x, y in itertools.product(rows, cols)] if whole else []
        assert offsets[i + 1] == len(expected)
    return _ratio(values, expected, 1)


@op(
    lambda draw: (draw.integers(0, draw.choice((3, 7, 13)), 4, draw.size(0, 5)), int(draw.choice((0, 3, 8, 40)))),
    _SYMBOL_BOUND,
)
def simplex_sixj_blocks(args, got):
    blocks, limit = args
    return _blocks_ratio(blocks, limit, got[0], got[1].tolist())


def _table_arguments(draw):
    largest = int(draw.choice((0, 1, 3, 6, 8)))
    cursor = draw.number(0, (largest + 1) ** 3)
    return torch.tensor(cursor), largest, int(draw.choice((1, 40, 2000)))


@op(_table_arguments, _SYMBOL_BOUND)
def simplex_sixj_table(args, got):
    cursor, largest, _ = args
    blocks, offsets, values, following = got
    assert int(following) == -1 or int(cursor) < int(following) < (largest + 1) ** 3
    return _blocks_ratio(blocks, largest, values, offsets.tolist())


def _simplices(draw):
    n = draw.size(0, 3)
    points = draw.rng.standard_normal((n, 5, 4))
    if draw.chance(0.3):
        points[..., 3] *= 1e-3  # nearly flat
    elif draw.chance(0.1) and n:
        points[:, 1] = points[:, 0] + 1e-4 * points[:, 1]  # a short edge
    points *= 10.0 ** (0 if draw.tame else draw.number(-6, 7))
    return points, draw.integers(-3, 4, n, 10).double()


def _weight_arguments(draw):
    points, labels = _simplices(draw)
    squared = draw.chance(0.4)
    lengths = np.array([reference.lengths(p) for p in points]).reshape(-1, 10)
    lengths = torch.from_numpy((lengths**2 if squared else lengths).astype(float))
    if not draw.tame and draw.chance(0.2):
        lengths = draw.values(*lengths.shape)
    return lengths, labels, squared


def _dihedral(lengths, labels, squared):
    """Action, log volume, and the condition of the determinant, from the Gram matrix of edges in the widest float."""
    d = wide(lengths) if squared else wide(lengths) ** 2
    square = np.zeros((len(d), 5, 5), dtype=np.longdouble)
    for e, (i, j) in enumerate(reference.PAIRS):
        square[:, i, j] = square[:, j, i] = d[:, e]
    return d, square


def _points_of(square):
    """Corners of one simplex from its squared lengths: Cholesky by hand, None where there is none."""
    gram = (square[0, 1:, None] + square[0, None, 1:] - square[1:, 1:]) / 2
    root = np.zeros((4, 4), dtype=np.longdouble)
    for i in range(4):
        for j in range(i + 1):
            rest = gram[i, j] - root[i, :j] @ root[j, :j]
            if i == j and not rest > 0:
                return None
            root[i, j] = np.sqrt(rest) if i == j else rest / root[j, j]
    return np.concatenate([np.zeros((1, 4), dtype=np.longdouble), root])


def _each(args):
    lengths, labels, squared = args
    d, square = _dihedral(lengths, labels, squared)
    for i in range(len(d)):
        scale = d[i].max()
        if not np.isfinite(d[i]).all() or not (d[i] > 0).all():
            yield i, None, None
            continue
        points = _points_of(square[i] / scale)
        condition = np.inf if points is None else 1 / np.prod(np.diag(points[1:])) ** 2
        yield i, (None if condition * EPS > 1e-6 else points * np.sqrt(scale)), condition


@op(_weight_arguments, "400 eps L⁸ / (4! V)², L the longest edge")
def simplex_weight4(args, got):
    ratio = 0.0
    for i, points, condition in _each(args):
        if points is None:
            continue
        action, volume = reference.weight(points, wide(args[1])[i])
        bound = 400 * EPS * condition
        log_volume = np.log(volume)
        size = 1 + float(np.abs(wide(args[1])[i]).sum())
        ratio = max(ratio, float(abs(wide(got[0])[i] - action) / bound / size))
        ratio = max(ratio, float(abs(wide(got[1])[i] - log_volume) / (bound + 4 * EPS * abs(log_volume))))
    return ratio


def _weight_backward_arguments(draw):
    lengths, labels, squared = _weight_arguments(draw)
    return (
        lengths,
        labels,
        draw.integers(-2, 3, len(lengths)).double(),
        draw.integers(-2, 3, len(lengths)).double(),
        squared,
    )


@op(_weight_backward_arguments, "4000 eps L¹⁶ / (4! V)⁴ along a motion of the corners, L the longest edge")
def simplex_weight4_backward(args, got):
    lengths, labels, by_action, by_log, squared = args
    rng, ratio = np.random.default_rng(len(lengths)), 0.0
    for i, points, condition in _each((lengths, labels, squared)):
        if points is None or condition > 1e4:
            continue
        scale, label = np.abs(points).max(), wide(labels)[i]
        step, motion = np.longdouble(1e-5), rng.standard_normal(points.shape)
        ends = [points + sign * step * scale * motion for sign in (-1, 1)]
        weights = [reference.weight(p, label) for p in ends]
        of = [(float(by_action[i]) * s + float(by_log[i]) * np.log(v)) for s, v in weights]
        edges = [reference.lengths(p) ** (2 if squared else 1) for p in ends]
        slope, moved = (of[1] - of[0]) / (2 * step), wide(got[0])[i] @ ((edges[1] - edges[0]) / (2 * step))
        size = 1 + float(np.abs(label).sum())
        bound = (4000 * EPS * condition**2 + 1e-8 * condition**2) * size  # 1e-8: of the central difference
        ratio = max(ratio, float(abs(slope - moved) / bound))
        through = wide(got[1])[i] @ label * (1 if by_action[i] else 0)
        ratio = max(ratio, float(abs(through - float(by_action[i]) * reference.weight(points, label)[0]) / bound))
    return ratio
