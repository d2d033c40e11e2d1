"""Intrinsic dimension from distances to the nearest neighbours: TwoNN and Levina-Bickel, of the set and at each point."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from gramian._warnings import NumericalWarning

from ._knn import Neighbors, knn

__all__ = ["Dimension", "levina_bickel", "twonn"]


class Dimension(NamedTuple):
    """An intrinsic dimension: of the whole set, and at each point if that was asked for."""

    value: Tensor
    local: Tensor | None


def twonn(
    x: Tensor,
    *,
    estimator: str = "linear",
    discard: float | None = None,
    duplicates: str = "merge",
    neighborhood: int = 0,
) -> Dimension:
    r"""Intrinsic dimension from the ratio of the two nearest distances, :math:`\mu_i = r_{i,2} / r_{i,1}`.

    Where the density is even over that reach, :math:`\log \mu` is exponential with rate :math:`d`, the dimension.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite, any strides.
        estimator: ``"linear"``, the slope through the origin of :math:`-\log(1 - i/n)` over the sorted
            :math:`\log \mu_{(i)}`; or ``"mle"``, maximum likelihood without its bias, :math:`(n-1) / \sum_i \log \mu_i`.
        discard: share of the largest ratios to leave out (``"mle"``: to censor), from 0 up to 1. Without it 0.1 for
            ``"linear"``, as its authors advise, and 0 for ``"mle"``.
        duplicates: equal rows have no ratio. ``"merge"`` counts them once; ``"drop"`` leaves out every row that has an
            equal; ``"raise"`` refuses them.
        neighborhood: also estimate the dimension at every row, by ``"mle"`` over its own ratio and those of so many
            nearest rows; 0, none.

    Returns:
        ``Dimension(value, local)``: a float64 scalar tensor, and ``[n]`` float64 or None. Duplicates share a local
        dimension; rows that were dropped have NaN. NaN with a ``NumericalWarning`` where there are fewer than three
        different rows, or all ratios are one.

    Raises:
        ValueError: wrong shape or dtype, an unknown ``estimator`` or ``duplicates``, ``discard`` or ``neighborhood`` out of
            range, duplicates if they are refused, a NaN or an infinity (the first such row is named).

    Cost:
        `knn` with ``k = 2`` (or ``neighborhood``) among the rows themselves, ``n^2 d`` flops, and a sort.

    Accuracy:
        Distances as of `knn`, rounded once to the dtype of ``x``; all else in float64.

    Differentiable in ``x`` with the neighbours held fixed.

    References:
        Facco, d'Errico, Rodriguez and Laio, Estimating the intrinsic dimension of datasets by a minimal neighborhood
        information, Scientific Reports 7:12140, 2017. As the expressiveness of a representation: arXiv:2206.01251.

    Example:
        >>> flat = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(2, 50)
        >>> round(twonn(flat).value.item(), 1)
        2.0
    """
    op = "twonn"
    if estimator not in {"linear", "mle"}:
        raise ValueError(f"{op}: estimator must be linear or mle, got {estimator}")
    if discard is None:
        discard = 0.1 if estimator == "linear" else 0.0
    if not 0 <= discard < 1:
        raise ValueError(f"{op}: discard must be from 0 up to 1, got {discard}")
    if neighborhood < 0:
        raise ValueError(f"{op}: neighborhood must be zero or positive, got {neighborhood}")
    return _twonn(x, None, estimator, discard, duplicates, neighborhood)


def twonn_from(x: Tensor, found: Neighbors) -> Tensor:
    """Return ``twonn(x).value`` for nearest neighbours that are known."""
    return _twonn(x, found, "linear", 0.1, "merge", 0).value


def twonn_of_ratios(ratios: Tensor) -> Tensor:
    """Return the dimension for the ratios of the two nearest distances, in any order."""
    value = _linear(ratios.log(), 0.1) if len(ratios) > 2 else ratios.new_full((), torch.nan)
    return value if bool(value.isfinite()) else _undefined("twonn", ratios, 4)


def _twonn(
    x: Tensor, found: Neighbors | None, estimator: str, discard: float, duplicates: str, neighborhood: int
) -> Dimension:
    op = "twonn"
    near = _nearest(op, x, max(2, neighborhood), duplicates, found)
    if near is None:
        return Dimension(_undefined(op, x, 4), torch.full_like(x[:, 0], torch.nan).double() if neighborhood else None)
    logs = (near.distances[:, 1] / near.distances[:, 0]).log()
    value = _linear(logs, discard) if estimator == "linear" else _censored_mle(logs, discard)
    if not value.isfinite():
        value = _undefined(op, x, 4)
    local = None
    if neighborhood:
        around = logs[near.indices[:, :neighborhood]].sum(1) + logs
        local = near.spread(neighborhood / around)
    return Dimension(value, local)


def levina_bickel(
    x: Tensor, k: int = 20, *, average: str = "inverses", unbiased: bool = False, duplicates: str = "merge"
) -> Dimension:
    r"""Intrinsic dimension by maximum likelihood over the ``k`` nearest distances :math:`T_{i,1} \le \dots \le T_{i,k}`.

    At a row, :math:`m_i = \big[\frac{1}{k-1} \sum_{j<k} \log (T_{i,k} / T_{i,j})\big]^{-1}`; of the set, their average.

    Args:
        x: ``[n, d]`` float32, float64, bfloat16 or float16, finite, any strides.
        k: neighbours a row, from 2 (from 3 if ``unbiased``) up to the rows less one.
        average: ``"inverses"``, the inverse of the mean of :math:`1 / m_i` (MacKay and Ghahramani's correction); ``"values"``,
            the mean of the :math:`m_i` (as first published).
        unbiased: divide by ``k - 2`` instead of ``k - 1``.
        duplicates: equal rows have no ratio. ``"merge"`` counts them once; ``"drop"`` leaves out every row that has an
            equal; ``"raise"`` refuses them.

    Returns:
        ``Dimension(value, local)``: a float64 scalar tensor, and :math:`m_i` as ``[n]`` float64. Duplicates share theirs; rows
        that were dropped have NaN. NaN with a ``NumericalWarning`` where there are too few different rows.

    Raises:
        ValueError: wrong shape or dtype, ``k`` out of range, an unknown ``average`` or ``duplicates``, duplicates if they are
            refused, a NaN or an infinity (the first such row is named).

    Cost:
        `knn` among the rows themselves, ``n^2 d`` flops; ``n k`` logarithms.

    Accuracy:
        Distances as of `knn`, rounded once to the dtype of ``x``; all else in float64.

    Differentiable in ``x`` with the neighbours held fixed.

    References:
        Levina and Bickel, Maximum likelihood estimation of intrinsic dimension, NIPS 2004; MacKay and Ghahramani's comments
        on it, 2005.

    Example:
        >>> flat = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) @ torch.eye(2, 50)
        >>> round(levina_bickel(flat, 10).value.item(), 1)
        2.0
    """
    op = "levina_bickel"
    if average not in {"inverses", "values"}:
        raise ValueError(f"{op}: average must be inverses or values, got {average}")
    fewest = 3 if unbiased else 2
    if k < fewest:
        raise ValueError(f"{op}: k must be at least {fewest}, got {k}")
    near = _nearest(op, x, k, duplicates)
    if near is None:
        return Dimension(_undefined(op, x), torch.full_like(x[:, 0], torch.nan).double())
    inverses = (near.distances[:, -1:] / near.distances[:, :-1]).log().sum(1) / (k - fewest + 1)
    value = 1 / inverses.mean() if average == "inverses" else (1 / inverses).mean()
    return Dimension(value if value.isfinite() else _undefined(op, x), near.spread(1 / inverses))


class _Nearest(NamedTuple):
    """Float64 distances and indices ``[m, k]`` among the rows that count, and which of them (or none) each row is."""

    distances: Tensor
    indices: Tensor
    place: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Return one value for each row of the input: that of its place, NaN where it has none."""
        return torch.where(self.place >= 0, values[self.place], torch.nan)


