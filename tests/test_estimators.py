"""gramian.estimators and neighbors.kmeans_batch: scikit-learn's own checks, agreement with its estimators, mini-batches."""

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn import cluster
from sklearn import neighbors as sk_neighbors
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gramian.estimators import KMeans, NearestNeighbors
from gramian.neighbors import assign, kmeans, kmeans_batch, knn


def blobs(n=600, d=5, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 8 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(k, (n,), generator=generator)
    return centers[labels] + torch.randn(n, d, generator=generator, dtype=torch.float64), labels, centers


def expected_to_fail(estimator):
    if isinstance(estimator, KMeans):
        return {  # as for scikit-learn's own: another start is drawn
            "check_sample_weight_equivalence_on_dense_data": "the same points in another number draw another start",
        }
    return {}


@pytest.mark.filterwarnings("ignore:kmeans:gramian.NumericalWarning")  # the checks cluster few different rows
@parametrize_with_checks([KMeans(), NearestNeighbors()], expected_failed_checks=expected_to_fail)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_kmeans_agrees_with_scikit_learn():
    x = load_digits().data
    start = x[:10]
    ours = KMeans(10, init=start, tol=0).fit(x)
    theirs = cluster.KMeans(10, init=start, n_init=1, tol=0).fit(x)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(x[::3]), theirs.predict(x[::3]))
    np.testing.assert_allclose(ours.transform(x[:50]), theirs.transform(x[:50]), rtol=1e-9)
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-12)
    np.testing.assert_array_equal(ours.counts_, np.bincount(theirs.labels_, minlength=10))


def test_kmeans_weights_are_repetitions():
    x, _, centers = blobs()
    weights = np.arange(len(x)) % 3
    weighted = KMeans(4, init=centers.numpy()).fit(x, sample_weight=weights)
    repeated = KMeans(4, init=centers.numpy()).fit(np.repeat(x.numpy(), weights, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-12)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-12)
    np.testing.assert_array_equal(weighted.counts_, repeated.counts_)


def test_spherical_kmeans_predicts_directions():
    x, *_ = blobs()
    found = KMeans(4, spherical=True, random_state=0).fit(x)
    np.testing.assert_allclose(np.linalg.norm(found.cluster_centers_, axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(found.predict(3 * x.numpy()), found.labels_)
    with pytest.raises(ValueError, match=r"^KMeans: spherical must be False for partial_fit, got True$"):
        found.partial_fit(x)


def test_kmeans_in_a_pipeline_keeps_float32():
    x = blobs()[0].float().numpy()
    features = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit_transform(x)
    assert features.shape == (len(x), 3)
    assert features.dtype == np.float32


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"^KMeans: n_clusters must be at most n_samples = 3, got 8$"):
        KMeans().fit(np.zeros((3, 2)))


# ---- Mini-batches ----


def running_means(batches, centers):
    """Sculley's loop, point by point."""
    centers, counts = centers.clone(), torch.zeros(len(centers), dtype=torch.float64)
    for x in batches:
        labels = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        for row, label in zip(x, labels.tolist(), strict=True):
            counts[label] += 1
            centers[label] += (row - centers[label]) / counts[label]
    return centers, counts


def test_kmeans_batch_is_the_mean_of_all_points_so_far():
    x, _, start = blobs()
    batches = x.split(101)
    centers, counts = start, None
    for batch in batches:
        centers, counts, *_ = kmeans_batch(batch, centers, counts)
    expected, expected_counts = running_means(batches, start)
    torch.testing.assert_close(centers, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(counts, expected_counts, rtol=0, atol=0)


def test_kmeans_batch_of_everything_is_a_round_of_lloyd():
    x, _, start = blobs()
    step = kmeans_batch(x, start)
    found = assign(x, start)
    torch.testing.assert_close(step.labels, found.labels, rtol=0, atol=0)
    assert step.inertia == pytest.approx(found.distances.sum().item(), rel=1e-12)
    means = torch.stack([x[step.labels == label].mean(0) for label in range(4)])
    torch.testing.assert_close(step.centers, means, rtol=0, atol=1e-12)


def test_kmeans_batch_weights_are_repetitions_and_centres_without_points_stay():
    x, _, start = blobs()
    far = torch.cat([start, torch.full((1, 5), 1e3, dtype=torch.float64)])
    weights = torch.arange(len(x)) % 3
    weighted = kmeans_batch(x, far, weights=weights)
    repeated = kmeans_batch(x.repeat_interleave(weights, 0), far)
    torch.testing.assert_close(weighted.centers, repeated.centers, rtol=0, atol=1e-12)
    assert torch.equal(weighted.centers[4], far[4])
    assert weighted.counts.tolist() == repeated.counts.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kmeans_batch_keeps_the_dtype_of_the_centres(dtype):
    x, _, start = blobs()
    step = kmeans_batch(x.to(dtype), start.float())
    assert step.centers.dtype == torch.float32
    torch.testing.assert_close(
        step.centers.double(), kmeans_batch(x.to(dtype).double(), start.float().double()).centers, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, c: kmeans_batch(x[None], c[None]), r"kmeans_batch: x must be \[n, d\], got shape \(1, 600, 5\)"),
        (lambda x, c: kmeans_batch(x, c, torch.ones(3)), r"kmeans_batch: counts must be \[4\], got shape \(3,\)"),
        (
            lambda x, c: kmeans_batch(x, c, weights=-torch.ones(600)),
            "kmeans_batch: weights must be finite and not negative, got -1.0",
        ),
        (lambda x, c: kmeans_batch(x, c.float()), "assign: centers must be float64 for x of float64, got float32"),
    ],
)
def test_kmeans_batch_refuses(call, message):
    x, _, centers = blobs()
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(x, centers)


