"""Exact nearest neighbours, K-means, and what they tell of a representation: its dimension and its learnability."""

from ._clid import Clid, Learnability, clid, cluster_learnability, predict
from ._comparison import Correlations, clid_weights, correlations
from ._dimension import Dimension, levina_bickel, twonn
from ._kmeans import Assignment, Clustering, assign, kmeans, kmeans_plus_plus
from ._knn import Neighbors, knn, knn_chunks
from ._minibatch import BatchUpdate, kmeans_batch
from ._representations import Representations, representations
from ._sweeps import KnnBoth, KnnPass, knn_both, knn_pass
from ._within import count_within

__all__ = [
    "Assignment",
    "BatchUpdate",
    "Clid",
    "Clustering",
    "Correlations",
    "Dimension",
    "KnnBoth",
    "KnnPass",
    "Learnability",
    "Neighbors",
    "Representations",
    "assign",
    "clid",
    "clid_weights",
    "cluster_learnability",
    "correlations",
    "count_within",
    "kmeans",
    "kmeans_batch",
    "kmeans_plus_plus",
    "knn",
    "knn_both",
    "knn_chunks",
    "knn_pass",
    "levina_bickel",
    "predict",
    "representations",
    "twonn",
]
