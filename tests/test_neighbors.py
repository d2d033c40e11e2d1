"""knn against a plain float64 reference, known values, peers, and what it promises."""

import functools

import pytest
import torch

from gramian import _C
from gramian.neighbors import knn, knn_both, knn_pass
from gramian.neighbors._knn import merge
from tests.checks import assert_same_neighbors, check_thread_counts_agree, refuses
from tests.reference.neighbors import distance_table

METRICS = ["euclidean", "sqeuclidean", "cosine", "chebyshev", "ip"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MODES = {"self": {}, "exclude self": {"exclude_self": True}, "causal": {"causal": True}, "queries": {}}
# n, m, d, k. Tiles are 4 to 12 rows by 8 to 32 columns, a block 96 rows, a slab 256 or 512 features.
SIZES = [
    (2, 1, 1, 1),
    (2, 3, 3, 1),
    (3, 2, 600, 2),
    (11, 31, 5, 3),
    (12, 32, 16, 10),
    (13, 33, 17, 12),
    (33, 13, 513, 5),
    (97, 95, 7, 40),
    (191, 193, 4, 2),
]


def rows(*shape, seed=0, dtype=torch.float32):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype)


def check(x, k, y=None, *, metric="euclidean", exact=False, **mode):
    """Knn of these rows is right. Distances are rounded once (float64: added up in another order than the reference)."""
    found = knn(x, k, y, metric=metric, **mode)
    assert found.indices.dtype == torch.int64
    assert found.distances.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    table = distance_table(x, y, metric=metric, **mode)
    distances = -found.distances if metric == "ip" else found.distances
    eps = torch.finfo(found.distances.dtype).eps
    tolerance = {}
    if not exact:
        size = x.shape[-1] * 2.0**-52  # d roundings of float64
        tolerance = {"relative": eps + size, "absolute": size if metric == "cosine" else 0.0}
        if metric == "ip":
            largest = x.double().norm(dim=1).max() * (x if y is None else y).double().norm(dim=1).max()
            tolerance["absolute"] = size * float(largest)
    assert_same_neighbors((distances, found.indices), table, **tolerance)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_knn_equals_the_reference(isa, dtype, metric, mode):
    for n, m, d, k in SIZES:
        x = rows(n, d, dtype=dtype)
        y = rows(m, d, seed=1, dtype=dtype) if mode == "queries" else None
        check(x, min(k, m if mode == "queries" else n - 1), y, metric=metric, **MODES[mode])


@pytest.mark.parametrize("k", [1, 15, 16, 17, 49])
def test_knn_of_every_k_up_to_all_other_rows(isa, k):
    check(rows(50, 9), k, exclude_self=True)
    check(rows(50, 9), k, causal=True)


def test_knn_of_no_rows_and_of_no_features(isa):
    distances, indices = knn(torch.empty(0, 3), 2)
    assert distances.shape == indices.shape == (0, 2)
    distances, indices = knn(torch.empty(0, 4, 3, dtype=torch.float64), 2)
    assert distances.shape == indices.shape == (0, 4, 2)
    assert knn(torch.empty(0, 3), 2, torch.empty(5, 3)).indices.shape == (0, 2)
    check(torch.empty(4, 0), 2, exact=True)
    assert knn(torch.ones(1, 3), 1).indices.tolist() == [[0]]


# ---- Known values ----


@functools.cache
def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.from_numpy(data.data).float(), torch.from_numpy(data.target)


def test_knn_of_the_digits_has_its_known_sums(isa):
    x, labels = digits()
    near = knn(x, 10, metric="sqeuclidean", exclude_self=True)
    table = distance_table(x[::9], x, metric="sqeuclidean")
    table[torch.arange(200), torch.arange(0, 1797, 9)] = torch.inf
    assert_same_neighbors((near.distances[::9], near.indices[::9]), table)
    sums = [509796, 622626, 697012, 756957, 807572, 850717, 889821, 927361, 962924, 993833]
    assert near.distances.double().sum(0).tolist() == sums
    assert near.indices[:, 0].sum() == 1612000
    assert (labels[near.indices[:, 0]] == labels).sum() == 1776

    past = knn(x, 1, metric="sqeuclidean", causal=True)
    assert past.indices[0] == -1
    assert past.distances[1:].double().sum() == 658098
    assert past.indices[1:].sum() == 1086658
    assert (labels[past.indices[1:, 0]] == labels[1:]).sum() == 1746