def _nearest(op: str, x: Tensor, k: int, duplicates: str, found: Neighbors | None = None) -> _Nearest | None:
    if x.ndim != 2:
        raise ValueError(f"{op}: x must be [n, d], got shape {tuple(x.shape)}")
    if duplicates not in {"merge", "drop", "raise"}:
        raise ValueError(f"{op}: duplicates must be merge, drop or raise, got {duplicates}")
    n = len(x)
    if n <= 2:
        return None
    if k >= n:
        raise ValueError(f"{op}: k must be less than n = {n}, got {k}")
    near = knn(x, k, exclude_self=True) if found is None else found
    place = torch.arange(n, device=x.device)
    equal = near.distances[:, 0] == 0
    if equal.any():
        if duplicates == "raise":
            raise ValueError(f"{op}: x must have different rows, got an equal of row {int(equal.int().argmax())}")
        kept, place = _first_of_equals(x) if duplicates == "merge" else _without(equal)
        if len(kept) <= k:
            return None
        near = knn(x[kept], k, exclude_self=True)
    return _Nearest(near.distances.double(), near.indices, place)


def _first_of_equals(x: Tensor) -> tuple[Tensor, Tensor]:
    _, place = torch.unique(x.detach(), dim=0, return_inverse=True)
    kept = torch.full((int(place.max()) + 1,), len(x), device=x.device)
    kept = kept.scatter_reduce(0, place, torch.arange(len(x), device=x.device), "amin")
    return kept, place


def _without(equal: Tensor) -> tuple[Tensor, Tensor]:
    return (~equal).nonzero()[:, 0], torch.where(equal, -1, (~equal).cumsum(0) - 1)


def _linear(logs: Tensor, discard: float) -> Tensor:
    n = len(logs)
    kept = min(int(n * (1 - discard)), n - 1)  # at i = n the logarithm has no value
    low = logs.sort().values[:kept]
    quantile = torch.arange(1, kept + 1, dtype=torch.float64, device=logs.device) / n
    return (low * -torch.log1p(-quantile)).sum() / low.square().sum()


def _censored_mle(logs: Tensor, discard: float) -> Tensor:
    n = len(logs)
    kept = max(int(n * (1 - discard)), 2)
    low = logs.sort().values[:kept]
    return (kept - 1) / (low.sum() + (n - kept) * low[-1])


def _undefined(op: str, x: Tensor, stacklevel: int = 3) -> Tensor:
    warnings.warn(
        f"{op}: too few different rows to tell a dimension, the result is NaN", NumericalWarning, stacklevel=stacklevel
    )
    return torch.full((), torch.nan, dtype=torch.float64, device=x.device)
