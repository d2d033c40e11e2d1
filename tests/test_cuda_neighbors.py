"""The CUDA ops of neighbors, on a GPU or emulated: see test_cuda.py."""

import concurrent.futures
import threading

import pytest
import torch

from gramian import distributed
from tests.checks import LAYOUTS, assert_same_neighbors, refuses
from tests.cuda import DTYPES, rows
from tests.reference.neighbors import distance_table

METRICS = ["euclidean", "sqeuclidean", "cosine", "ip", "chebyshev"]
MODES = {"self": (None, False, False), "exclude self": (None, True, False), "causal": (None, False, True)}


def check_knn(call, x, k, y=None, metric="euclidean", exclude_self=False, causal=False, *, exact=False):
    distances, indices = call("neighbors_knn", x, k, y, metric, exclude_self, causal)
    assert indices.dtype == torch.int64
    assert distances.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    options = {} if y is not None else {"exclude_self": exclude_self, "causal": causal}
    table = distance_table(x, y, metric=metric, **options)
    tolerance = {}
    if not exact:
        size = x.shape[-1] * 2.0**-52  # d roundings of float64, and one to the result's type
        largest = x.double().norm(dim=1).max() * (x if y is None else y).double().norm(dim=1).max()
        absolute = {"cosine": size, "ip": size * float(largest)}.get(metric, 0.0)
        tolerance = {"relative": torch.finfo(distances.dtype).eps + size, "absolute": absolute}
    assert_same_neighbors((-distances if metric == "ip" else distances, indices), table, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*MODES, "queries"])
@pytest.mark.parametrize("metric", METRICS)
def test_knn_equals_the_reference(call, metric, mode):
    for dtype, n, m, d, k in [
        (torch.float32, 2, 3, 3, 1),
        (torch.float32, 129, 260, 17, 7),
        (torch.float64, 65, 129, 5, 12),
        (torch.bfloat16, 13, 33, 17, 12),
        (torch.float16, 40, 5, 33, 3),
    ]:
        y = rows(m, d, seed=1, dtype=dtype) if mode == "queries" else None
        _, exclude_self, causal = MODES.get(mode, (None, False, False))
        check_knn(
            call, rows(n, d, dtype=dtype), min(k, m if mode == "queries" else n - 1), y, metric, exclude_self, causal
        )


@pytest.mark.slow
def test_knn_decides_near_ties_exactly(call):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (150, 2), generator=generator).float()  # nine places: every row has many duplicates
    check_knn(call, x, 5, exact=True)
    check_knn(call, x, 5, None, "euclidean", True, exact=True)
    check_knn(call, x + 2.0**20, 5, None, "sqeuclidean", False, True, exact=True)
    tight = rows(1, 8) + 1e-6 * rows(140, 8, seed=1)  # scores cannot tell these apart, and no list holds them all
    check_knn(call, torch.cat([tight, 1e4 * rows(20, 8, seed=2)]), 3)
    check_knn(call, torch.ones(135, 1), 3, exact=True)
    check_knn(call, torch.tensor([[1e30], [1e-30], [0.0], [-1e30]]), 2)


@pytest.mark.slow
def test_knn_of_many_neighbours_batches_and_layouts(call):
    check_knn(call, rows(150, 3), 149, None, "euclidean", True)
    x = rows(3, 20, 6)
    distances, indices = call("neighbors_knn", x, 2)
    for b in range(3):
        for together, alone in zip((distances[b], indices[b]), call("neighbors_knn", x[b], 2), strict=True):
            assert torch.equal(together, alone)
    for layout in LAYOUTS.values():
        for got, expected in zip(
            call("neighbors_knn", layout(x), 2), call("neighbors_knn", layout(x).clone(), 2), strict=True
        ):
            assert torch.equal(got, expected)
    assert call("neighbors_knn", torch.empty(0, 3), 2)[0].shape == (0, 2)
    assert call("neighbors_knn", torch.empty(4, 0), 2)[1].tolist() == [[0, 1]] * 4


