"""K-means as the papers write it, in float64 and without a shortcut."""

import numpy as np


def squared_distances(x, centers):
    return np.stack([((x - c) ** 2).sum(1) for c in centers], axis=1)


def assign(x, centers):
    table = squared_distances(x, centers)
    return table.argmin(1), table.min(1)  # argmin takes the first


def _relocate(x, weights, sums, mass, labels, distance, count):
    """Empty clusters, in their order, take the farthest points that are not the last of their cluster. True if any did."""
    order = iter(sorted(np.flatnonzero((distance > 0) & (weights > 0)), key=lambda i: (-distance[i], i)))
    empty = np.flatnonzero(count == 0)
    for j in empty:
        point = next((i for i in order if count[labels[i]] > 1), None)
        if point is None:
            return j > empty[0]
        source = labels[point]
        sums[source] -= weights[point] * x[point]
        mass[source] -= weights[point]
        count[source] -= 1
        sums[j], mass[j], count[j] = x[point], 1, 1
    return len(empty) > 0


def lloyd(x, init, *, weights=None, max_iter=1000, tol=0.0, spherical=False, relocate=True, dtype=np.float64):
    """Rounds of assignment and update until no label changes; centres are rounded to ``dtype`` after each update."""
    weights = np.ones(len(x)) if weights is None else weights
    centers, previous, relocated = init.astype(np.float64), None, False
    enough = tol * x.var(0).mean() if x.size else 0
    for n_iter in range(1, max_iter + 1):
        labels, distance = assign(x, centers)
        if previous is not None and not relocated and (labels == previous).all():
            return centers, labels, (weights * distance).sum(), n_iter
        members = [labels == j for j in range(len(centers))]
        sums = np.stack([(weights[m, None] * x[m]).sum(0) for m in members])
        mass = np.array([weights[m].sum() for m in members])
        count = np.array([(weights[m] > 0).sum() for m in members])
        relocated = relocate and _relocate(x, weights, sums, mass, labels, distance, count)
        before = centers.copy()
        for j in np.flatnonzero(count):
            divisor = np.sqrt((sums[j] ** 2).sum()) if spherical else mass[j]
            if divisor > 0:
                centers[j] = (sums[j] / divisor).astype(dtype)
        previous = labels
        if 0 < enough >= ((centers - before) ** 2).sum():
            break
    labels, distance = assign(x, centers)
    return centers, labels, (weights * distance).sum(), n_iter


def plus_plus(x, uniforms, weights=None):
    """Greedy k-means++ with the given random numbers, [k, trials]."""
    weights = np.ones(len(x)) if weights is None else weights

    def draw(mass, uniform):
        return int(np.searchsorted(mass.cumsum(), uniform * mass.sum(), side="right"))

    chosen = [draw(weights, uniforms[0, 0])]
    closest = squared_distances(x, x[chosen])[:, 0]
    for row in uniforms[1:]:
        candidates = [draw(weights * closest, u) for u in row]
        left = np.minimum(closest[:, None], squared_distances(x, x[candidates]))
        best = int((weights @ left).argmin())
        chosen.append(candidates[best])
        closest = left[:, best]
    return chosen
