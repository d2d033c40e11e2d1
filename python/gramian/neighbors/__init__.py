"""Exact nearest neighbours, K-means, and what they tell of a representation: its dimension and its learnability."""

from ._clid import (
    Clid,
    Correlations,
    Learnability,
    Representations,
    clid,
    clid_weights,
    cluster_learnability,
    correlations,
    predict,
    representations,
)
from ._dimension import Dimension, levina_bickel, twonn
from ._kmeans import Assignment, Clustering, assign, kmeans, kmeans_plus_plus
from ._knn import Neighbors, knn

__all__ = [
    "Assignment",
    "Clid",
    "Clustering",
    "Correlations",
    "Dimension",
    "Learnability",
    "Neighbors",
    "Representations",
    "assign",
    "clid",
    "clid_weights",
    "cluster_learnability",
    "correlations",
    "kmeans",
    "kmeans_plus_plus",
    "knn",
    "levina_bickel",
    "predict",
    "representations",
    "twonn",
]