@pytest.mark.slow
def test_knn_refuses(call):
    x = rows(4, 3)
    bad = x.clone()
    bad[2, 1] = torch.nan
    with refuses("knn: x must be finite, got a NaN or an infinity in row 2"):
        call("neighbors_knn", bad, 1)
    with refuses("knn: y must be finite, got a NaN or an infinity in row 2"):
        call("neighbors_knn", x, 1, bad)
    with refuses("knn: k must be from 1 to 3, the rows to choose from, got 4"):
        call("neighbors_knn", x, 4, None, "ip", True)
    with refuses("knn: metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got manhattan"):
        call("neighbors_knn", x, 1, None, "manhattan")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_assign_equals_the_cpu_op(call, dtype):
    wide_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x, centers = rows(2, 150, 9, dtype=dtype), rows(2, 70, 9, seed=1, dtype=wide_dtype)
    centers[:, 3] = x[:, 5].to(wide_dtype)
    centers[:, 40] = centers[:, 3]  # a tie, for the lower index
    squared, labels = call("neighbors_assign", x, centers)
    expected, nearest = torch.ops.gramian.neighbors_assign(x, centers)
    assert torch.equal(labels, nearest)
    torch.testing.assert_close(squared, expected, rtol=2 * torch.finfo(wide_dtype).eps * 9, atol=0)  # orders of d terms
    assert squared[0, 5] == 0
    with refuses("assign: centers must be finite, got a NaN or an infinity in row 1"):
        call("neighbors_assign", x[0], torch.tensor([[0.0] * 9, [torch.inf] * 9], dtype=wide_dtype))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "chebyshev"])
def test_count_within_equals_the_cpu_op(call, metric):
    generator = torch.Generator().manual_seed(0)
    for dtype, n, m, d in [(torch.float32, 130, 20, 3), (torch.float64, 20, 70, 4), (torch.float16, 9, 200, 5)]:
        x, y = rows(2, n, d, dtype=dtype), rows(2, m, d, seed=1, dtype=dtype)
        wide_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        radius = 2 * torch.rand(2, n, generator=generator).to(wide_dtype)
        radius[:, :3] = torch.tensor([torch.inf, 0.0, -1.0])
        if dtype != torch.float64:  # radii that are the distance of a pair: one rounding of a sum in float64
            found = torch.ops.gramian.neighbors_knn(x, 5, y, metric)[0]
            radius[:, 3:] = torch.where(torch.rand(2, n - 3, generator=generator) < 0.5, found[:, 3:, 4], radius[:, 3:])
        for other, exclude_self in [(y, False), (None, False), (None, True)]:
            arguments = (x, radius, other, metric, exclude_self)
            expected = torch.ops.gramian.neighbors_count_within(*arguments)
            assert torch.equal(call("neighbors_count_within", *arguments), expected)


@pytest.mark.slow
def test_what_vanishes_is_not_decided_by_its_score(call):
    x, zeros = torch.zeros(9, 3), torch.zeros(9)
    assert (call("neighbors_count_within", x, zeros - 1e-30, None, "euclidean", False) == 0).all()
    assert (call("neighbors_knn_both", x - 1e-30, x + 1e-30, 2, "ip", zeros, zeros)[1] >= 0).all()
    assert (call("neighbors_knn_both", x, x.add(1e-30), 2, "sqeuclidean", zeros, zeros)[1] >= 0).all()