def test_the_nearer_of_past_and_future_is_the_nearest_of_all():
    x = rows(300, 6)
    past = knn(x, 1, causal=True).distances
    future = knn(x.flip(0), 1, causal=True).distances.flip(0)
    assert torch.equal(torch.minimum(past, future), knn(x, 1, exclude_self=True).distances)


def test_fewer_neighbours_are_the_first_of_more():
    x = rows(300, 6)
    for few, many in zip(knn(x, 3), knn(x, 40), strict=True):
        assert torch.equal(few, many[:, :3])


def test_knn_does_not_change_under_translation_and_follows_a_permutation():
    x = torch.randint(0, 9, (200, 5), generator=torch.Generator().manual_seed(0)).float()
    near = knn(x, 5)
    for a, b in zip(knn(x + 2**20, 5), near, strict=True):
        assert torch.equal(a, b)
    y = rows(200, 5)  # no ties: those follow the order of the rows
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[knn(y[order], 5).indices], knn(y, 5).indices[order])


def test_cosine_of_unit_rows_is_half_the_squared_distance():
    x = torch.nn.functional.normalize(rows(100, 8, dtype=torch.float64))
    cosine, squared = knn(x, 5, metric="cosine"), knn(x, 5, metric="sqeuclidean")
    torch.testing.assert_close(cosine.distances, squared.distances / 2, rtol=1e-12, atol=1e-15)  # rows are unit to eps
    assert torch.equal(cosine.indices, squared.indices)


# ---- Data that break the expanded formula, or tie ----


def test_knn_of_equal_rows_goes_by_the_index(isa):
    for metric in METRICS:
        near = knn(torch.full((150, 5), 0.1), 3, metric=metric)
        assert (near.indices == torch.tensor([0, 1, 2])).all()
    check(torch.ones(150, 5), 20, exact=True, exclude_self=True)
    check(torch.ones(150, 5), 20, exact=True, causal=True)


def test_knn_of_integers_with_many_ties(isa):
    x = torch.randint(0, 3, (400, 4), generator=torch.Generator().manual_seed(0))
    for dtype in DTYPES:
        for mode in ({}, {"exclude_self": True}, {"causal": True}):
            for metric in ("sqeuclidean", "ip"):
                check(x.to(dtype), 12, metric=metric, exact=True, **mode)
        check(x[:50].to(dtype), 12, x[30:].to(dtype), metric="sqeuclidean", exact=True)


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_knn_far_from_the_origin(isa, offset):
    x = rows(300, 32) + offset
    check(x, 5, exclude_self=True)
    check(x, 5, rows(200, 32, seed=1) + offset)


