"""Exact spectra of piecewise linear networks: along a segment, and over a polygon of a plane."""

from __future__ import annotations

import copy
import math
import operator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Pieces",
    "Regions",
    "largest_slope",
    "pieces_fourier",
    "regions_fourier",
    "relu_line",
    "relu_line_spectrum",
    "relu_plane",
    "relu_plane_spectrum",
]

_CHUNK = 1 << 18  # pieces or edges times frequencies at once: temporaries of 2 MB stay in cache
_MERGED = 4 * torch.finfo(torch.float64).eps  # knots nearer than this, of the segment, are one


class Pieces(NamedTuple):
    """A piecewise linear function on a segment, exact between knots.

    Attributes:
        t: ``[pieces + 1]`` float64 knots, ascending from 0 to 1.
        values: ``[pieces + 1, c]`` float64 at the knots.
    """

    t: Tensor
    values: Tensor


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


# ---- Networks as graphs of affine maps and kinks ----

_AFFINE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
)
_FIXED_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_SHAPES = {torch.flatten, torch.reshape, "flatten", "reshape", "view", "size", "contiguous", getattr}
_SUMS = {
    operator.add,
    operator.iadd,
    operator.sub,
    operator.isub,
    torch.add,
    torch.sub,
    operator.neg,
    torch.neg,
    "add",
    "sub",
}
_PRODUCTS = {operator.mul, operator.imul, operator.truediv, torch.mul, torch.div, "mul", "div"}


