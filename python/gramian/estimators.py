"""K-means and nearest neighbours as scikit-learn's estimators: NumPy in and out, parameters, pipelines.

Not imported by ``import gramian``: it needs scikit-learn (``pip install 'gramian[sklearn]'``). Functions on tensors are in `gramian.neighbors`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gramian import neighbors
from gramian.neighbors._kmeans import start_centers

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("gramian.estimators needs scikit-learn 1.6 or newer: pip install 'gramian[sklearn]'") from error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_matrix

__all__ = ["KMeans", "NearestNeighbors"]

_DTYPES = [np.float64, np.float32]


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():  # of arrays that are read-only: they are only read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def _rows(estimator: Any, x: ArrayLike, *, reset: bool, fewest: int = 1) -> NDArray[Any]:
    rows: NDArray[Any] = validate_data(estimator, x, reset=reset, dtype=_DTYPES, order="C", ensure_min_samples=fewest)
    return rows


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """`gramian.neighbors.kmeans` with the parameters and attributes of scikit-learn's KMeans.

    Args:
        n_clusters: number of clusters.
        init: ``"k-means++"`` (greedy), ``"random"``, or the centres, ``[n_clusters, d]``.
        n_init: runs, of which the best is kept; ``"auto"`` is 10 for ``"random"``, otherwise 1.
        max_iter: most rounds of a run.
        tol: a run ends when the centres move by less than this times the mean variance of the features.
        spherical: cluster directions.
        random_state: an int, a ``numpy.random.RandomState`` or None.

    Attributes:
        cluster_centers_: ``[n_clusters, d]`` in the dtype of the rows.
        labels_: ``[n]`` int32, of the rows last fitted (of the last batch after `partial_fit`).
        inertia_: the weighted sum of squared distances to the centres.
        n_iter_: rounds of the best run, or batches.
        counts_: ``[n_clusters]``, the weight of the points of each centre.
        n_features_in_: ``d``.

    Where it differs from scikit-learn's: labels are exact and the same for every number of threads; ``spherical``; `partial_fit`
    without a second class; no ``algorithm``.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        spherical: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.spherical = spherical
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> KMeans:
        """Cluster the rows of X."""
        rows = self._enough(_rows(self, X, reset=True))
        weights = self._weights(rows, sample_weight)
        n_init = (
            (10 if isinstance(self.init, str) and self.init == "random" else 1)
            if self.n_init == "auto"
            else self.n_init
        )
        found = neighbors.kmeans(
            _tensor(rows),
            self.n_clusters,
            init=self._start(rows),
            n_init=n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            weights=weights,
            spherical=self.spherical,
            generator=self._generator(),
        )
        counts = torch.zeros(self.n_clusters, dtype=torch.float64)
        counts.index_add_(0, found.labels, torch.ones(len(rows), dtype=torch.float64) if weights is None else weights)
        self._keep(found.centers, counts, found.labels, found.inertia)
        self.n_iter_ = found.n_iter
        return self

    def partial_fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> KMeans:
        """Move the centres with one batch of rows; the first one, of at least n_clusters rows, starts them."""
        if self.spherical:
            raise ValueError("KMeans: spherical must be False for partial_fit, got True")
        begun = hasattr(self, "cluster_centers_")
        rows = _rows(self, X, reset=not begun)
        weights = self._weights(rows, sample_weight)
        if begun:
            centers, counts = _tensor(self.cluster_centers_), _tensor(self.counts_)
        else:
            x, counts = _tensor(self._enough(rows)), None
            centers = start_centers(x, self.n_clusters, self._start(rows), weights, self._generator())
        batch = _tensor(rows).to(centers.dtype)
        step = neighbors.kmeans_batch(batch, centers, counts, weights=weights)
        self._keep(step.centers, step.counts, step.labels, step.inertia)
        self.n_iter_ = self.n_iter_ + 1 if begun else 1
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """Return the nearest centre of every row, ``[n]`` int32."""
        labels: NDArray[np.int32] = self._assignment(X).labels.numpy().astype(np.int32)
        return labels

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the distance of every row to every centre, ``[n, n_clusters]``."""
        x, centers = self._points(X)
        near = neighbors.knn(x, len(centers), centers)
        distances: NDArray[Any] = torch.empty_like(near.distances).scatter_(1, near.indices, near.distances).numpy()
        return distances

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Return minus the weighted sum of squared distances of the rows to their nearest centres."""
        squared = self._assignment(X).distances.numpy().astype(np.float64)
        weights = _check_sample_weight(sample_weight, squared, dtype=np.float64)
        return -float(weights @ squared)

    def _enough(self, rows: NDArray[Any]) -> NDArray[Any]:
        if len(rows) < self.n_clusters:
            raise ValueError(f"KMeans: n_clusters must be at most n_samples = {len(rows)}, got {self.n_clusters}")
        return rows

    def _weights(self, rows: NDArray[Any], given: ArrayLike | None) -> torch.Tensor | None:
        if given is None:
            return None
        return _tensor(_check_sample_weight(given, rows, dtype=np.float64, ensure_non_negative=True))

    def _start(self, rows: NDArray[Any]) -> torch.Tensor | str:
        return self.init if isinstance(self.init, str) else _tensor(np.array(self.init, dtype=rows.dtype, order="C"))

    def _generator(self) -> torch.Generator:
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return torch.Generator().manual_seed(int(seed))

    def _keep(self, centers: torch.Tensor, counts: torch.Tensor, labels: torch.Tensor, inertia: float) -> None:
        self.cluster_centers_ = centers.numpy()
        self.counts_ = counts.numpy()
        self.labels_ = labels.numpy().astype(np.int32)
        self.inertia_ = inertia
        self._n_features_out = self.n_clusters

    def _points(self, x: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
        check_is_fitted(self)
        centers = _tensor(self.cluster_centers_)
        points = _tensor(_rows(self, x, reset=False)).to(centers.dtype)
        return torch.nn.functional.normalize(points) if self.spherical else points, centers

    def _assignment(self, x: ArrayLike) -> neighbors.Assignment:
        return neighbors.assign(*self._points(x))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class NearestNeighbors(BaseEstimator):  # type: ignore[misc]
    """`gramian.neighbors.knn` with the methods of scikit-learn's NearestNeighbors.

    Args:
        n_neighbors: neighbours a row.
        metric: ``"euclidean"``, ``"sqeuclidean"``, ``"cosine"`` or ``"chebyshev"``.

    Attributes:
        n_samples_fit_: rows to search.
        n_features_in_: ``d``.
        effective_metric_: the metric.

    Where it differs from scikit-learn's: always exact by brute force; equal distances go to the lower index; `count_within` instead of
    radius queries.
    """

    def __init__(self, n_neighbors: int = 5, *, metric: str = "euclidean") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def fit(self, X: ArrayLike, y: Any = None) -> NearestNeighbors:
        """Keep the rows of X to search among."""
        if self.metric not in {"euclidean", "sqeuclidean", "cosine", "chebyshev"}:
            raise ValueError(
                f"NearestNeighbors: metric must be euclidean, sqeuclidean, cosine or chebyshev, got {self.metric}"
            )
        self._fit_X = _rows(self, X, reset=True)
        self.n_samples_fit_ = len(self._fit_X)
        self.effective_metric_ = self.metric
        return self

    def kneighbors(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> Any:
        """Return distances and indices ``[n, n_neighbors]`` of the rows nearest to those of X.

        Without X, to each row that was fitted among the others.
        """
        near = self._nearest(X, n_neighbors)
        indices = near.indices.numpy()
        return (near.distances.numpy(), indices) if return_distance else indices

    def kneighbors_graph(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        mode: str = "connectivity",
    ) -> csr_matrix:
        """Return the neighbours as a sparse matrix ``[n, n_samples_fit_]`` of ones, or of distances."""
        from scipy.sparse import csr_matrix

        if mode not in {"connectivity", "distance"}:
            raise ValueError(f"NearestNeighbors: mode must be connectivity or distance, got {mode}")
        near = self._nearest(X, n_neighbors)
        values = near.distances.numpy().ravel() if mode == "distance" else np.ones(near.indices.numel())
        n, k = near.indices.shape
        return csr_matrix((values, near.indices.numpy().ravel(), np.arange(n + 1) * k), shape=(n, self.n_samples_fit_))

    def count_within(self, radius: float, X: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return how many of the fitted rows lie within the radius of those of X (of each fitted row, itself left out)."""
        check_is_fitted(self)
        x, base = self._sides(X)
        counts: NDArray[np.int64] = neighbors.count_within(
            x, radius, base, metric=self.metric, exclude_self=base is None
        ).numpy()
        return counts

    def _nearest(self, x: ArrayLike | None, n_neighbors: int | None) -> neighbors.Neighbors:
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        most = self.n_samples_fit_ - (x is None)
        if not 1 <= k <= most:
            raise ValueError(
                f"NearestNeighbors: n_neighbors must be from 1 to {most} for n_samples_fit = {self.n_samples_fit_}, got {k}"
            )
        rows, base = self._sides(x)
        return neighbors.knn(rows, k, base, metric=self.metric, exclude_self=base is None)

    def _sides(self, x: ArrayLike | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        fitted = _tensor(self._fit_X)
        if x is None:
            return fitted, None
        rows = _tensor(_rows(self, x, reset=False))
        wide = torch.promote_types(rows.dtype, fitted.dtype)
        return rows.to(wide), fitted.to(wide)