def test_knn_of_tight_clusters_that_are_far_apart(isa):
    centers = 1e3 * rows(6, 16)
    x = (centers.repeat(60, 1) + 1e-3 * rows(360, 16, seed=1)).contiguous()
    for mode in ({"exclude_self": True}, {"causal": True}):
        for metric in METRICS:
            check(x, 7, metric=metric, **mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_knn_of_huge_and_tiny_values(isa, dtype):
    huge, tiny = (1e30, 1e-30) if dtype == torch.float32 else (1e150, 1e-200)
    x = rows(100, 8, dtype=dtype)
    near = knn(x, 4)
    for scale in (huge, tiny):
        scaled = knn(scale * x, 4)
        torch.testing.assert_close(scaled.distances / scale, near.distances)
        assert torch.equal(scaled.indices, near.indices)
    cosine = knn(huge * x, 4, metric="cosine")
    assert torch.equal(cosine.indices, knn(x, 4, metric="cosine").indices)


@pytest.mark.parametrize("metric", METRICS)
def test_one_huge_row_does_not_blur_the_others(isa, metric):
    x = rows(200, 8)
    x[17] *= 1e18
    check(x, 5, metric=metric, exclude_self=True)
    near = knn(x * 1e12, 5, metric="euclidean", exclude_self=True)  # 1e30 beside 1e12
    assert torch.equal(near.indices, knn(x, 5, exclude_self=True).indices)


def test_knn_whose_squares_overflow_says_infinity(isa):
    x = torch.tensor([[0.0], [0.0], [1e30]])
    assert knn(x, 3, metric="sqeuclidean").distances[0].tolist() == [0, 0, torch.inf]
    x = torch.tensor([[1e300], [1e300], [0.0]], dtype=torch.float64)
    assert knn(x, 3, metric="sqeuclidean").distances[0].tolist() == [0, 0, torch.inf]


def test_a_zero_row_is_at_cosine_distance_one_from_all(isa):
    x = rows(40, 3)
    x[5] = x[9] = 0
    near = check(x, 39, metric="cosine", exclude_self=True)
    assert (near.distances[5] == 1).all()
    check(x * 1e-38, 5, metric="cosine")


# ---- Layouts, batches, threads, levels ----


def test_knn_reads_any_layout(layout):
    x, y = rows(2, 37, 21), rows(2, 41, 21, seed=1)
    for a, b in ((x, None), (x, y), (x.bfloat16(), None), (x.double()[0], None)):
        got = knn(layout(a), 5, b if b is None else layout(b))
        expected = knn(layout(a).contiguous(), 5, b if b is None else layout(b).contiguous())
        for g, e in zip(got, expected, strict=True):
            assert torch.equal(g, e)


def test_a_batch_is_searched_one_by_one():
    x, y = rows(2, 3, 20, 4), rows(2, 3, 25, 4, seed=1)
    for searched in (knn(x, 5, causal=True), knn(x, 5, y)):
        assert searched.indices.shape == (2, 3, 20, 5)
    together = knn(x.movedim(2, 0).movedim(0, 2), 5, y)
    for i in range(2):
        for j in range(3):
            assert torch.equal(together.indices[i, j], knn(x[i, j], 5, y[i, j]).indices)
            assert torch.equal(together.distances[i, j], knn(x[i, j], 5, y[i, j]).distances)
    shared = knn(rows(1, 20, 4).expand(3, 20, 4), 5)
    assert torch.equal(shared.indices[0], shared.indices[2])


@pytest.mark.parametrize("mode", MODES)
def test_thread_counts_agree(isa, mode):
    x = rows(1000, 24)
    y = rows(1500, 24, seed=1) if mode == "queries" else None
    check_thread_counts_agree(lambda: knn(x, 11, y, **MODES[mode]))


@pytest.mark.parametrize("few", [3, 60])
def test_a_few_queries_against_many_rows(isa, few):
    x, y = rows(few, 8), rows(20_000, 8, seed=1)
    check(x, 100, y)
    check_thread_counts_agree(lambda: knn(x, 100, y))


SCANNED = {  # d and what is done to the rows; a few queries are scanned, many are swept
    "plain": (48, lambda x: x),
    "one feature": (1, lambda x: x),
    "features left over": (37, lambda x: x),
    "offset": (40, lambda x: x + 1000),
    "ties": (16, lambda x: x.round()),
    "zero rows": (16, lambda x: x * (torch.arange(len(x)) % 3 > 0)[:, None]),
    "tiny": (16, lambda x: x * 1e-23),
    "vanishing": (16, lambda x: x * 1e-42),
    "huge": (16, lambda x: x * 1e25),
    "mixed": (16, lambda x: x * 10.0 ** (torch.arange(len(x)) % 30 - 15)[:, None]),
    "strided": (17, lambda x: x.repeat_interleave(2, 1)[:, ::2]),
}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for case in SCANNED
        for dtype in DTYPES
        if dtype != torch.float16 or case not in {"offset", "huge", "mixed"}  # these overflow it
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_a_scan_for_few_queries_has_the_bits_of_a_sweep_for_many(isa, case, metric, dtype):
    d, change = SCANNED[case]
    x, y = change(rows(120, d)).to(dtype), change(rows(301, d, seed=1)).to(dtype)
    swept = knn(x, 7, y, metric=metric)
    for begin, few in ((0, 1), (5, 2), (40, 16)):
        found = knn(x[begin : begin + few], 7, y, metric=metric)
        assert torch.equal(found.indices, swept.indices[begin : begin + few])
        assert torch.equal(found.distances, swept.distances[begin : begin + few])


def test_a_scan_of_many_rows_takes_its_queries_in_turns():
    y = rows(3_000_000, 4)
    y[:, 1:] *= 0.1
    x = rows(13, 8, seed=1).to(torch.float64)[::2, ::2]  # up to 4 queries of 4 features are scanned
    for queries, base in ((x[:4].float(), y), (x[:3], y.double())):
        found = knn(queries, 2, base)
        for i in range(len(queries)):
            squares = (base.double() - queries[i].double()).square().sum(1)
            assert torch.equal(found.indices[i], squares.topk(2, largest=False).indices)


def test_a_scan_refuses_what_a_sweep_refuses():
    x, y = rows(2, 64), rows(3000, 64, seed=1)
    for value in (torch.nan, torch.inf):
        for spoiled, name, i in ((x.clone(), "x", 1), (y.clone(), "y", 2900)):
            spoiled[i, 5] = value
            args = (spoiled, 3, y) if name == "x" else (x, 3, spoiled)
            for metric in METRICS:
                with refuses(f"knn: {name} must be finite, got a NaN or an infinity in row {i}"):
                    knn(*args, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", MODES)
def test_the_bfloat16_filter_changes_no_bit(metric, mode):
    x = rows(4100, 48)
    y = rows(4099, 48, seed=1) if mode == "queries" else None
    before = _C.active_isa()
    filtered = knn(x, 5, y, metric=metric, **MODES[mode])
    try:
        _C.set_isa("avx2" if before == "avx512" else "baseline")
        plain = knn(x, 5, y, metric=metric, **MODES[mode])
    finally:
        _C.set_isa(before)
    assert torch.equal(filtered.indices, plain.indices)
    assert torch.equal(filtered.distances, plain.distances)
    if mode == "queries":
        some = slice(None, None, 41)
        table = distance_table(x[some], y, metric=metric)
        assert torch.equal(filtered.indices[some], table.topk(5, largest=False).indices)


@pytest.mark.parametrize("case", ["clusters", "integers", "offset"])
def test_the_bfloat16_filter_of_awkward_rows(case):
    x = rows(4200, 48)
    if case == "clusters":
        x = 100 * rows(30, 48, seed=1).repeat(140, 1) + 1e-2 * x
    elif case == "integers":
        x = (2 * x).round()
    else:
        x += 1e3
    check(x[:60], 5, x)
    check_thread_counts_agree(lambda: knn(x, 5))
    near = knn(x, 5, exclude_self=True)
    some = torch.arange(0, 4200, 70)
    table = distance_table(x[some], x)
    table[torch.arange(60), some] = torch.inf
    assert_same_neighbors((near.distances[some], near.indices[some]), table, relative=2.0**-23)


@pytest.mark.parametrize(
    ("n", "k", "metric", "exclude_self", "route"),
    [
        (4100, 5, "euclidean", True, 2),
        (4100, 5, "cosine", False, 2),
        (4100, 5, "ip", False, 2),
        (4100, 5, "chebyshev", False, 1),
        (4000, 5, "euclidean", True, 1),  # too few rows to be worth a pilot
        (4100, 200, "euclidean", True, 1),  # too many neighbours
    ],
)
def test_the_bfloat16_filter_is_chosen_where_it_pays(n, k, metric, exclude_self, route):
    if _C.fma_peak("bfloat16", 1e-3) == 0:
        pytest.skip("this processor has no bfloat16 product")
    x = rows(n, 48)
    found = torch.ops.gramian.neighbors_knn_route(x, k, None, metric, exclude_self)
    assert found.item() == route
    if route == 2:  # not where near-ties would make nearly every row a candidate, and not in float64
        clusters = 100 * rows(30, 48, seed=1).repeat(137, 1)[:n] + 1e-2 * x
        assert torch.ops.gramian.neighbors_knn_route(clusters, k, None, metric, exclude_self).item() == 1
        assert torch.ops.gramian.neighbors_knn_route(x.double(), k, None, metric, exclude_self).item() == 1
    assert torch.ops.gramian.neighbors_knn_route(x[:8], 5, x).item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("train", [None, "some", "one", "all but one"])
def test_a_pass_has_the_bits_of_its_searches(isa, dtype, train):
    for n, d, k in [(2, 1, 1), (13, 7, 2), (98, 33, 3), (700, 20, 40)]:
        x = rows(n, d, dtype=dtype)
        if d == 20:
            x = x.round()  # ties
        learned = torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.6
        learned[0], learned[-1] = True, False
        if train in {"one", "all but one"}:
            learned = torch.arange(n) == n // 2 if train == "one" else torch.arange(n) != n // 2
        found = knn_pass(x, k, train=None if train is None else learned)
        for ours, searched in (
            (found.others, knn(x, k, exclude_self=True)),
            (found.past, knn(x, k, causal=True)),
        ):
            assert torch.equal(ours.indices, searched.indices)
            assert torch.equal(ours.distances, searched.distances)
        if train is None:
            assert found.held_out is None
            continue
        there = min(k, int(learned.sum()))
        searched = knn(x[~learned], there, x[learned])
        assert torch.equal(found.held_out.indices[:, :there], learned.nonzero()[:, 0][searched.indices])
        assert torch.equal(found.held_out.distances[:, :there], searched.distances)
        assert (found.held_out.indices[:, there:] == -1).all()


def test_a_pass_in_bfloat16_has_the_bits_of_its_searches():
    x, train = rows(4200, 64), torch.arange(4200) % 3 > 0
    check_thread_counts_agree(lambda: torch.cat([near.distances for near in knn_pass(x, 2, train=train)]))
    found = knn_pass(x, 2, train=train)
    assert torch.equal(found.others.indices, knn(x, 2, exclude_self=True).indices)
    assert torch.equal(found.past.indices, knn(x, 2, causal=True).indices)
    assert torch.equal(found.held_out.indices, train.nonzero()[:, 0][knn(x[~train], 2, x[train]).indices])


def test_a_pass_of_nothing_and_under_opcheck():
    assert knn_pass(torch.empty(0, 3), 1).others.indices.shape == (0, 1)
    x = rows(9, 4)
    torch.library.opcheck(torch.ops.gramian.neighbors_knn_pass.default, (x, 2))
    torch.library.opcheck(torch.ops.gramian.neighbors_knn_pass.default, (x, 2, torch.arange(9) > 3))


def test_a_pass_and_a_route_refuses_in_their_names():
    x = rows(4, 3)
    for args, message in [
        ((x[0], 1), "knn_pass: x must be [n, d], got shape (3,)"),
        ((x, 4), "knn: k must be from 1 to 3, the rows to choose from, got 4"),
        ((x, 1, torch.ones(3, dtype=torch.bool)), "knn_pass: train must be [n] bool with n = 4, got shape (3,)"),
    ]:
        with refuses(message):
            torch.ops.gramian.neighbors_knn_pass(*args)
    with refuses("knn_route: x must be [n, d], got shape (3,)"):
        torch.ops.gramian.neighbors_knn_route(x[0], 1)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "chebyshev", "ip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_sides_of_a_sweep_have_the_bits_of_two_searches(isa, dtype, metric):
    for n, m, d, k in [(1, 1, 1, 1), (1, 33, 7, 2), (97, 13, 3, 20), (300, 500, 20, 40)]:
        x, y = rows(n, d, dtype=dtype), rows(m, d, dtype=dtype, seed=1)
        if d == 20:
            x, y = x.round(), y.round()  # ties
        both = knn_both(x, y, k, metric=metric)
        for side, found, other in ((x, both.of_x, y), (y, both.of_y, x)):
            there = min(k, len(other))
            searched = knn(side, there, other, metric=metric)
            assert torch.equal(found.indices[:, :there], searched.indices)
            assert torch.equal(found.distances[:, :there], searched.distances)
            assert (found.indices[:, there:] == -1).all()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "chebyshev", "ip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_sides_within_reach_are_those_without_that_lie_nearer(isa, dtype, metric):
    x, y = rows(300, 20, dtype=dtype).round(), rows(200, 20, dtype=dtype, seed=1).round()  # ties
    whole, sign = knn_both(x, y, 5, metric=metric), -1 if metric == "ip" else 1
    for places in (torch.randint(5, (500,), generator=torch.Generator().manual_seed(2)), torch.zeros(500).long()):
        reach = tuple(
            near.distances.gather(1, place[:, None])[:, 0]
            for near, place in zip(whole, places.split([300, 200]), strict=True)
        )
        reach[0][:3] = torch.tensor([sign * torch.inf, -sign * torch.inf, 0])
        for found, near, limit in zip(knn_both(x, y, 5, metric=metric, reach=reach), whole, reach, strict=True):
            beyond = sign * near.distances > sign * limit[:, None]
            assert torch.equal(found.indices, near.indices.masked_fill(beyond, -1))
            assert torch.equal(found.distances, near.distances.masked_fill(beyond, sign * torch.inf))


def test_a_product_that_vanishes_lies_within_a_reach_of_zero(isa):
    x, y = torch.full((3, 2), -1e-30), torch.full((5, 2), 1e-30)
    for found in knn_both(x, y, 2, metric="ip", reach=(torch.zeros(3), torch.zeros(5))):
        assert (found.distances == 0).all()
        assert (found.indices >= 0).all()


def test_a_distance_that_vanishes_lies_within_a_reach_of_zero():
    x, y = torch.zeros(3, 2, dtype=torch.float64), torch.full((5, 2), 1e-200, dtype=torch.float64)
    reach = (torch.zeros(3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    for found in knn_both(x, y, 2, metric="sqeuclidean", reach=reach):
        assert (found.distances == 0).all()
        assert (found.indices >= 0).all()


def test_both_sides_in_bfloat16_have_the_bits_of_two_searches():
    x, y = rows(4200, 64), rows(4300, 64, seed=1) + 0.5
    check_thread_counts_agree(lambda: torch.cat([near.distances for near in knn_both(x, y, 2)]))
    found = knn_both(x, y, 2)
    assert torch.equal(found.of_x.indices, knn(x, 2, y).indices)
    assert torch.equal(found.of_y.indices, knn(y, 2, x).indices)


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_merged_lists_are_those_of_one_search(metric):
    x, y = rows(300, 3).round(), rows(90, 3, seed=1).round()  # ties
    for cut, k in ((0, 5), (1, 5), (40, 5), (40, 60)):
        whole, largest = knn(x, k, y, metric=metric), metric == "ip"
        parts = [knn(x, min(k, len(part)), part, metric=metric) for part in (y[:cut], y[cut:]) if len(part)]
        if len(parts) == 1:
            parts.insert(0, neighbors_of_none(parts[0]))
        late = parts[1]._replace(indices=parts[1].indices + cut)
        for pair in ((parts[0], late), (late, parts[0])):
            found = torch.ops.gramian.neighbors_knn_merge(*pair[0], *pair[1], k, largest)
            assert torch.equal(found[0], whole.distances)
            assert torch.equal(found[1], whole.indices)
            assert torch.equal(merge(*pair, k, largest=largest).indices, whole.indices)


def neighbors_of_none(like):
    return like._replace(distances=like.distances[:, :0], indices=like.indices[:, :0])


def test_a_merge_refuses_in_its_name():
    distances, indices = torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64)
    for args, message in [
        (
            (distances, indices[:3], distances, indices, 2),
            "knn_merge: a must be distances and indices [n, k], got shapes (4, 2) and (3, 2)",
        ),
        ((distances, indices, distances, indices.int(), 2), "knn_merge: b must have int64 indices, got int32"),
        (
            (distances, indices, distances.double(), indices, 2),
            "knn_merge: b must have the dtype of a (float32), got float64",
        ),
        ((distances, indices, distances[:3], indices[:3], 2), "knn_merge: b must have 4 rows like a, got 3"),
        ((distances, indices, distances, indices, 5), "knn_merge: k must be from 0 to 4, the entries of a row, got 5"),
    ]:
        with refuses(message):
            torch.ops.gramian.neighbors_knn_merge(*args)


def test_both_sides_of_nothing_and_under_opcheck():
    x = rows(9, 4)
    assert knn_both(x[:0], x, 2).of_x.indices.shape == (0, 2)
    assert (knn_both(x[:0], x, 2).of_y.indices == -1).all()
    torch.library.opcheck(torch.ops.gramian.neighbors_knn_both.default, (x, x[:5], 2))


def test_both_sides_refuses_in_its_name():
    x = rows(4, 3)
    for args, message in [
        ((x[0], x, 1), "knn_both: x must be [n, d], got shape (3,)"),
        ((x, x[:, :2], 1), "knn_both: y must be [..., m, d] with the leading sizes and d of x, (4, 3), got (4, 2)"),
        ((x, x.double(), 1), "knn_both: y must have the dtype of x (float32), got float64"),
        ((x, x, 0), "knn_both: k must be positive, got 0"),
        (
            (x, x, 1, "ip", x[:3, 0]),
            "knn_both: x_reach must be [4] float32 on the device of x, got (3,) float32",
        ),
        ((x, x, 1, "ip", None, x[:, 0] * torch.nan), "knn_both: y_reach must be numbers, got NaN for row 0"),
        (
            (x, x, 1, "manhattan"),
            "knn_both: metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got manhattan",
        ),
    ]:
        with refuses(message):
            torch.ops.gramian.neighbors_knn_both(*args)


# ---- Peers ----


def test_knn_agrees_with_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    x, y = rows(500, 20, dtype=torch.float64), rows(700, 20, seed=1, dtype=torch.float64)
    for metric in ("euclidean", "cosine"):
        peer = neighbors.NearestNeighbors(n_neighbors=6, algorithm="brute", metric=metric).fit(y.numpy())
        distances, indices = peer.kneighbors(x.numpy())
        near = knn(x, 6, y, metric=metric)
        assert torch.equal(near.indices, torch.from_numpy(indices))
        torch.testing.assert_close(near.distances, torch.from_numpy(distances), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SWIG's, when faiss is imported
def test_knn_agrees_with_faiss():
    faiss = pytest.importorskip("faiss")
    x, y = rows(500, 20), rows(700, 20, seed=1)
    distances, indices = faiss.knn(x.numpy(), y.numpy(), 6)
    near = knn(x, 6, y, metric="sqeuclidean")
    torch.testing.assert_close(near.distances, torch.from_numpy(distances), rtol=1e-4, atol=1e-4)  # |x|² + |y|² - 2xy
    assert (near.indices == torch.from_numpy(indices)).float().mean() > 0.999


# ---- Refusals ----

X = torch.zeros(4, 3)
BAD = torch.tensor([[0.0, 1.0], [0.0, torch.nan], [torch.inf, 0.0]])
REFUSALS = [
    ((X[0], 1), {}, "x must be [..., n, d], got shape (3,)"),
    ((X.long(), 1), {}, "x must be float32, float64, bfloat16 or float16, got int64"),
    ((X.to(torch.complex64), 1), {}, "x must be float32, float64, bfloat16 or float16, got complex64"),
    ((X, 1, X.double()), {}, "y must have the dtype of x (float32), got float64"),
    ((X, 1, X[:, :2]), {}, "y must be [..., m, d] with the leading sizes and d of x, (4, 3), got (4, 2)"),
    ((X, 1, X[0]), {}, "y must be [..., m, d] with the leading sizes and d of x, (4, 3), got (3,)"),
    (
        (X[None], 1, X[None].repeat(2, 1, 1)),
        {},
        "y must be [..., m, d] with the leading sizes and d of x, (1, 4, 3), got (2, 4, 3)",
    ),
    ((X, 1, X), {"exclude_self": True}, "exclude_self must be False when y is given, got True"),
    ((X, 1, X), {"causal": True}, "causal must be False when y is given, got True"),
    ((X, 0), {}, "k must be from 1 to 4, the rows to choose from, got 0"),
    ((X, 5), {}, "k must be from 1 to 4, the rows to choose from, got 5"),
    ((X, 4), {"exclude_self": True}, "k must be from 1 to 3, the rows to choose from, got 4"),
    ((X, 4), {"causal": True}, "k must be from 1 to 3, the rows to choose from, got 4"),
    ((X, 1, X[:0]), {}, "k must be from 1 to 0, the rows to choose from, got 1"),
    ((X[:0], 0), {}, "k must be positive, got 0"),
    ((X, 1), {"metric": "l2"}, "metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got l2"),
    ((BAD, 1), {}, "x must be finite, got a NaN or an infinity in row 1"),
    ((BAD[:1], 1, BAD), {}, "y must be finite, got a NaN or an infinity in row 1"),
    ((BAD[2:], 1, BAD[:1]), {}, "x must be finite, got a NaN or an infinity in row 0"),
    (
        (torch.tensor([[3e38], [3e38], [-3e38]]), 1),
        {},
        "x must span a range whose squares do not overflow, got row 2",
    ),
]


@pytest.mark.parametrize(("args", "options", "message"), REFUSALS, ids=[r[2] for r in REFUSALS])
def test_knn_refuses(args, options, message):
    for function in (knn, torch.ops.gramian.neighbors_knn):
        with refuses(f"knn: {message}"):
            function(*args, **options)


# ---- Derivatives, and torch's other ways of calling ----


@pytest.mark.parametrize("metric", METRICS)
def test_knn_is_differentiable(check_differentiable, metric):
    x = rows(6, 3, dtype=torch.float64, seed=1)
    check_differentiable(lambda x: knn(x, 2, metric=metric, exclude_self=True).distances, x)


def test_knn_is_differentiable_in_both_arguments(check_differentiable):
    check_differentiable(
        lambda x, y: knn(x, 2, y).distances,
        rows(6, 3, dtype=torch.float64, seed=1),
        rows(7, 3, dtype=torch.float64, seed=2),
    )


def test_the_derivative_of_a_zero_distance_is_zero():
    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    for metric in METRICS[:2]:
        (grad,) = torch.autograd.grad(knn(x, 2, metric=metric).distances.sum(), x)
        assert (grad == 0).all()


def test_the_derivative_in_half_types_is_that_of_the_rows_as_given():
    for dtype in (torch.bfloat16, torch.float16):
        x = rows(20, 4, dtype=dtype).requires_grad_()
        (grad,) = torch.autograd.grad(knn(x, 3).distances.sum(), x)
        wide = x.detach().float().requires_grad_()
        (expected,) = torch.autograd.grad(knn(wide, 3).distances.sum(), wide)
        assert torch.equal(grad, expected.to(dtype))


def test_indices_have_no_derivative():
    x = rows(6, 3).requires_grad_()
    assert knn(x, 2).distances.requires_grad
    assert not knn(x, 2).indices.requires_grad


def test_knn_under_vmap_is_knn_of_the_batch():
    x, y = rows(20, 5, 4), rows(25, 4, seed=1)
    mapped = torch.vmap(lambda x: knn(x, 3, y), in_dims=1)(x)
    for b in range(5):
        assert torch.equal(mapped.indices[b], knn(x[:, b], 3, y).indices)
    nested = torch.vmap(torch.vmap(lambda x: knn(x, 3).indices))(rows(2, 3, 10, 4))
    assert torch.equal(nested, knn(rows(2, 3, 10, 4), 3).indices)


def test_knn_exports():
    class Nearest(torch.nn.Module):
        def forward(self, x):
            return knn(x, 3, metric="cosine").indices

    x = rows(10, 4)
    program = torch.export.export(Nearest(), (x,))
    assert torch.equal(program.module()(x), knn(x, 3, metric="cosine").indices)
