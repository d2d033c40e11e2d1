"""Exact spectra of piecewise linear networks over a polygon of a plane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ._relu_line import Pieces, edge_factors
from ._relu_network import CHUNK, Network, check_end, check_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Regions", "largest_slope", "regions_fourier", "relu_plane", "relu_plane_spectrum"]

_SLIVER = 1e-14  # of the polygon's area: smaller regions are dropped, and reported
_ON_LINE = 1e-12  # of a unit's largest value on the polygon: nearer to zero a corner is on the unit's line


class Regions(NamedTuple):
    """A piecewise linear function over a polygon, region by region.

    Attributes:
        corners: ``[vertices, 2]`` float64, of all regions one after the other, each counter-clockwise.
        offsets: ``[regions + 1]`` int64: where each region's corners begin.
        values: ``[vertices, c]`` float64 at the corners.
        slopes: ``[regions, c, 2]`` float64 gradient in each region.
        lost: area of slivers that were dropped, as a share of the polygon's.
    """

    corners: Tensor
    offsets: Tensor
    values: Tensor
    slopes: Tensor
    lost: float


def _area(corners: Tensor) -> float:
    x, y = corners.unbind(1)
    return float((x * y.roll(-1) - y * x.roll(-1)).sum()) / 2


def _cut(corners: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a convex polygon where the heights at its corners change sign: the parts below and above."""
    below, above = [], []
    points, level = corners.tolist(), heights.tolist()
    for i, ((x, y), h) in enumerate(zip(points, level, strict=True)):
        if h <= 0:
            below.append((x, y))
        if h >= 0:
            above.append((x, y))
        (x2, y2), h2 = points[(i + 1) % len(points)], level[(i + 1) % len(points)]
        if h * h2 < 0:
            s = h / (h - h2)
            crossing = (x + s * (x2 - x), y + s * (y2 - y))
            below.append(crossing)
            above.append(crossing)
    return torch.tensor(below, dtype=torch.float64, device="cpu"), torch.tensor(
        above, dtype=torch.float64, device="cpu"
    )