class _Network:
    """A module as torch.fx sees it, in float64: what is affine runs as it is, a kink first splits the domain.

    `split.split(z)` may lengthen the batch; it returns what lengthens all other values likewise, and the new `z`, on
    which `split.activate(z, activation)` is then linear in every part.
    """

    def __init__(self, op: str, model: nn.Module) -> None:
        self.op = op
        try:
            self.graph = torch.fx.symbolic_trace(nn.Sequential(copy.deepcopy(model).double()))
        except Exception as error:
            raise ValueError(
                f"{op}: model must be a graph that torch.fx can trace, got {type(model).__name__}: {error}"
            ) from error
        self.modules = dict(self.graph.named_modules())
        self.last_use: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in self.graph.graph.nodes:
            for used in node.all_input_nodes:
                self.last_use[used] = node
            self.kink(node)  # refuses before any work

    def refuse(self, what: str) -> None:
        raise ValueError(
            f"{self.op}: model must be piecewise linear (ReLU, LeakyReLU, PReLU or abs between affine layers), got {what}"
        )

    def kink(self, node: torch.fx.Node) -> Callable[[Tensor], Tensor] | None:
        """The activation of a node, None if it is affine; refuses what is neither."""
        target: Any = node.target
        if node.op == "call_module":
            module = self.modules[target]
            if isinstance(module, nn.ReLU):
                return torch.relu
            if isinstance(module, (nn.LeakyReLU, nn.PReLU)):
                return copy.copy(module)
            if isinstance(module, _FIXED_MODULES) and module.training:
                self.refuse(f"{type(module).__name__} {target!r} in training mode")
            if not isinstance(module, _AFFINE_MODULES + _FIXED_MODULES):
                self.refuse(f"{type(module).__name__} {target!r}")
            return None
        if node.op in ("call_function", "call_method"):
            if target in (torch.relu, nn.functional.relu, "relu", "relu_"):
                return torch.relu
            if target in (torch.abs, operator.abs, abs, "abs"):
                return torch.abs
            if target is nn.functional.leaky_relu:
                slope: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
                return lambda z: nn.functional.leaky_relu(z, slope)
            if target in _PRODUCTS and sum(self.varies(a) for a in node.args) > 1:
                self.refuse(f"a product, {node.name!r}")
            if target in (operator.truediv, torch.div, "div") and any(self.varies(a) for a in node.args[1:]):
                self.refuse(f"a quotient, {node.name!r}")
            if target not in _SHAPES | _SUMS | _PRODUCTS:
                self.refuse(getattr(target, "__name__", str(target)))
        return None

    def varies(self, node: Any) -> bool:
        """Whether a node depends on the input."""
        if not isinstance(node, torch.fx.Node) or node.op == "get_attr":
            return False
        return node.op == "placeholder" or any(self.varies(used) for used in node.all_input_nodes)

    @torch.no_grad()
    def run(self, x: Tensor, split: _Line | _Plane) -> Tensor:
        """Return the output for the batch that `x` has grown to."""
        env: dict[torch.fx.Node, Any] = {}
        target: Any
        for node in self.graph.graph.nodes:
            if node.op == "output":
                result: Tensor = env[node.args[0]]
                return result
            activation, target = self.kink(node), node.target
            if node.op == "placeholder":
                env[node] = x
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(self.graph)
            elif activation is not None:
                (source, *_) = node.all_input_nodes
                spread, z = split.split(env[source])
                for other, value in env.items():
                    if isinstance(value, Tensor) and other is not source and other.op != "get_attr":
                        env[other] = spread(value)
                env[source], env[node] = z, split.activate(z, activation)
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
                if node.op == "call_module":
                    env[node] = self.modules[str(node.target)](*args, **kwargs)
                elif node.op == "call_function":
                    env[node] = target(*args, **kwargs)
                else:
                    env[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            for used in node.all_input_nodes:
                if self.last_use[used] is node:
                    del env[used]
        raise RuntimeError("gramian bug: a graph without output")


# ---- Segments ----


def _crossings(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Knots where a unit changes sign within a piece: piece, share of the piece, unit, and which knots are one."""
    negative, positive = z < 0, z > 0
    piece, unit = ((negative[:-1] & positive[1:]) | (positive[:-1] & negative[1:])).nonzero(as_tuple=True)
    before, after = z[piece, unit], z[piece + 1, unit]
    share = before / (before - after)
    order = share.argsort(stable=True)
    order = order[piece[order].argsort(stable=True)]
    piece, unit, share = piece[order], unit[order], share[order]
    at = t[piece] + share * (t[piece + 1] - t[piece])
    return piece, share, unit, at


class _Line:
    def __init__(self, op: str, max_pieces: int | None) -> None:
        self.op, self.max_pieces = op, max_pieces
        self.t = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def split(self, z: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        flat = z.flatten(1)
        piece, share, unit, at = _crossings(self.t, flat)
        # A crossing at a knot (or at the one before it) within rounding is that knot: pieces of no length have no slope.
        low, high = self.t[piece], self.t[piece + 1]
        at_low, at_high = at - low <= _MERGED, high - at <= _MERGED
        inside = ~(at_low | at_high)
        flat = flat.clone()
        flat[piece[at_low], unit[at_low]] = 0
        flat[piece[at_high] + 1, unit[at_high]] = 0
        piece, share, unit, at = piece[inside], share[inside], unit[inside], at[inside]
        first = torch.ones_like(piece, dtype=torch.bool)
        first[1:] = (piece[1:] != piece[:-1]) | (at[1:] - at[:-1] > _MERGED)
        new = first.cumsum(0) - 1  # the new knot of each crossing
        old_piece, old_share = piece[first], share[first]
        total = len(self.t) + len(old_piece)
        if self.max_pieces is not None and total - 1 > self.max_pieces:
            raise ValueError(
                f"{self.op}: max_pieces must be at least {total - 1} for this model, got {self.max_pieces}"
            )
        # An old knot moves up by the new ones before it, a new one by the old ones up to its piece's beginning.
        new_at = old_piece + 1 + torch.arange(len(old_piece))
        old_at = torch.arange(len(self.t)) + torch.searchsorted(old_piece, torch.arange(len(self.t)))

        def spread(value: Tensor) -> Tensor:
            out = value.new_empty((total, *value.shape[1:]))
            out[old_at] = value
            weight = old_share.view(-1, *(1,) * (value.dim() - 1))
            out[new_at] = value[old_piece] + weight * (value[old_piece + 1] - value[old_piece])
            return out

        t = torch.empty(total, dtype=torch.float64)
        t[old_at], t[new_at] = self.t, at[first]
        self.t = t
        grown = spread(flat)
        grown[new_at[new], unit] = 0
        return spread, grown.view(total, *z.shape[1:])

    @staticmethod
    def activate(z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return activation(z)


def _check_end(op: str, name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"{op}: {name} must be floating point, got {x.dtype}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{op}: {name} must be finite, got NaN or infinity")
    return x.detach().double()


def relu_line(model: nn.Module, start: Tensor, end: Tensor, *, max_pieces: int | None = None) -> Pieces:
    r"""Find every kink of a piecewise linear network along a segment, and its exact values: :math:`f(a + t (b - a))`.

    Args:
        model: any module that ``torch.fx`` can trace, of one tensor to one tensor ``[n, c]``: affine layers (linear,
            convolutions, average pooling, reshaping, sums, batch normalisation and dropout in eval mode) with ReLU, LeakyReLU,
            PReLU or ``abs`` between them; residual connections are fine. It is copied to float64.
        start: ``[...]`` input at ``t = 0``, of one sample, without a batch axis.
        end: same shape, input at ``t = 1``.
        max_pieces: refuse to make more pieces than this.

    Returns:
        Knots and values, float64. Knots nearer than 4 units in the last place are one.

    Raises:
        ValueError: an activation that is not piecewise linear (it is named), ends that are not finite or do not fit, too many
            pieces.

    Cost:
        One forward pass in float64 at all knots that the layers up to there have made; pieces grow about in proportion to the
        number of units for random networks. Memory: the widest layer at all knots.

    Accuracy:
        That of a forward pass in float64; a knot is as exact as its unit's slope allows.

    Not differentiable.

    References:
        Rahaman et al., On the Spectral Bias of Neural Networks, arXiv:1806.08734, section 2.1 (the pieces).

    Example:
        >>> relu_line(nn.ReLU(), torch.tensor([-1.0]), torch.tensor([3.0])).t
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    a, b = _check_end("relu_line", "start", start), _check_end("relu_line", "end", end)
    if a.shape != b.shape:
        raise ValueError(f"relu_line: end must have the shape of start {tuple(a.shape)}, got {tuple(b.shape)}")
    network, line = _Network("relu_line", model), _Line("relu_line", max_pieces)
    values = network.run(torch.stack([a, b]), line)
    return Pieces(line.t, values.flatten(1))


def _edge_factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """``sin x / x`` and ``(sin x - x cos x) / x^2``, by their series where the closed forms lose digits."""
    small = x.abs() < 0.05
    if not bool(small.any()):
        sine = x.sin()
        even = sine / x
        return even, (even - x.cos()) / x
    apart = torch.where(small, 1, x)
    sine, cosine = apart.sin(), apart.cos()
    even = sine / apart
    odd = (even - cosine) / apart
    square = x * x
    even_series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    odd_series = x / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54 * (1 - square / 88))))
    return torch.where(small, even_series, even), torch.where(small, odd_series, odd)