def test_count_within_refuses(call):
    x = rows(4, 3)
    with refuses("count_within: metric must be a distance, got ip"):
        call("neighbors_count_within", x, torch.ones(4), None, "ip", False)
    with refuses("count_within: radius must be a number, got NaN for row 1"):
        call("neighbors_count_within", x, torch.tensor([1, torch.nan, 1, 1]), None, "euclidean", False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kmeans_plus_plus_equals_the_cpu_op(call, dtype):
    uniforms = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n, d, weights in [(300, 5, None), (70, 40, rows(70, seed=2).abs().double()), (6, 1, None)]:
        arguments = (rows(n, d, dtype=dtype), uniforms, weights)
        expected = torch.ops.gramian.neighbors_kmeans_plus_plus(*arguments)
        assert call("neighbors_kmeans_plus_plus", *arguments).tolist() == expected.tolist()
    same = torch.ones(5, 2, dtype=dtype)  # no distances: the points in their order
    assert sorted(call("neighbors_kmeans_plus_plus", same, uniforms[:5]).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_kmeans_equals_the_cpu_op(call, dtype):
    wide_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x = (rows(140, 6) + 8 * rows(7, 6, seed=1).repeat_interleave(20, 0)[:140]).to(dtype)
    weights = rows(140, seed=2).abs().double()
    for k, options in [
        (1, ()),
        (7, (None, 50, 1e-4, False, True)),
        (9, (weights, 2, 0.0, False, True)),
        (5, (weights, 3, 0.0, True, True)),
    ]:
        init = x[torch.arange(k) * 15].to(wide_dtype)
        got, expected = (
            call("neighbors_kmeans", x, init, *options),
            torch.ops.gramian.neighbors_kmeans(x, init, *options),
        )
        assert torch.equal(got[1], expected[1])
        assert got[3] == expected[3]
        torch.testing.assert_close(got[0], expected[0], rtol=0, atol=32 * torch.finfo(wide_dtype).eps)  # of |x| < 32
        torch.testing.assert_close(got[2], expected[2], rtol=1e-5, atol=0)  # of centres that are rounded


@pytest.mark.slow
def test_kmeans_fills_empty_clusters_and_refuses(call):
    x = rows(90, 3)
    init = torch.cat([x[:3], torch.full((3, 3), 50.0)])  # three clusters get no points
    for relocate in (True, False):
        arguments = (x, init, None, 3, 0.0, False, relocate)
        got, expected = call("neighbors_kmeans", *arguments), torch.ops.gramian.neighbors_kmeans(*arguments)
        assert torch.equal(got[1], expected[1])
        assert len(got[1].unique()) == (6 if relocate else 3)
    # What an empty cluster takes falls back at once, round after round.
    few = torch.tensor([[0.1], [0.7]]).repeat(40, 1)
    arguments = (few, few[:2].repeat(2, 1), None, 30)
    got, expected = call("neighbors_kmeans", *arguments), torch.ops.gramian.neighbors_kmeans(*arguments)
    assert [torch.equal(a, b) for a, b in zip(got, expected, strict=True)] == [True] * 4
    with refuses("kmeans: x must be finite, got a NaN or an infinity in row 7"):
        call("neighbors_kmeans", x.index_fill(0, torch.tensor([7]), torch.nan), init)
    with refuses("kmeans: weights must be finite and not negative, got -1 for row 0"):
        call("neighbors_kmeans", x, init, -torch.ones(90).double())
    with refuses("kmeans_plus_plus: uniforms must lie in [0, 1), got 1"):
        call("neighbors_kmeans_plus_plus", x, torch.ones(1, 1, dtype=torch.float64))


class _Ranks:
    """The ranks of a call as threads of this process: what gramian.distributed asks of torch.distributed."""

    def __init__(self, rank, held, barrier):
        self.rank, self.held, self.barrier = rank, held, barrier

    def gather(self, values):
        self.held[self.rank] = values
        self.barrier.wait()
        everyone = torch.stack(self.held)
        self.barrier.wait()
        return everyone

    def sum(self, values):
        first, *others = self.gather(values)
        total = first.clone()
        for theirs in others:
            total += theirs
        return total


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(90, 60), (70, 0, 80)])
def test_kmeans_of_ranks_equals_that_of_all_points(emulated, monkeypatch, sizes):
    weights = rows(150, seed=2).abs().double()
    op = torch.ops.gramian_emulated.neighbors_kmeans
    barrier, held = threading.Barrier(len(sizes), timeout=60), [None] * len(sizes)
    for rank in range(len(sizes)):
        monkeypatch.setitem(distributed._clusters._calls, f"rank {rank}", _Ranks(rank, held, barrier))
    for options in [(None, 20, 0.0, False), (weights, 20, 1e-9, False), (weights, 3, 0.0, True)]:
        # The other ranks' points lie far from the first one's, and so do centres; four of those have no points at first.
        x = rows(150, 3, dtype=torch.float64) + 1e7 * (torch.arange(150) >= sizes[0])[:, None]
        x = x / x.norm(dim=1, keepdim=True) if options[-1] else x
        init = torch.cat([x[:3], x[-3:], 5 * x[-1:].expand(4, 3)])
        mine = [weights.split(sizes)[rank] if options[0] is not None else None for rank in range(len(sizes))]
        with concurrent.futures.ThreadPoolExecutor(len(sizes)) as pool:
            calls = [
                pool.submit(op, part, init, mine[rank], *options[1:], True, f"rank {rank}", rank)
                for rank, part in enumerate(x.split(sizes))
            ]
            results = [done.result() for done in calls]
        expected = torch.ops.gramian.neighbors_kmeans(x, init, *options, True)
        for centers, _, inertia, n_iter in results:
            assert torch.equal(centers, results[0][0])
            torch.testing.assert_close(centers, expected[0], rtol=1e-15, atol=1e-8)  # sums of other orders, beside 1e7
            torch.testing.assert_close(inertia, expected[2], rtol=1e-7, atol=0)  # of centres that are rounded there
            assert n_iter == expected[3]
        assert torch.equal(torch.cat([labels for _, labels, *_ in results]), expected[1])