class _Plane:
    """Convex regions, and all values by their affine extension to the anchors (0, 0), (1, 0), (0, 1) of each."""

    def __init__(self, op: str, window: Tensor, max_regions: int | None) -> None:
        self.op, self.max_regions, self.regions = op, max_regions, [window]
        self.whole, self.lost = _area(window), 0.0

    @staticmethod
    def at(anchors: Tensor, corners: Tensor) -> Tensor:
        """Values ``[v, ...]`` at corners ``[v, 2]`` of a function with values ``[3, ...]`` at the anchors."""
        shares = torch.stack([1 - corners.sum(1), corners[:, 0], corners[:, 1]], 1)
        return shares @ anchors.flatten(1)

    def split(self, z: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        anchors = z.view(len(self.regions), 3, -1)
        levels = [self.at(values, corners) for values, corners in zip(anchors, self.regions, strict=True)]
        scale = torch.stack([level.abs().amax(0) for level in levels]).amax(0)
        regions: list[Tensor] = []
        parents: list[int] = []
        for index, (corners, level) in enumerate(zip(self.regions, levels, strict=True)):
            tolerance = _ON_LINE * scale
            crossed = ((level.amax(0) > tolerance) & (level.amin(0) < -tolerance)).nonzero()[:, 0]
            parts = [corners]
            for unit in crossed.tolist():
                tall = float(tolerance[unit])
                following = []
                for part in parts:
                    heights = self.at(anchors[index, :, unit : unit + 1], part)[:, 0]
                    heights = torch.where(heights.abs() <= tall, 0, heights)
                    if float(heights.amax()) <= 0 or float(heights.amin()) >= 0:
                        following.append(part)
                        continue
                    for side in _cut(part, heights):
                        area = _area(side) / self.whole if len(side) > 2 else 0.0
                        if area > _SLIVER:
                            following.append(side)
                        else:
                            self.lost += area
                parts = following
            regions += parts
            parents += [index] * len(parts)
            if self.max_regions is not None and len(regions) > self.max_regions:
                raise ValueError(f"{self.op}: max_regions must be more for this model, got {self.max_regions}")
        self.regions = regions
        rows = torch.tensor(parents, device="cpu")

        def spread(value: Tensor) -> Tensor:
            return value.view(-1, 3, *value.shape[1:])[rows].flatten(0, 1)

        return spread, spread(z)

    def activate(self, z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The activation is linear in a region: its slope is that on the side of zero where the region's middle lies."""
        anchors = z.view(len(self.regions), 3, -1)
        middles = torch.stack([region.mean(0) for region in self.regions])
        shares = torch.stack([1 - middles.sum(1), middles[:, 0], middles[:, 1]], 1)
        side = torch.where((shares[:, :, None] * anchors).sum(1, keepdim=True) < 0, -1.0, 1.0).double()
        side = side.expand_as(anchors).reshape(z.shape)
        return z * (activation(side) / side)


def relu_plane(
    model: nn.Module,
    corners: Tensor,
    *,
    origin: Tensor | None = None,
    axes: Tensor | None = None,
    max_regions: int | None = None,
) -> Regions:
    r"""Cut a polygon of a plane into the regions in which a piecewise linear network is linear, :math:`f = W_e x + b_e`.

    Args:
        model: see `relu_line`.
        corners: ``[v, 2]`` of a convex polygon, counter-clockwise, in coordinates of the plane.
        origin: input at the coordinates (0, 0), of one sample; by default zero, for a network of two inputs.
        axes: ``[2, ...]`` the input's change along each coordinate; by default the two inputs themselves.
        max_regions: refuse to make more regions than this.

    Returns:
        The regions with their corners, values and gradients in the plane's coordinates, float64.

    Raises:
        ValueError: what `relu_line` refuses, and a polygon that is not convex and counter-clockwise.

    Cost:
        A forward pass in float64 of three points a region, and a cut in Python of some 50 us for each region made.

    Accuracy:
        Float64. Slivers of less than 1e-14 of the area are dropped, and their area is reported.

    Not differentiable.

    References:
        arXiv:1806.08734, section 2.1, equation 3.

    Example:
        >>> square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> len(relu_plane(nn.Sequential(nn.Linear(2, 1), nn.ReLU()), square).offsets) - 1 in (1, 2)
        True
    """
    return _plane("relu_plane", model, corners, origin, axes, max_regions)


def _plane(
    op: str, model: nn.Module, corners: Tensor, origin: Tensor | None, axes: Tensor | None, max_regions: int | None
) -> Regions:
    window = check_end(op, "corners", corners)
    if window.dim() != 2 or window.shape[1] != 2 or len(window) < 3:
        raise ValueError(f"{op}: corners must be [v, 2] with v at least 3, got shape {tuple(corners.shape)}")
    sides = window.roll(-1, 0) - window
    following = sides.roll(-1, 0)
    if not bool((sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] > 0).all()):
        raise ValueError(f"{op}: corners must go counter-clockwise round a convex polygon, got {window.tolist()}")
    if (origin is None) != (axes is None):
        raise ValueError(f"{op}: origin and axes must be given together, got one")
    if origin is None or axes is None:
        base, along = torch.zeros(2, dtype=torch.float64, device="cpu"), torch.eye(2, dtype=torch.float64, device="cpu")
    else:
        base, along = check_end(op, "origin", origin), check_end(op, "axes", axes)
    if along.shape != (2, *base.shape):
        raise ValueError(f"{op}: axes must be {(2, *base.shape)} for this origin, got {tuple(along.shape)}")
    network, plane = Network(op, model), _Plane(op, window, max_regions)
    out = network.run(torch.stack([base, base + along[0], base + along[1]]), plane)
    anchors = out.view(len(plane.regions), 3, -1)
    sizes = torch.tensor([0, *(len(region) for region in plane.regions)], device="cpu")
    values = [plane.at(a, region) for a, region in zip(anchors, plane.regions, strict=True)]
    slopes = (anchors[:, 1:] - anchors[:, :1]).mT
    return Regions(torch.cat(plane.regions), sizes.cumsum(0), torch.cat(values), slopes, plane.lost)


def _following(regions: Regions) -> tuple[Tensor, Tensor]:
    """For each corner: the next of its region, and its region."""
    count = regions.offsets.diff()
    region = torch.repeat_interleave(torch.arange(len(count), device="cpu"), count)
    next_corner = torch.arange(len(region), device="cpu") + 1
    next_corner[regions.offsets[1:] - 1] = regions.offsets[:-1]
    return next_corner, region


def regions_fourier(regions: Regions, frequencies: Tensor) -> Tensor:
    r"""Transform a piecewise linear function of the plane in closed form, :math:`\int f(x) e^{-2\pi i k\cdot x} dx`.

    The divergence theorem turns each region's integral into one over its edges, where it is that of a linear function of one
    variable. The function's jump at the polygon's border is part of the transform.

    Args:
        regions: from `relu_plane`.
        frequencies: ``[k, 2]`` in cycles a unit of each coordinate.

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: frequencies of another shape.

    Cost:
        Two sines and two cosines an edge and frequency. Where the polygon is under a twelfth of a wavelength across, Gauss's
        rule of 64 points in each triangle instead.

    Accuracy:
        Float64: about 1e-15 times the length of all edges and the largest value, over the frequency.

    Not differentiable.

    References:
        arXiv:1806.08734, equation 4, with the sign that its transform has, and with the border's terms.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> regions = relu_plane(nn.Linear(2, 1, bias=False).requires_grad_(False), square)
        >>> found = regions_fourier(regions, torch.zeros(1, 2)).real / regions.values.mean()
        >>> found.round(decimals=6)
        tensor([[1.]], dtype=torch.float64)
    """
    k = check_frequencies("regions_fourier", frequencies, 2)
    corners, _, values, slopes, _ = regions
    out = torch.empty(len(k), values.shape[1], dtype=torch.complex128, device="cpu")
    if len(k) == 0:
        return out
    across = float((corners.amax(0) - corners.amin(0)).norm())
    low = 2 * math.pi * k.norm(dim=1) * across < 0.5
    if bool(low.any()):
        out[low] = _by_quadrature(regions, k[low])
    following, region = _following(regions)
    begin, edge = corners, corners[following] - corners
    normal = torch.stack([edge[:, 1], -edge[:, 0]], 1)  # outward, as long as the edge
    mean, half = (values[following] + values) / 2, (values[following] - values) / 2
    middle = begin + edge / 2
    high = (~low).nonzero()[:, 0]
    for picked in torch.split(high, max(1, CHUNK // len(corners))):
        wave = k[picked]
        even, odd = edge_factors(math.pi * wave @ edge.mT)
        turns = wave @ middle.mT
        angle = (turns - turns.round()) * (2 * math.pi)
        phase = torch.polar(torch.ones_like(angle), -angle)
        angular = 2 * math.pi * wave
        square = angular.square().sum(1, keepdim=True)
        flux = (angular @ normal.mT) / square * phase * 1j
        of_values = (flux * even) @ mean.to(flux.dtype) - 1j * ((flux * odd) @ half.to(flux.dtype))
        # int e^{-ik.x} over each region, summed with its gradient along k
        gradient = torch.einsum("rcd,kd->krc", slopes, angular) / square[:, :, None]
        of_ones = torch.zeros(len(picked), len(slopes), dtype=flux.dtype, device="cpu").index_add_(
            1, region, flux * even
        )
        out[picked] = of_values - 1j * torch.einsum("krc,kr->kc", gradient.to(flux.dtype), of_ones)
    return out


def _gauss(points: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's rule on [0, 1], by the eigenvalues of its Jacobi matrix."""
    j = torch.arange(1, points, dtype=torch.float64, device="cpu")
    beside = j / (4 * j * j - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (nodes + 1) / 2, vectors[0].square()


def _by_quadrature(regions: Regions, k: Tensor) -> Tensor:
    corners, offsets, values, _, _ = regions
    following, region = _following(regions)
    apex = offsets[:-1][region]
    u, weight = _gauss(8)
    # x = apex + r (a + s (b - a) - apex): the square [0, 1]^2 onto the triangle of the apex and an edge
    r, s = (g.flatten() for g in torch.meshgrid(u, u, indexing="ij"))
    share = torch.stack([1 - r, r * (1 - s), r * s], 1)
    weights = (weight[:, None] * weight).flatten() * r
    total = torch.zeros(len(k), values.shape[1], dtype=torch.complex128, device="cpu")
    triangles = torch.stack([apex, torch.arange(len(corners), device="cpu"), following], 1)
    for part in torch.split(triangles, 4096):
        x, f = share @ corners[part], share @ values[part]
        one, other = (corners[part[:, i]] - corners[part[:, 0]] for i in (1, 2))
        twice = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
        weighted = (f * (weights * twice[:, None])[..., None]).flatten(0, 1)
        for row, wave in enumerate(k):
            angle = -2 * math.pi * (x.flatten(0, 1) @ wave)
            total[row] += torch.polar(torch.ones_like(angle), angle) @ weighted.to(total.dtype)
    return total


def relu_plane_spectrum(
    model: nn.Module,
    corners: Tensor,
    frequencies: Tensor,
    *,
    origin: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    r"""Give the exact transform of a piecewise linear network over a polygon, :math:`\int f(x) e^{-2\pi i k\cdot x} dx`.

    Args:
        model: see `relu_line`.
        corners: see `relu_plane`.
        frequencies: ``[k, 2]`` in cycles a unit of each coordinate.
        origin: see `relu_plane`.
        axes: see `relu_plane`.

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: what `relu_plane` and `regions_fourier` refuse.

    Cost:
        That of `relu_plane` and `regions_fourier`.

    Accuracy:
        That of `regions_fourier`.

    Not differentiable.

    References:
        arXiv:1806.08734, equation 4.

    Example:
        >>> square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> relu_plane_spectrum(model, square, torch.tensor([[1.0, 2.0]])).shape
        torch.Size([1, 1])
    """
    regions = _plane("relu_plane_spectrum", model, corners, origin, axes, None)
    return regions_fourier(regions, frequencies)


def largest_slope(function: Pieces | Regions, *, norm: Literal["spectral", "maximum"] = "spectral") -> Tensor:
    r"""Give the largest local slope of a piecewise linear function, :math:`L_f = \max_e |W_e|`.

    Args:
        function: from `relu_line`, or from `relu_plane`.
        norm: over outputs, and in the plane over directions: the spectral norm of the gradient, or its largest entry.

    Returns:
        A scalar, float64, of outputs a unit of ``t`` (divide by the segment's length for inputs) or a unit of the coordinates.

    Raises:
        ValueError: another norm.

    Cost:
        Reads the pieces once.

    Accuracy:
        Of a piece of length h, about 1e-16 of the largest value over h.

    Not differentiable.

    References:
        arXiv:1806.08734, section 2.2: the transform is bounded by the number of regions times this.

    Example:
        >>> from gramian.spectra import relu_line
        >>> largest_slope(relu_line(nn.LeakyReLU(0.1), torch.tensor([-1.0]), torch.tensor([1.0])))
        tensor(2., dtype=torch.float64)
    """
    if norm not in ("spectral", "maximum"):
        raise ValueError(f"largest_slope: norm must be spectral or maximum, got {norm}")
    if isinstance(function, Pieces):
        slopes = (function.values.diff(dim=0) / function.t.diff()[:, None])[..., None]
    else:
        slopes = function.slopes
    if norm == "maximum":
        return slopes.abs().amax()
    largest: Tensor = torch.linalg.matrix_norm(slopes, 2).amax()
    return largest
