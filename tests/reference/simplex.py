"""4-simplices from points of R⁴ in NumPy's widest float; 6j symbols from Racah's sum."""

import itertools

import numpy as np

PAIRS = list(itertools.combinations(range(5), 2))


def lengths(points):
    points = np.asarray(points, dtype=np.longdouble)
    return np.array([np.sqrt(((points[i] - points[j]) ** 2).sum()) for i, j in PAIRS])


def _determinant(rows):
    if len(rows) == 1:
        return rows[0][0]
    return sum((-1) ** k * rows[0][k] * _determinant(np.delete(rows[1:], k, 1)) for k in range(len(rows)))


def _normal(edges):
    """The vector that is orthogonal to three of R⁴, as long as their parallelepiped."""
    return np.array([(-1) ** k * _determinant(np.delete(edges, k, 1)) for k in range(4)])


def weight(points, labels):
    """Action and 4! volume: dihedral angles between the outer normals of the facets."""
    points = np.asarray(points, dtype=np.longdouble)
    volume = abs(_determinant(points[1:] - points[0]))
    normals = []
    for k in range(5):
        facet = np.delete(points, k, 0)
        normal = _normal(facet[1:] - facet[0])
        normals.append(-normal if normal @ (points[k] - facet[0]) > 0 else normal)
    action = np.longdouble(0)
    for e, (i, j) in enumerate(PAIRS):
        cosine = -(normals[i] @ normals[j])
        square = (normals[i] @ normals[i]) * (normals[j] @ normals[j])
        action += labels[e] * np.arctan2(np.sqrt(square - cosine**2), cosine)
    return action, volume
