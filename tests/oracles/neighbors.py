"""Neighbours, counts and clusters: tables of distances in the widest float, ties within the rounding of a distance."""

import numpy as np
import torch

from tests.checks import assert_same_neighbors, wide
from tests.oracles.registry import op

METRICS = ("euclidean", "euclidean", "sqeuclidean", "cosine", "ip", "chebyshev")


def _table(x, y, metric):
    """[n, m] distances, lower is nearer, and the absolute error that rounding may give each."""
    eps = np.finfo(np.float64).eps
    x, y = wide(x), wide(y)
    d = x.shape[1]
    vanishes = 1e-158 * max(np.abs(t).max(initial=0) for t in (x, y))  # its square, beside that of the largest entry
    if metric == "ip":
        size = np.abs(x) @ np.abs(y).T
        return -(x @ y.T), (d + 4) * eps * size + vanishes**2
    if metric == "cosine":
        norms = [np.sqrt((t**2).sum(1, keepdims=True)) for t in (x, y)]
        known = [n >= 1 / np.finfo(np.float64).max for n in norms]  # the inverse of a shorter one overflows
        x, y = (np.divide(t, n, out=np.zeros_like(t), where=k) for t, n, k in zip((x, y), norms, known, strict=True))
        table = ((x[:, None] - y) ** 2).sum(2) / 2
        table[~known[0][:, 0]] = table[:, ~known[1][:, 0]] = 1
        return table, (d + 8) * eps * (table + 4 * np.sqrt(table) + 4 * eps)  # of unit rows that were rounded
    if metric == "chebyshev":
        table = np.abs(x[:, None] - y).max(2, initial=0)
        return table, 2 * eps * table
    table = ((x[:, None] - y) ** 2).sum(2)
    if metric == "sqeuclidean":
        return table, (d + 4) * eps * table + vanishes**2
    return np.sqrt(table), (d + 4) * eps * np.sqrt(table) + vanishes


def _own_type(table, slack, dtype):
    """The error of a distance once it is rounded to the type of the result."""
    limits = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32)
    return slack + limits.eps * np.abs(table) + float(limits.tiny), float(limits.max)


def _search_ratio(found, table, slack, dtype):
    if len(table) == 0:
        return 0.0
    allowed, most = _own_type(table, slack, dtype)
    finite = table[np.isfinite(table)]
    if finite.size and np.abs(finite).max() > most / 4:
        return 0.0  # squares that the type of the result does not hold
    distances, indices = wide(found[0]), np.asarray(found[1])
    there = indices >= 0
    own, room = (np.take_along_axis(t, np.maximum(indices, 0), 1)[there] for t in (table, allowed))
    ratio = float((np.abs(distances[there] - own) / room).max(initial=0)) if own.size else 0.0
    room = float(np.where(np.isfinite(table), allowed, 0).max(initial=0))
    assert_same_neighbors(found, table, relative=1e-30, absolute=2 * room)
    return ratio


def _without(table, *, diagonal=False, causal=False, columns=None):
    table = table.copy()
    if diagonal:
        np.fill_diagonal(table, np.inf)
    if causal:
        table[~np.tri(len(table), k=-1, dtype=bool)] = np.inf
    if columns is not None:
        table[:, ~columns] = np.inf
    return table


def _neighbors(draw, most):
    return draw.number(1, min(draw.choice((1, 8, 8, 8, 40)), most) + 1)


def _search_arguments(draw):
    dtype, d = draw.dtype(halves=True), draw.size()
    n = draw.size(2)
    batch = (draw.size(1, 3),) if draw.chance(0.2) else ()
    x, metric = draw.values(*batch, n, d, dtype=dtype), draw.choice(METRICS)
    if draw.chance(0.5):
        y = draw.values(*batch, draw.size(1), d, dtype=dtype)
        return x, _neighbors(draw, y.shape[-2]), y, metric, False, False
    exclude_self, causal = draw.chance(0.5), draw.chance(0.3)
    most = n - (exclude_self or causal)
    return x, _neighbors(draw, most), None, metric, exclude_self, causal


_DISTANCE_BOUND = "(d + 4) eps64 of a distance (and 1e-158 of the largest entry), rounded once to its type; the nearest within twice that"


@op(_search_arguments, _DISTANCE_BOUND, finite=True)
def neighbors_knn(args, got):
    x, _, y, metric, exclude_self, causal = args
    ratio = 0.0
    batches = (t.reshape(t.shape[:-2].numel(), *t.shape[-2:]) for t in (x, x if y is None else y, *got))
    for a, b, distances, indices in zip(*batches, strict=True):
        table, slack = _table(a, b, metric)
        table = _without(table, diagonal=exclude_self, causal=causal)
        found = (-distances if metric == "ip" else distances, indices)
        ratio = max(ratio, _search_ratio(found, table, slack, x.dtype))
    return ratio