def test_partial_fit_goes_on_where_fit_ended():
    x, *_ = blobs()
    found = KMeans(4, random_state=0).fit(x[:300])
    step = kmeans_batch(x[300:], torch.from_numpy(found.cluster_centers_), torch.from_numpy(found.counts_))
    found.partial_fit(x[300:])
    np.testing.assert_array_equal(found.cluster_centers_, step.centers)
    assert found.counts_.sum() == 600


def test_partial_fit_comes_near_to_kmeans():
    x, _, centers = blobs(4000)
    found = KMeans(4, random_state=1)
    for batch in x.split(200):
        found.partial_fit(batch)
    assert found.n_iter_ == 20
    best = kmeans(x, 4, init=centers).inertia
    assert -found.score(x) <= 1.05 * best


# ---- Nearest neighbours ----


@pytest.mark.parametrize(
    ("ours", "theirs"), [("euclidean", "euclidean"), ("cosine", "cosine"), ("chebyshev", "chebyshev")]
)
def test_nearest_neighbors_agree_with_scikit_learn(ours, theirs):
    x, *_ = blobs()
    base, queries = x[:500].numpy(), x[500:].numpy()
    mine = NearestNeighbors(7, metric=ours).fit(base)
    peer = sk_neighbors.NearestNeighbors(n_neighbors=7, metric=theirs, algorithm="brute").fit(base)
    for given in (queries, None):
        distances, indices = mine.kneighbors(given)
        expected, expected_indices = peer.kneighbors(given)
        np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-12)
        np.testing.assert_array_equal(indices, expected_indices)
        np.testing.assert_array_equal(mine.kneighbors(given, 3, return_distance=False), indices[:, :3])
        for mode in ("connectivity", "distance"):
            difference = mine.kneighbors_graph(given, mode=mode) - peer.kneighbors_graph(given, mode=mode)
            assert abs(difference).max() < 1e-7


def test_nearest_neighbors_count_within_a_radius():
    x, *_ = blobs()
    mine = NearestNeighbors().fit(x)
    peer = sk_neighbors.NearestNeighbors(radius=2.5).fit(x)
    for given in (x.numpy() + 0.1, None):
        expected = [len(found) for found in peer.radius_neighbors(given, return_distance=False)]
        np.testing.assert_array_equal(mine.count_within(2.5, given), expected)


def test_nearest_neighbors_promote_mixed_dtypes():
    x = blobs()[0].numpy()
    distances, _ = NearestNeighbors(2).fit(x.astype(np.float32)).kneighbors(x)
    expected = knn(torch.from_numpy(x), 2, torch.from_numpy(x).float().double()).distances
    np.testing.assert_array_equal(distances, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: NearestNeighbors(3).fit(np.eye(3)).kneighbors(),
            "n_neighbors must be from 1 to 2 for n_samples_fit = 3, got 3",
        ),
        (lambda: NearestNeighbors(4).fit(np.eye(3)).kneighbors(np.eye(3)), "n_neighbors must be from 1 to 3 .*, got 4"),
        (lambda: NearestNeighbors(metric="ip").fit(np.eye(3)), "metric must be euclidean, .* or chebyshev, got ip"),
        (
            lambda: NearestNeighbors(1).fit(np.eye(3)).kneighbors_graph(mode="weights"),
            "mode must be connectivity or distance, got weights",
        ),
    ],
)
def test_nearest_neighbors_refuse(call, message):
    with pytest.raises(ValueError, match=f"^NearestNeighbors: {message}$"):
        call()