def _check_frequencies(op: str, frequencies: Tensor, dim: int) -> Tensor:
    if frequencies.dim() != dim or frequencies.is_complex() or (dim == 2 and frequencies.shape[1] != 2):
        wanted = "[k]" if dim == 1 else "[k, 2]"
        raise ValueError(f"{op}: frequencies must be real {wanted}, got shape {tuple(frequencies.shape)}")
    return frequencies.detach().double()


def pieces_fourier(pieces: Pieces, frequencies: Tensor, *, subtract_chord: bool = False) -> Tensor:
    r"""Give Fourier coefficients of a piecewise linear function in closed form, :math:`\int_0^1 f(t) e^{-2\pi i k t} dt`.

    Args:
        pieces: from `relu_line`.
        frequencies: ``[k]`` in cycles over the segment; need not be integers.
        subtract_chord: take the line from the first value to the last away first. Else the jump between the ends makes
            coefficients fall like 1/k at integers; without it, like 1/k².

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: frequencies of another shape.

    Cost:
        Two sines and two cosines a piece and frequency; memory for some 10⁵ of these at a time.

    Accuracy:
        Each piece is exact to rounding, however short; phases are reduced in turns, to an error of 2 π k times 1e-16.

    Not differentiable.

    References:
        arXiv:1806.08734 section 2.2 (the transform of a piecewise linear function), here with its end points.

    Example:
        >>> hat = Pieces(torch.tensor([0.0, 0.5, 1.0]).double(), torch.tensor([[0.0], [1.0], [0.0]]).double())
        >>> pieces_fourier(hat, torch.tensor([0.0, 1.0])).real.round(decimals=4).flatten()
        tensor([ 0.5000, -0.2026], dtype=torch.float64)
    """
    k = _check_frequencies("pieces_fourier", frequencies, 1)
    t, values = pieces
    if subtract_chord:
        values = values - values[0] - t[:, None] * (values[-1] - values[0])
    length, middle = t.diff(), (t[1:] + t[:-1]) / 2
    mean = length[:, None] * (values[1:] + values[:-1]) / 2
    half = length[:, None] * values.diff(dim=0) / 2
    out = torch.empty(len(k), values.shape[1], dtype=torch.complex128)
    for begin in range(0, len(k), step := max(1, _CHUNK // max(1, len(length)))):
        part = k[begin : begin + step, None]
        even, odd = _edge_factors(math.pi * part * length)
        turns = part * middle
        angle = (turns - turns.round()) * (2 * math.pi)
        cosine, sine = angle.cos(), angle.sin()
        # e^{-i angle} (even mean - i odd half)
        real = (cosine * even) @ mean - (sine * odd) @ half
        imaginary = -((sine * even) @ mean) - (cosine * odd) @ half
        out[begin : begin + step] = torch.complex(real, imaginary)
    return out


def relu_line_spectrum(
    model: nn.Module, start: Tensor, end: Tensor, frequencies: Tensor, *, subtract_chord: bool = False
) -> Tensor:
    r"""Give the exact Fourier coefficients of a piecewise linear network along a segment.

    :math:`\int_0^1 f(a + t (b - a)) e^{-2\pi i k t} dt`, from the network's kinks: sampling and an FFT approach it
    like the number of samples (2¹⁶ of them: to 1e-5 of the largest coefficient for a network of 6 x 256 units).

    Args:
        model: see `relu_line`.
        start: see `relu_line`.
        end: see `relu_line`.
        frequencies: ``[k]`` in cycles over the segment.
        subtract_chord: see `pieces_fourier`.

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: what `relu_line` and `pieces_fourier` refuse.

    Cost:
        That of `relu_line` and `pieces_fourier`.

    Accuracy:
        Float64 throughout: near 1e-14 of the largest value for networks of a few layers.

    Not differentiable.

    References:
        arXiv:1806.08734, sections 2.1 and 2.2.

    Example:
        >>> relu_line_spectrum(nn.ReLU(), torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.0])).real
        tensor([[0.2500]], dtype=torch.float64)
    """
    return pieces_fourier(relu_line(model, start, end), frequencies, subtract_chord=subtract_chord)


# ---- Planes ----

_SLIVER = 1e-14  # of the polygon's area: smaller regions are dropped, and reported
_ON_LINE = 1e-12  # of a unit's largest value on the polygon: nearer to zero a corner is on the unit's line


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
    return torch.tensor(below, dtype=torch.float64), torch.tensor(above, dtype=torch.float64)


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
        rows = torch.tensor(parents)

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
    window = _check_end(op, "corners", corners)
    if window.dim() != 2 or window.shape[1] != 2 or len(window) < 3:
        raise ValueError(f"{op}: corners must be [v, 2] with v at least 3, got shape {tuple(corners.shape)}")
    sides = window.roll(-1, 0) - window
    following = sides.roll(-1, 0)
    if not bool((sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] > 0).all()):
        raise ValueError(f"{op}: corners must go counter-clockwise round a convex polygon, got {window.tolist()}")
    if (origin is None) != (axes is None):
        raise ValueError(f"{op}: origin and axes must be given together, got one")
    if origin is None or axes is None:
        base, along = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    else:
        base, along = _check_end(op, "origin", origin), _check_end(op, "axes", axes)
    if along.shape != (2, *base.shape):
        raise ValueError(f"{op}: axes must be {(2, *base.shape)} for this origin, got {tuple(along.shape)}")
    network, plane = _Network(op, model), _Plane(op, window, max_regions)
    out = network.run(torch.stack([base, base + along[0], base + along[1]]), plane)
    anchors = out.view(len(plane.regions), 3, -1)
    sizes = torch.tensor([0, *(len(region) for region in plane.regions)])
    values = [plane.at(a, region) for a, region in zip(anchors, plane.regions, strict=True)]
    slopes = (anchors[:, 1:] - anchors[:, :1]).mT
    return Regions(torch.cat(plane.regions), sizes.cumsum(0), torch.cat(values), slopes, plane.lost)


def _following(regions: Regions) -> tuple[Tensor, Tensor]:
    """For each corner: the next of its region, and its region."""
    count = regions.offsets.diff()
    region = torch.repeat_interleave(torch.arange(len(count)), count)
    next_corner = torch.arange(len(region)) + 1
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
    k = _check_frequencies("regions_fourier", frequencies, 2)
    corners, _, values, slopes, _ = regions
    out = torch.empty(len(k), values.shape[1], dtype=torch.complex128)
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
    for picked in torch.split(high, max(1, _CHUNK // len(corners))):
        wave = k[picked]
        even, odd = _edge_factors(math.pi * wave @ edge.mT)
        turns = wave @ middle.mT
        angle = (turns - turns.round()) * (2 * math.pi)
        phase = torch.polar(torch.ones_like(angle), -angle)
        angular = 2 * math.pi * wave
        square = angular.square().sum(1, keepdim=True)
        flux = (angular @ normal.mT) / square * phase * 1j
        of_values = (flux * even) @ mean.to(flux.dtype) - 1j * ((flux * odd) @ half.to(flux.dtype))
        # int e^{-ik.x} over each region, summed with its gradient along k
        gradient = torch.einsum("rcd,kd->krc", slopes, angular) / square[:, :, None]
        of_ones = torch.zeros(len(picked), len(slopes), dtype=flux.dtype).index_add_(1, region, flux * even)
        out[picked] = of_values - 1j * torch.einsum("krc,kr->kc", gradient.to(flux.dtype), of_ones)
    return out


def _gauss(points: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's rule on [0, 1], by the eigenvalues of its Jacobi matrix."""
    j = torch.arange(1, points, dtype=torch.float64)
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
    total = torch.zeros(len(k), values.shape[1], dtype=torch.complex128)
    triangles = torch.stack([apex, torch.arange(len(corners)), following], 1)
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