def _route_arguments(draw):
    x, k, y, *rest = _search_arguments(draw)
    return (x, k, y, *rest) if x.ndim == 2 else (x[0], k, None if y is None else y[0], *rest)


@op(_route_arguments, "exact")
def neighbors_knn_route(_, got):
    assert 0 <= int(got[0]) <= 2
    return 0.0


def _pass_arguments(draw):
    x = draw.values(draw.size(2), draw.size(), dtype=draw.dtype(halves=True))
    return x, _neighbors(draw, len(x) - 1), draw.mask(len(x)) if draw.chance(0.5) else None


@op(_pass_arguments, _DISTANCE_BOUND, finite=True)
def neighbors_knn_pass(args, got):
    x, _, train = args
    if len(x) == 0:
        return 0.0
    table, slack = _table(x, x, "euclidean")
    ratio = _search_ratio(got[:2], _without(table, diagonal=True), slack, x.dtype)
    ratio = max(ratio, _search_ratio(got[2:4], _without(table, causal=True), slack, x.dtype))
    if train is not None:
        held = ~np.asarray(train)
        lists = [t[torch.from_numpy(held)] for t in got[4:]]
        ratio = max(ratio, _search_ratio(lists, _without(table, columns=~held)[held], slack[held], x.dtype))
    return ratio


def _both_arguments(draw):
    dtype, d = draw.dtype(halves=True), draw.size()
    x, y = (draw.values(draw.size(), d, dtype=dtype) for _ in range(2))
    k, metric = _neighbors(draw, 40), draw.choice(METRICS)
    if draw.chance(0.5):
        return x, y, k, metric
    wide = torch.promote_types(dtype, torch.float32)
    return x, y, k, metric, *(draw.values(len(side), dtype=wide) for side in (x, y))


@op(_both_arguments, _DISTANCE_BOUND, finite=True)
def neighbors_knn_both(args, got):
    x, y, k, metric, *reach = args
    sign = -1 if metric == "ip" else 1
    if reach:  # what is there without, but for what lies beyond
        whole = torch.ops.gramian.neighbors_knn_both(*args[:4])
        for side, limit in enumerate(reach):
            distances, indices = whole[2 * side : 2 * side + 2]
            beyond = torch.zeros_like(indices, dtype=torch.bool)
            if limit is not None:
                beyond = sign * distances > sign * limit[:, None]
            assert torch.equal(got[2 * side], distances.masked_fill(beyond, sign * torch.inf))
            assert torch.equal(got[2 * side + 1], indices.masked_fill(beyond, -1))
        got = whole
    ratio = 0.0
    for (a, b), found in (((x, y), got[:2]), ((y, x), got[2:])):
        table, slack = _table(a, b, metric)
        padding = ((0, 0), (0, max(0, k - len(b))))  # columns that nobody may take
        table, slack = (np.pad(t, padding, constant_values=v) for t, v in ((table, np.inf), (slack, 0)))
        ratio = max(ratio, _search_ratio((sign * found[0], found[1]), table, slack, x.dtype))
    return ratio


def _merge_arguments(draw):
    dtype, rows, largest = draw.dtype(), draw.size(), draw.chance(0.5)
    lists = []
    for _ in range(2):
        distances = draw.values(rows, draw.size(0, 8), dtype=dtype).sort(1, descending=largest).values
        lists += [distances, draw.integers(0, 100, *distances.shape).sort(1).values]
    return *lists, draw.number(0, lists[0].shape[1] + lists[2].shape[1] + 1), largest


@op(_merge_arguments, "exact")
def neighbors_knn_merge(args, got):
    *lists, k, largest = args
    if not all(torch.equal(t, t.sort(1, descending=largest).values) for t in lists[::2]):
        return 0.0  # not sorted, as lists are: a NaN, or rows that share memory
    distances, indices = (torch.cat([lists[i], lists[i + 2]], 1) for i in (0, 1))
    expected = distances.sort(1, descending=largest).values[:, :k]
    assert torch.equal(got[0], expected), "not the nearest of both"
    for row, (d, i) in enumerate(zip(distances.tolist(), indices.tolist(), strict=True)):
        assert set(zip(got[0][row].tolist(), got[1][row].tolist(), strict=True)) <= set(zip(d, i, strict=True))
    return 0.0


def _count_arguments(draw):
    dtype, d = draw.dtype(halves=True), draw.size()
    x = draw.values(draw.size(1), d, dtype=dtype)
    y = draw.values(draw.size(), d, dtype=dtype) if draw.chance(0.5) else None
    metric = draw.choice([m for m in METRICS if m != "ip"])
    table, _ = _table(x, x if y is None else y, metric)
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    radius = draw.values(len(x), dtype=kept)
    if table.size and draw.chance(0.7):  # some that tie with a distance
        with np.errstate(over="ignore", invalid="ignore"):
            radius = torch.from_numpy(np.asarray(table[:, draw.number(0, table.shape[1])], dtype=float)).to(kept)
    return x, radius, y, metric, y is None and draw.chance(0.5)