@pytest.mark.slow
def test_a_sum_over_ranks_that_fails_is_an_error(emulated, monkeypatch):
    monkeypatch.setitem(distributed._clusters._calls, "lost", None)
    x = rows(9, 2)
    with pytest.raises(RuntimeError, match=r"^kmeans: a sum over the ranks of group failed$"):
        emulated("neighbors_kmeans", x, x[:2], None, 5, 0.0, False, True, "lost", 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pass_equals_three_searches(call, dtype):
    for n, d, k in [(140, 5, 3), (2, 3, 1), (40, 17, 12)]:
        x, train = rows(n, d, dtype=dtype), rows(n, seed=1) > 0
        x[1] = x[0]
        for mask in (train, None):
            got = call("neighbors_knn_pass", x, k, mask)
            expected = torch.ops.gramian.neighbors_knn_pass(x, k, mask)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=d * torch.finfo(dtype).eps, atol=0)  # orders of d terms
    with refuses("knn_pass: train must be [n] bool with n = 40, got shape (3,)"):
        call("neighbors_knn_pass", x, 1, train[:3])


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_both_sides_equal_two_searches_and_keep_to_their_reach(call, metric):
    largest = metric == "ip"
    nowhere = -torch.inf if largest else torch.inf
    for dtype, n, m, d, k in [
        (torch.float16, 1, 33, 7, 2),
        (torch.float32, 70, 13, 3, 20),
        (torch.float64, 130, 70, 5, 4),
    ]:
        x, y = rows(n, d, dtype=dtype).round(), rows(m, d, seed=1, dtype=dtype).round()  # ties
        whole = call("neighbors_knn_both", x, y, k, metric)
        for (distances, indices), a, b in ((whole[:2], x, y), (whole[2:], y, x)):
            there = min(k, len(b))
            searched = call("neighbors_knn", a, there, b, metric)
            assert torch.equal(distances[:, :there], searched[0])
            assert torch.equal(indices[:, :there], searched[1])
            assert (indices[:, there:] == -1).all()
            assert (distances[:, there:] == nowhere).all()
        reach = [whole[side][:, (k - 1) // 2].clone() for side in (0, 2)]
        reach[1][:3] = torch.tensor([torch.inf, -torch.inf, 0])[: len(y)]
        found = call("neighbors_knn_both", x, y, k, metric, *reach)
        for side in (0, 2):
            limit = reach[side // 2][:, None]
            beyond = whole[side] < limit if largest else whole[side] > limit
            assert torch.equal(found[side], whole[side].masked_fill(beyond, nowhere))
            assert torch.equal(found[side + 1], whole[side + 1].masked_fill(beyond, -1))


@pytest.mark.slow
def test_both_sides_of_nothing_and_refusals(call):
    x = rows(5, 3)
    distances, indices = call("neighbors_knn_both", x[:0], x, 2)[2:]
    assert (indices == -1).all()
    assert distances.isinf().all()
    with refuses("knn_both: y must be finite, got a NaN or an infinity in row 1"):
        call("neighbors_knn_both", x, x.index_fill(0, torch.tensor([1]), torch.inf), 1)
    with refuses("knn_both: x_reach must be numbers, got NaN for row 2"):
        call("neighbors_knn_both", x, x, 1, "ip", torch.tensor([1, 2, torch.nan, 0, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_merged_lists_equal_the_cpu_op(call, metric):
    x, y = rows(300, 3).round(), rows(90, 3, seed=1).round()  # ties
    for dtype, cut, k in [
        (torch.float32, 40, 5),
        (torch.float64, 1, 3),
        (torch.float32, 40, 60),
        (torch.float32, 7, 0),
    ]:
        parts = [
            torch.ops.gramian.neighbors_knn(x.to(dtype), min(max(k, 1), len(p)), p.to(dtype), metric)
            for p in (y[:cut], y[cut:])
        ]
        arguments = (*parts[0], parts[1][0], parts[1][1] + cut, k, metric == "ip")
        expected = torch.ops.gramian.neighbors_knn_merge(*arguments)
        for a, b in zip(call("neighbors_knn_merge", *arguments), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
def test_cosine_finds_tiny_rows_beside_huge_ones(call):
    x = rows(20, 4, dtype=torch.float64)
    x[::2] *= 1e-150
    x[1::2] *= 1e150
    check_knn(call, x, 3, None, "cosine", True)
