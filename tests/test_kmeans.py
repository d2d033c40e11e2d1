"""neighbors.kmeans, assign and kmeans_plus_plus: against Lloyd's algorithm written out in float64, identities, refusals."""

import warnings

import numpy as np
import pytest
import torch

import gramian
from gramian import neighbors
from tests import checks
from tests.reference import kmeans as reference

# n, k, d: one; panels of 32, 16 and 8 points and tiles of 12 and 6 centroids, plus and minus one; no feature; one more than a
# slice of 128 summed features; more than one piece of 256 points.
SIZES = [(1, 1, 1), (31, 12, 3), (32, 11, 16), (33, 13, 17), (9, 7, 0), (257, 40, 5), (300, 25, 129), (17, 17, 2)]
DTYPES = [torch.float32, torch.float64]


def rows(n, d, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def blobs(n, k, d, dtype=torch.float64, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    middles = spread * torch.randn(k, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (middles[torch.randint(k, (n,), generator=generator)] + noise).to(dtype)


def wide(x):
    return x.double().numpy()


def digits(dtype=torch.float64):
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data, dtype=dtype)


# ---- assign ----


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_assign_finds_the_nearest_centre(isa, dtype, size):
    n, k, d = size
    x, centers = rows(n, d, dtype), rows(k, d, dtype, seed=1)
    labels, distances = neighbors.assign(x, centers)
    expected_labels, expected = reference.assign(wide(x), wide(centers))
    assert labels.dtype == torch.int64
    assert distances.dtype == dtype
    np.testing.assert_array_equal(labels, expected_labels)
    # One rounding to float32; in float64, the reference's own sum of d squares.
    np.testing.assert_allclose(
        distances, expected, rtol=torch.finfo(dtype).eps * (1 if dtype == torch.float32 else d + 1)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_assign_breaks_ties_by_the_lower_index(isa, dtype):
    centers = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=dtype).repeat(5, 1)
    x = torch.tensor([[0.0, 0.0], [0.0, 5.0], [1.0, 0.0], [0.0, -2.0], [2.0, 0.0]], dtype=dtype).repeat(13, 1)
    labels, distances = neighbors.assign(x, centers)
    assert labels.tolist() == [1, 4, 1, 1, 0] * 13
    assert distances.tolist() == [1.0, 16.0, 0.0, 5.0, 1.0] * 13


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_assign_does_not_mind_a_common_offset(isa, offset):
    x, centers = (blobs(500, 9, 24, torch.float32) + offset), (rows(40, 24, torch.float32, seed=1) + offset)
    labels, distances = neighbors.assign(x, centers)
    expected_labels, expected = reference.assign(wide(x), wide(centers))
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(distances, expected, rtol=1.2e-7)  # one rounding


def test_assign_decides_between_centres_that_the_dtype_can_hardly_tell_apart(isa):
    centers = 1000 + rows(30, 40, torch.float32, seed=1) * 1e-4  # a few units in the last place apart
    x = torch.cat([1000 + rows(200, 40, torch.float32) * 1e-4, rows(100, 40, torch.float32)])
    np.testing.assert_array_equal(neighbors.assign(x, centers).labels, reference.assign(wide(x), wide(centers))[0])


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e30), (torch.float32, 1e-30), (torch.float64, 1e300)])
def test_assign_at_the_ends_of_the_range(isa, dtype, scale):
    x, centers = rows(100, 10), rows(20, 10, seed=1)
    expected = neighbors.assign((x * scale).to(dtype).double() / scale, (centers * scale).to(dtype).double() / scale)
    assert torch.equal(neighbors.assign((x * scale).to(dtype), (centers * scale).to(dtype)).labels, expected.labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_assign_takes_half_types(dtype):
    x, centers = rows(70, 9, dtype), rows(15, 9, torch.float32, seed=1)
    labels, distances = neighbors.assign(x, centers)
    expected = neighbors.assign(x.float(), centers)
    assert distances.dtype == torch.float32
    assert torch.equal(labels, expected.labels)
    assert torch.equal(distances, expected.distances)


def test_assign_reads_any_layout_and_batches(layout):
    x, centers = rows(6 * 40, 12).view(2, 3, 40, 12), rows(6 * 7, 12, seed=1).view(2, 3, 7, 12)
    x_laid, centers_laid = layout(x), layout(centers)
    labels, distances = neighbors.assign(x_laid, centers_laid)
    for a in range(2):
        for b in range(3):
            one = neighbors.assign(x_laid[a, b].contiguous(), centers_laid[a, b].contiguous())
            assert torch.equal(labels[a, b], one.labels)
            assert torch.equal(distances[a, b], one.distances)


def test_assign_of_no_points_and_to_one_centre():
    assert neighbors.assign(torch.zeros(0, 3), torch.zeros(2, 3)).labels.shape == (0,)
    assert neighbors.assign(torch.zeros(2, 0, 3), torch.zeros(2, 5, 3)).distances.shape == (2, 0)
    assert neighbors.assign(rows(50, 3), torch.zeros(1, 3, dtype=torch.float64)).labels.max() == 0


def test_assign_is_differentiable(check_differentiable):
    check_differentiable(lambda x, centers: neighbors.assign(x, centers).distances, rows(6, 3), rows(5, 3, seed=1))


def test_assign_agrees_with_knn():
    x, centers = blobs(400, 8, 32, torch.float32), rows(50, 32, torch.float32, seed=2)
    nearest = neighbors.knn(x, 1, centers, metric="sqeuclidean")
    labels, distances = neighbors.assign(x, centers)
    assert torch.equal(labels, nearest.indices[:, 0])
    assert torch.equal(distances, nearest.distances[:, 0])


# ---- Lloyd's algorithm ----


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (31, 12, 3), (33, 13, 17), (300, 40, 5), (300, 25, 129), (600, 7, 32)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_follows_lloyd_in_float64(isa, dtype, size):
    n, k, d = size
    x = blobs(n, max(k // 2, 1), d, dtype)
    centers, labels, inertia, n_iter = neighbors.kmeans(x, k, init=x[:k], max_iter=500)
    expected = reference.lloyd(wide(x), wide(x[:k]), dtype=np.dtype(str(dtype).removeprefix("torch.")))
    assert n_iter == expected[3]
    np.testing.assert_array_equal(labels, expected[1])
    # Means of up to 600 numbers, summed in float64 in another order.
    np.testing.assert_allclose(centers, expected[0], rtol=2 * torch.finfo(dtype).eps, atol=1e-14)
    assert inertia == pytest.approx(expected[2], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_of_digits(isa, dtype):
    x = digits(dtype)
    # Known values: float64, ties to the lower index, no empty clusters.
    assert neighbors.kmeans(x, 42, init=x[:42], max_iter=500).inertia == pytest.approx(776351.75, abs=0.01)
    unit = torch.nn.functional.normalize(digits()).to(dtype)
    result = neighbors.kmeans(unit, 42, init=unit[:42], max_iter=500)
    assert result.inertia == pytest.approx(200.831077821, rel=1e-8)  # float32: the rounding of the rows
    assert result.n_iter == 17


def test_kmeans_agrees_with_scikit_learn():
    from sklearn.cluster import KMeans

    x = blobs(2000, 10, 16)
    peer = KMeans(25, init=x[:25].numpy(), n_init=1, max_iter=500, tol=0).fit(x.numpy())
    ours = neighbors.kmeans(x, 25, init=x[:25], max_iter=500)
    np.testing.assert_array_equal(ours.labels, peer.labels_)
    assert ours.n_iter == peer.n_iter_
    assert ours.inertia == pytest.approx(peer.inertia_, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_result_is_a_fixed_point(dtype):
    x = blobs(1500, 12, 20, dtype)
    result = neighbors.kmeans(x, 30, generator=torch.Generator().manual_seed(3), max_iter=500)
    labels, distances = neighbors.assign(x, result.centers)
    assert torch.equal(labels, result.labels)
    assert result.inertia == pytest.approx(distances.double().sum().item(), rel=1e-6)
    means = torch.stack([x[labels == j].double().mean(0) for j in range(30)])
    np.testing.assert_allclose(result.centers, means, rtol=2 * torch.finfo(dtype).eps, atol=1e-14)
    again = neighbors.kmeans(x, 30, init=result.centers)
    assert again.n_iter <= 2  # a round to see the labels, and at most one to see that they stay
    assert torch.equal(again.centers, result.centers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ["clusters", "one cloud", "ties", "far away", "tiny", "spherical", "weights"])
def test_kmeans_labels_are_exact_at_every_round(isa, dtype, case):
    # Enough centres and rounds for the triangle inequality to rule most of them out; `assign` knows nothing of it.
    x = blobs(700, 40, 20, dtype, spread=0.0 if case == "one cloud" else 1.0)
    options = {}
    if case == "ties":
        x = x.round()
        x[::3] = x[0]
    elif case == "far away":
        x = x + 1e4
    elif case == "tiny":
        x = x * 1e-30
    elif case == "spherical":
        x, options = torch.nn.functional.normalize(x), {"spherical": True}
    elif case == "weights":
        options = {"weights": torch.rand(len(x), generator=torch.Generator().manual_seed(1)).round(decimals=1)}
    init = x[:40].clone()
    last = neighbors.kmeans(x, 40, init=init, **options).n_iter
    assert last > 6
    for rounds in {3, 4, 5, *range(7, last, 4)}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gramian.NumericalWarning)
            found = neighbors.kmeans(x, 40, init=init, max_iter=rounds, **options)
        assert torch.equal(found.labels, neighbors.assign(x, found.centers).labels), rounds


def test_kmeans_inertia_never_rises_and_a_run_can_be_continued():
    x = blobs(800, 6, 10, torch.float32)
    whole = neighbors.kmeans(x, 20, init=x[:20], max_iter=500)
    runs = [neighbors.kmeans(x, 20, init=x[:20], max_iter=rounds) for rounds in range(1, whole.n_iter + 1)]
    inertias = [run.inertia for run in runs]
    assert inertias == sorted(inertias, reverse=True)
    for run in runs:
        assert torch.equal(neighbors.assign(x, run.centers).labels, run.labels)
    assert [run.n_iter for run in runs] == list(range(1, whole.n_iter + 1))
    rest = neighbors.kmeans(x, 20, init=runs[4].centers, max_iter=500)
    assert torch.equal(rest.centers, whole.centers)
    assert torch.equal(rest.labels, whole.labels)
    assert rest.n_iter == whole.n_iter - 5


def test_kmeans_tolerance_stops_early_with_labels_of_the_centres():
    x = blobs(800, 6, 10)
    result = neighbors.kmeans(x, 20, init=x[:20], tol=1e-2, max_iter=500)
    expected = reference.lloyd(wide(x), wide(x[:20]), tol=1e-2)
    assert result.n_iter == expected[3]
    assert result.n_iter < reference.lloyd(wide(x), wide(x[:20]))[3]
    np.testing.assert_array_equal(result.labels, expected[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_relocates_empty_clusters(dtype):
    x = blobs(200, 4, 3, dtype)
    init = torch.cat([x[:6], x[:4], x.new_full((5, 3), 100.0)])  # duplicates, and centres nobody is near
    result = neighbors.kmeans(x, 15, init=init, max_iter=500)
    expected = reference.lloyd(wide(x), wide(init), dtype=np.dtype(str(dtype).removeprefix("torch.")))
    np.testing.assert_array_equal(result.labels, expected[1])
    assert result.n_iter == expected[3]
    assert result.labels.unique().numel() == 15


def test_kmeans_stops_where_a_point_falls_back_from_the_cluster_that_took_it():
    x = torch.tensor([[-826.0, 0.2, -64.0, -0.1, 323.0]]).expand(7, 5)  # equal directions, and none at its centre
    init = torch.tensor([[0.0, -228.0, 0.0, 393.0, 0.0], [2822.0, -1.5, -366.0, 0.4, -532.0]])
    _, labels, _, n_iter = torch.ops.gramian.neighbors_kmeans(x, init, max_iter=1 << 40, spherical=True)
    assert labels.tolist() == [0] * 7
    assert n_iter <= 3


def test_kmeans_takes_no_point_that_lies_at_its_centre_but_for_rounding():
    x = torch.tensor([[-0.2688, 1.3931, 1.2732]], dtype=torch.float64).expand(16, 3)
    init = torch.tensor([[139.7071, -699.4977, -1359.1243], [-304.8471, 2614.3117, -1733.7540]], dtype=torch.float64)
    assert torch.ops.gramian.neighbors_kmeans(x, init, max_iter=1 << 40, tol=1e-4)[3] <= 4


def test_kmeans_can_keep_empty_clusters():
    x = blobs(200, 4, 3)
    init = torch.cat([x[:4], x.new_full((2, 3), 100.0)])
    with pytest.warns(gramian.NumericalWarning, match="kmeans: only 4 of 6 clusters have points"):
        result = neighbors.kmeans(x, 6, init=init, empty="keep")
    assert torch.equal(result.centers[4:], init[4:])
    assert torch.equal(result.centers[:4], neighbors.kmeans(x, 4, init=x[:4]).centers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_with_a_cluster_for_every_point(dtype):
    x = rows(50, 4, dtype)
    result = neighbors.kmeans(x, 50, init=x.flip(0))
    assert result.inertia == 0
    assert result.labels.tolist() == list(range(49, -1, -1))


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_kmeans_with_fewer_different_points_than_clusters(init):
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]]).repeat(20, 1)
    with pytest.warns(gramian.NumericalWarning, match="kmeans: only 3 of 10 clusters have points"):
        result = neighbors.kmeans(x, 10, init=init, generator=torch.Generator().manual_seed(0))
    assert result.inertia == 0
    assert result.labels.unique().numel() == 3


def test_kmeans_weights_count_points():
    x = blobs(150, 4, 6)
    weights = torch.randint(0, 4, (150,), generator=torch.Generator().manual_seed(1))
    init = x[weights > 0][:8]
    result = neighbors.kmeans(x, 8, init=init, weights=weights, max_iter=500)
    repeated = neighbors.kmeans(x.repeat_interleave(weights, 0), 8, init=init, max_iter=500)
    np.testing.assert_allclose(result.centers, repeated.centers, rtol=1e-12, atol=1e-13)  # sums in another order
    assert torch.equal(result.labels.repeat_interleave(weights), repeated.labels)
    assert result.inertia == pytest.approx(repeated.inertia, rel=1e-12)


def test_kmeans_weights_follow_the_reference():
    x, weights = blobs(300, 5, 7), rows(300, 1, seed=4)[:, 0].abs()
    weights[::7] = 0
    init = torch.cat([x[:9], x.new_full((3, 7), 50.0)])
    result = neighbors.kmeans(x, 12, init=init, weights=weights.float(), max_iter=500)
    expected = reference.lloyd(wide(x), wide(init), weights=wide(weights.float()))
    np.testing.assert_array_equal(result.labels, expected[1])
    assert result.inertia == pytest.approx(expected[2], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_spherical_kmeans(dtype):
    x = blobs(400, 6, 10, dtype)
    x[17] = 0
    unit = torch.nn.functional.normalize(x)
    result = neighbors.kmeans(x, 8, init=x[:8], spherical=True, max_iter=500)
    expected = reference.lloyd(
        wide(unit), wide(unit[:8]), spherical=True, dtype=np.dtype(str(dtype).removeprefix("torch."))
    )
    unit_rows = unit.norm(dim=1) > 0  # the zero row is as far from every centre as their lengths round
    np.testing.assert_array_equal(result.labels[unit_rows], expected[1][unit_rows])
    np.testing.assert_allclose(result.centers.norm(dim=1), 1, rtol=4 * torch.finfo(dtype).eps)
    # |x - c|^2 = 2 (1 - cos)
    cosines = (unit.double() * result.centers[result.labels].double()).sum(1)
    assert result.inertia == pytest.approx(1 + 2 * (1 - cosines[unit_rows]).sum().item(), rel=1e-5)


def test_kmeans_reads_any_layout(layout):
    x = layout(blobs(90, 5, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gramian.NumericalWarning)  # an expanded layout has one different point
        result = neighbors.kmeans(x, 6, init=x[:6])
        expected = neighbors.kmeans(x.contiguous(), 6, init=x[:6].contiguous())
    for a, b in zip(result, expected, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kmeans_takes_half_types(dtype):
    x = blobs(200, 5, 7, dtype)
    result = neighbors.kmeans(x, 6, init=x[:6].float())
    expected = neighbors.kmeans(x.float(), 6, init=x[:6].float())
    assert result.centers.dtype == torch.float32
    assert torch.equal(result.centers, expected.centers)
    assert neighbors.kmeans(x, 6, generator=torch.Generator().manual_seed(0)).inertia > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kmeans_bits_do_not_depend_on_the_number_of_threads(isa, dtype):
    x = blobs(3000, 8, 40, dtype)
    weights = rows(3000, 1, seed=5)[:, 0].abs()

    def run():
        generator = torch.Generator().manual_seed(2)
        result = neighbors.kmeans(x, 30, weights=weights, generator=generator, max_iter=20)
        return result.centers, result.labels, torch.tensor(result.inertia, dtype=torch.float64)

    checks.check_thread_counts_agree(run)
    checks.check_thread_counts_agree(lambda: neighbors.assign(x, x[:50]))


def test_kmeans_with_several_starts_keeps_the_best():
    x = blobs(400, 12, 4)
    best = neighbors.kmeans(x, 12, init="random", n_init=8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    inertias = [neighbors.kmeans(x, 12, init="random", generator=generator).inertia for _ in range(8)]
    assert best.inertia == min(inertias) < max(inertias)


# ---- k-means++ ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_plus_plus_draws_what_the_random_numbers_say(isa, dtype, weighted):
    x = blobs(700, 10, 6, dtype)
    weights = rows(700, 1, seed=4)[:, 0].abs() if weighted else None
    uniforms = torch.rand(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen = torch.ops.gramian.neighbors_kmeans_plus_plus(x, uniforms, weights)
    assert chosen.tolist() == reference.plus_plus(
        wide(x), uniforms.numpy(), None if weights is None else weights.numpy()
    )


def test_kmeans_plus_plus_thresholds():
    x = torch.tensor([[0.0], [1.0], [3.0]])  # from the first row, the others have 1/10 and 9/10 of the mass
    for second, expected in [(0.0, 1), (0.09, 1), (0.11, 2), (0.999, 2)]:
        uniforms = torch.tensor([[0.1], [second]], dtype=torch.float64)
        assert torch.ops.gramian.neighbors_kmeans_plus_plus(x, uniforms).tolist() == [0, expected]


def test_kmeans_plus_plus_tells_tight_clusters_apart():
    # Within a cluster, distances are 1e-4 of the distance to the others: a Gram form in float32 would see noise.
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(5, 32, generator=generator, dtype=torch.float64)
    groups = middles.repeat_interleave(4, 0) + 1e-4 * torch.randn(20, 32, generator=generator, dtype=torch.float64)
    x = groups.repeat_interleave(30, 0).float()
    chosen = neighbors.kmeans_plus_plus(x, 20, generator=generator)
    assert sorted((chosen // 30).tolist()) == list(range(20))


def test_kmeans_plus_plus_runs_out_of_different_rows():
    x = torch.zeros(40, 3)
    assert sorted(neighbors.kmeans_plus_plus(x, 40).tolist()) == list(range(40))
    weights = torch.tensor([0.0] * 39 + [1.0])
    assert neighbors.kmeans_plus_plus(x, 1, weights=weights).tolist() == [39]


def test_kmeans_plus_plus_is_better_than_random_rows():
    x = blobs(1000, 30, 8, spread=10.0)

    def inertia(chosen):
        return neighbors.assign(x, x[chosen]).distances.sum().item()

    generator = torch.Generator().manual_seed(0)
    careful = np.array([inertia(neighbors.kmeans_plus_plus(x, 30, generator=generator)) for _ in range(20)])
    random = np.array([inertia(torch.randperm(1000, generator=generator)[:30]) for _ in range(20)])
    standard_error = np.sqrt(careful.var() / 20 + random.var() / 20)
    assert random.mean() - careful.mean() > 5 * standard_error


def test_kmeans_plus_plus_same_rows_for_the_same_generator():
    x = blobs(500, 8, 12, torch.float32)

    def run():
        return neighbors.kmeans_plus_plus(x, 20, generator=torch.Generator().manual_seed(7))

    checks.check_thread_counts_agree(run)


# ---- Ops ----


def test_ops_pass_opcheck():
    x, weights = blobs(60, 4, 5, torch.float32), torch.ones(60, dtype=torch.float64)
    torch.library.opcheck(torch.ops.gramian.neighbors_kmeans.default, (x, x[:4].clone(), weights, 10))
    torch.library.opcheck(torch.ops.gramian.neighbors_kmeans.default, (x.mT, x.mT[:2], None, 10, 0.5, True, False))
    uniforms = torch.rand(4, 3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.gramian.neighbors_kmeans_plus_plus.default, (x, uniforms, weights))


# ---- Refusals ----

X = torch.zeros(6, 3)
NAN = torch.tensor([[0.0, 0.0, 0.0], [0.0, torch.nan, 0.0]])


@pytest.mark.parametrize(
    ("x", "centers", "message"),
    [
        (torch.zeros(3), torch.zeros(2, 3), "assign: x must be [..., n, d], got shape (3,)"),
        (X.int(), torch.zeros(2, 3), "assign: x must be float32, float64, bfloat16 or float16, got int32"),
        (
            X,
            torch.zeros(2, 4),
            "assign: centers must be [..., k, d] with the leading sizes and d of x, (6, 3), got (2, 4)",
        ),
        (X, torch.zeros(3), "assign: centers must be [..., k, d] with the leading sizes and d of x, (6, 3), got (3,)"),
        (X, torch.zeros(0, 3), "assign: centers must have from 1 to 2^31 - 1 rows, got 0"),
        (X, torch.zeros(2, 3).double(), "assign: centers must be float32 for x of float32, got float64"),
        (X.half(), torch.zeros(2, 3).half(), "assign: centers must be float32 for x of float16, got float16"),
        (NAN, torch.zeros(2, 3), "assign: x must be finite, got a NaN or an infinity in row 1"),
        (X, NAN, "assign: centers must be finite, got a NaN or an infinity in row 1"),
    ],
)
def test_assign_refuses(x, centers, message):
    with checks.refuses(message):
        neighbors.assign(x, centers)
    with checks.refuses(message):
        torch.ops.gramian.neighbors_assign(x, centers)


@pytest.mark.parametrize(
    ("x", "k", "options", "message"),
    [
        (torch.zeros(3), 1, {"init": torch.zeros(1, 3)}, "kmeans: x must be [n, d], got shape (3,)"),
        (X.int(), 2, {"init": X[:2]}, "kmeans: x must be float32, float64, bfloat16 or float16, got int32"),
        (X, 2, {"init": torch.zeros(2, 4)}, "kmeans: init must be [k, d] with d = 3 like x, got shape (2, 4)"),
        (X, 3, {"init": torch.zeros(2, 3)}, "kmeans: init must be [n_clusters = 3, d], got shape (2, 3)"),
        (X, 7, {"init": torch.zeros(7, 3)}, "kmeans: init must have at most n = 6 rows like x, got 7"),
        (X, 0, {"init": torch.zeros(0, 3)}, "kmeans: init must have from 1 to 2^31 - 1 rows, got 0"),
        (X, 2, {"init": X[:2].double()}, "kmeans: init must be float32 for x of float32, got float64"),
        (X, 2, {"init": NAN}, "kmeans: init must be finite, got a NaN or an infinity in row 1"),
        (NAN, 1, {"init": X[:1]}, "kmeans: x must be finite, got a NaN or an infinity in row 1"),
        (NAN, 1, {"spherical": True}, "kmeans_plus_plus: x must be finite, got a NaN or an infinity in row 1"),
        (X, 7, {}, "kmeans: n_clusters must be from 1 to n = 6, got 7"),
        (X, 0, {"init": "random"}, "kmeans: n_clusters must be from 1 to n = 6, got 0"),
        (X, 2, {"init": "best"}, "kmeans: init must be k-means++, random or a tensor, got best"),
        (X, 2, {"empty": "drop"}, "kmeans: empty must be relocate or keep, got drop"),
        (X, 2, {"n_init": 0}, "kmeans: n_init must be positive, got 0"),
        (X, 2, {"max_iter": 0}, "kmeans: max_iter must be positive, got 0"),
        (X, 2, {"tol": -1.0}, "kmeans: tol must be zero or positive, got -1"),
        (X, 2, {"tol": float("nan")}, "kmeans: tol must be zero or positive, got nan"),
        (
            X,
            2,
            {"init": X[:2], "weights": torch.ones(5)},
            "kmeans: weights must be [n] with n = 6 like x, got shape (5,)",
        ),
        (
            X,
            2,
            {"init": X[:2], "weights": torch.tensor([1.0, 1, -1, 1, 1, 1])},
            "kmeans: weights must be finite and not negative, got -1 for row 2",
        ),
        (X, 2, {"init": X[:2], "weights": torch.zeros(6)}, "kmeans: weights must have a positive sum, got 0"),
    ],
)
def test_kmeans_refuses(x, k, options, message):
    with checks.refuses(message):
        neighbors.kmeans(x, k, **options)


def test_kmeans_op_refuses_by_itself():
    with checks.refuses("kmeans: weights must be float64, got float32"):
        torch.ops.gramian.neighbors_kmeans(X, X[:2], torch.ones(6))
    with checks.refuses("kmeans: x must be [n, d], got shape (1, 6, 3)"):
        torch.ops.gramian.neighbors_kmeans(X[None], X[None, :2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, torch.zeros(3)), "kmeans_plus_plus: uniforms must be [k, trials], got shape (3,)"),
        ((X, torch.zeros(3, 1)), "kmeans_plus_plus: uniforms must be float64, got float32"),
        (
            (X, torch.zeros(7, 1).double()),
            "kmeans_plus_plus: uniforms must have from 1 to n = 6 rows, as many as clusters, got 7",
        ),
        ((X, torch.ones(3, 1).double()), "kmeans_plus_plus: uniforms must lie in [0, 1), got 1"),
        ((NAN, torch.zeros(1, 1).double()), "kmeans_plus_plus: x must be finite, got a NaN or an infinity in row 1"),
        ((X[0], torch.zeros(1, 1).double()), "kmeans_plus_plus: x must be [n, d], got shape (3,)"),
    ],
)
def test_kmeans_plus_plus_op_refuses(arguments, message):
    with checks.refuses(message):
        torch.ops.gramian.neighbors_kmeans_plus_plus(*arguments)


def test_kmeans_plus_plus_refuses():
    with checks.refuses("kmeans_plus_plus: n_clusters must be from 1 to n = 6, got 7"):
        neighbors.kmeans_plus_plus(X, 7)
    with checks.refuses("kmeans_plus_plus: trials must be positive, got 0"):
        neighbors.kmeans_plus_plus(X, 2, trials=0)