@op(_count_arguments, "exact but for rows within (d + 8) eps64 of the radius", finite=True)
def neighbors_count_within(args, got):
    x, radius, y, metric, exclude_self = args
    table, slack = _table(x, x if y is None else y, metric)
    allowed, most = _own_type(table, slack, x.dtype)
    if table.size and np.abs(table).max() > most / 4:
        return 0.0
    if y is None:
        np.fill_diagonal(table, np.nan if exclude_self else 0)  # a row lies on itself, even where it has no direction
    allowed = np.where(np.isfinite(table), 2 * allowed, 0)
    r = wide(radius)[:, None]
    least, most = ((table <= r + sign * allowed).sum(1) for sign in (-1, 1))
    counts = np.asarray(got[0])
    assert ((least <= counts) & (counts <= most)).all(), "a row is counted that is not within the radius, or one is not"
    return 0.0


def _wider(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def _assign_arguments(draw):
    dtype, d = draw.dtype(halves=True), draw.size()
    return draw.values(draw.size(), d, dtype=dtype), draw.values(draw.size(1), d, dtype=_wider(dtype))


@op(_assign_arguments, _DISTANCE_BOUND, finite=True)
def neighbors_assign(args, got):
    x, centers = args
    table, slack = _table(x, centers, "sqeuclidean")
    return _search_ratio([t[:, None] for t in got], table, slack, x.dtype)


def _kmeans_arguments(draw):
    dtype, d, n = draw.dtype(halves=True), draw.size(0, 17), draw.size(1)
    x = draw.values(n, d, dtype=dtype)
    init = x[draw.integers(0, n, draw.size(1, min(n, 8)))].to(_wider(dtype)) if draw.chance(0.7) else None
    init = draw.values(draw.size(1, min(n, 8)), d, dtype=_wider(dtype)) if init is None else init
    weights = draw.integers(0, 4, n).double() if draw.chance(0.3) else None
    if weights is not None:
        weights[0] = max(1, weights[0])  # of all rows, where they share memory
    return x, init, weights, draw.size(1, 17), draw.choice((0.0, 1e-4)), draw.chance(0.2), draw.chance(0.7)


@op(
    _kmeans_arguments, "each label is that of a nearest centre, within twice (d + 4) eps64 of its distance", finite=True
)
def neighbors_kmeans(args, got):
    x, _, weights, max_iter, *_ = args
    centers, labels, inertia, n_iter = got
    assert torch.isfinite(centers).all()
    assert 1 <= int(n_iter) <= max_iter
    table, slack = _table(x, centers, "sqeuclidean")
    own = np.take_along_axis(table, np.asarray(labels)[:, None], 1)
    allowed, most = _own_type(table, slack, torch.float64)
    if table.max(initial=0) > most / 4 or table.max(initial=0) > 1e300:
        return 0.0
    assert (own - table <= 2 * (allowed + np.take_along_axis(allowed, np.asarray(labels)[:, None], 1))).all(), (
        "not nearest"
    )
    w = 1 if weights is None else wide(weights)
    expected = (w * own[:, 0]).sum()
    bound = (x.shape[1] + x.shape[0] + 8) * np.finfo(float).eps * expected + np.finfo(float).tiny
    return float(abs(wide(inertia) - expected) / bound)


def _plus_plus_arguments(draw):
    x = draw.values(draw.size(1), draw.size(0, 17), dtype=draw.dtype(halves=True))
    uniforms = torch.from_numpy(draw.rng.random((draw.size(1, min(len(x), 8)), draw.size(1, 4))))
    weights = draw.integers(1, 4, len(x)).double() if draw.chance(0.3) else None
    return x, uniforms, weights


@op(_plus_plus_arguments, "exact: rows of x, each at most once while any lies apart from those chosen", finite=True)
def neighbors_kmeans_plus_plus(args, got):
    x, uniforms, _ = args
    chosen = np.asarray(got[0])
    assert chosen.shape == (len(uniforms),)
    assert ((chosen >= 0) & (chosen < len(x))).all()
    rows = wide(x)[chosen]
    peak = float(np.abs(wide(x)).max(initial=0))
    spread = float(np.abs(wide(x) - wide(x)[:1]).max(initial=0))
    if len(np.unique(wide(x), axis=0)) == len(x) and spread > 1e-2 * peak and peak < 1e10 and spread > 1e-10:
        assert len(np.unique(rows, axis=0)) == len(rows), "a row was chosen twice while others were left"
    return 0.0
