"""neighbors.count_within and knn_chunks: against every distance written out, against knn, refusals."""

import pytest
import torch

from gramian.neighbors import count_within, knn, knn_chunks
from tests.checks import check_thread_counts_agree, refuses

METRICS = ["euclidean", "sqeuclidean", "cosine", "chebyshev"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Tiles are 4 to 12 rows by 8 to 32 columns, a block 96 rows, a slab 256 or 512 features.
SIZES = [(1, 1, 1), (2, 3, 2), (11, 33, 5), (33, 12, 600), (97, 191, 7), (190, 65, 16)]


def rows(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def counted(x, radius, y=None, *, metric, exclude_self=False, strict=False):
    """By knn with all neighbours: every pair's distance, as it would be returned."""
    k = len(x) - exclude_self if y is None else len(y)
    if k == 0:
        return torch.zeros(len(x), dtype=torch.int64)
    distances = knn(x, k, y, metric=metric, exclude_self=exclude_self).distances
    radius = torch.as_tensor(radius, dtype=distances.dtype).reshape(-1, 1)
    return (distances < radius if strict else distances <= radius).sum(1)


def radii(x, y, metric):
    """Of every row: the exact distance of one neighbour, the next number up or down, nothing, everything."""
    base = x if y is None else y
    distances = knn(x, len(base), y, metric=metric).distances
    picked = distances.gather(1, torch.arange(len(x)).mul(7).remainder(len(base))[:, None])[:, 0]
    way = torch.arange(len(x)) % 5
    picked = torch.where(way == 1, picked.nextafter(torch.tensor(torch.inf, dtype=picked.dtype)), picked)
    picked = torch.where(way == 2, picked.nextafter(torch.tensor(-torch.inf, dtype=picked.dtype)), picked)
    return torch.where(way == 3, torch.where(torch.arange(len(x)) % 2 == 0, torch.inf, -1.0).to(picked.dtype), picked)


@pytest.mark.parametrize("mode", ["self", "exclude self", "queries"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_count_within_counts_what_knn_returns(isa, dtype, metric, mode):
    for n, m, d in SIZES:
        x = rows(n, d, dtype=dtype)
        y = rows(m, d, seed=1, dtype=dtype) if mode == "queries" else None
        radius = radii(x, y, metric)
        for strict in (False, True):
            options = {"metric": metric, "exclude_self": mode == "exclude self", "strict": strict}
            expected = counted(x, radius, y, **options)
            assert torch.equal(count_within(x, radius, y, **options), expected), (n, m, d, strict)


@pytest.mark.parametrize("metric", METRICS)
def test_count_within_at_the_distance_of_the_kth_is_k(isa, metric):
    x = rows(500, 6)
    for k in (1, 4, 50):
        radius = knn(x, k, metric=metric, exclude_self=True).distances[:, -1]
        assert (count_within(x, radius, metric=metric, exclude_self=True) == k).all()
        assert (count_within(x, radius, metric=metric, exclude_self=True, strict=True) == k - 1).all()


def test_count_within_of_integers_is_exact(isa):
    x = torch.randint(-3, 4, (300, 5), generator=torch.Generator().manual_seed(0)).float() + 2.0**20
    for metric, radius in (("sqeuclidean", 20.0), ("euclidean", 5.0), ("chebyshev", 3.0)):
        wide = x.double() - 2.0**20
        apart = (wide[:, None] - wide).abs()
        table = {"sqeuclidean": apart.square().sum(2), "euclidean": apart.square().sum(2).sqrt()}.get(metric)
        table = apart.amax(2) if table is None else table
        assert torch.equal(count_within(x, radius, metric=metric), (table <= radius).sum(1))
        assert torch.equal(count_within(x, radius, metric=metric, strict=True), (table < radius).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_lies_within_a_radius_below_zero_however_small(isa, dtype):
    x = torch.zeros(40, 3, dtype=dtype)  # scores and their errors are exactly 0
    for metric in ("euclidean", "sqeuclidean", "chebyshev"):
        for radius in (-1e-30, -torch.finfo(dtype).tiny, -torch.finfo(dtype).smallest_normal / 4):
            assert (count_within(x, radius, metric=metric) == 0).all()
        assert (count_within(x, 0.0, metric=metric) == 40).all()
        assert (count_within(x, 0.0, metric=metric, strict=True) == 0).all()


def test_count_within_reads_any_layout(layout):
    x, y, radius = rows(30, 9), rows(40, 9, seed=1), torch.full((30,), 4.0)
    spread = layout(x), layout(y)
    expected = count_within(spread[0].contiguous(), radius, spread[1].contiguous())
    assert torch.equal(count_within(spread[0], radius, spread[1]), expected)
    expected = count_within(x, radius, y)
    assert torch.equal(count_within(x, 4.0, y), expected)
    assert torch.equal(count_within(x, torch.tensor(4.0, dtype=torch.float64), y), expected)


def test_count_within_of_batches():
    x, y = rows(2, 3, 20, 4), rows(2, 3, 25, 4, seed=1)
    expected = torch.stack([count_within(a, 2.0, b) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)])
    assert torch.equal(count_within(x, 2.0, y), expected.view(2, 3, 20))
    mapped = torch.vmap(lambda x: count_within(x, 2.0, y[0, 0]))(x[0])
    assert torch.equal(mapped[1], count_within(x[0, 1], 2.0, y[0, 0]))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_count_within_of_nothing(shape):
    x = torch.zeros(shape)
    expected = torch.full(shape[:-1], shape[-2] if shape[-1] == 0 else 0)
    assert torch.equal(count_within(x, 0.0), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_thread_counts_agree(isa, metric):
    x = rows(700, 20)
    radius = radii(x, None, metric)
    check_thread_counts_agree(lambda: (count_within(x, radius, metric=metric),))


def test_count_within_passes_opcheck_and_compiles():
    x, y, radius = rows(12, 3), rows(9, 3), torch.ones(12)
    for args in ((x, radius), (x, radius, y, "chebyshev")):
        torch.library.opcheck(torch.ops.gramian.neighbors_count_within.default, args)
    compiled = torch.compile(lambda x: count_within(x, 1.0, strict=True), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), count_within(x, 1.0, strict=True))


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], torch.zeros(())), "x must be [..., n, d], got shape (3,)"),
        ((X.long(), torch.zeros(4)), "x must be float32, float64, bfloat16 or float16, got int64"),
        ((X, torch.zeros(3)), "radius must be [..., n] like x, (4, 3), got (3,)"),
        ((X, torch.zeros(4).double()), "radius must be float32 for x of float32, got float64"),
        ((X, torch.tensor([0, 0, torch.nan, 0])), "radius must be a number, got NaN for row 2"),
        ((X / 0, torch.zeros(4)), "x must be finite, got a NaN or an infinity in row 0"),
        ((X, torch.zeros(4), X[:, :2]), "y must be [..., m, d] with the leading sizes and d of x, (4, 3), got (4, 2)"),
        ((X, torch.zeros(4), X.double()), "y must have the dtype of x (float32), got float64"),
        ((X, torch.zeros(4), X, "euclidean", True), "exclude_self must be False when y is given, got True"),
        ((X, torch.zeros(4), None, "ip"), "metric must be a distance, got ip"),
        ((X, torch.zeros(4), None, "l1"), "metric must be euclidean, sqeuclidean, cosine, chebyshev or ip, got l1"),
    ],
)
def test_count_within_refuses(args, message):
    with refuses(f"count_within: {message}"):
        torch.ops.gramian.neighbors_count_within(*args)


# ---- knn_chunks ----


@pytest.mark.parametrize("metric", [*METRICS, "ip"])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_knn_chunks_is_knn(metric, k):
    x, y = rows(40, 6), rows(130, 6, seed=1).round(decimals=1)
    y[60:90] = y[:30]  # equals in different chunks
    expected = knn(x, k, y, metric=metric)
    for sizes in ([130], [50, 80], [1] * 30 + [100], [64, 0, 66]):
        found = knn_chunks(x, k, y.split(sizes), metric=metric, progress=True)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.distances, expected.distances)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn_chunks(X[0], 1, [X]), "x must be [n, d], got shape (3,)"),
        (lambda: knn_chunks(X, 0, [X]), "k must be positive, got 0"),
        (lambda: knn_chunks(X, 9, [X, X]), "k must be at most 8, the rows of all chunks, got 9"),
        (lambda: knn_chunks(X, 1, []), "k must be at most 0, the rows of all chunks, got 1"),
    ],
)
def test_knn_chunks_refuses(call, message):
    with refuses(f"knn_chunks: {message}"):
        call()
