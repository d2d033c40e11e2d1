"""Exact spectra of piecewise linear networks: kinks, values, transforms, against autograd and dense quadrature."""

import copy
import math

import pytest
import torch
from torch import nn

from gramian import spectra
from tests.checks import refuses
from tests.reference import spectra_relu as reference


class Abs(nn.Module):
    def forward(self, x):
        return x.abs()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        h = torch.relu(self.first(x))
        h = h + self.scale * nn.functional.leaky_relu(self.second(h), 0.2)
        return self.last(abs(h) - 0.3) / 2


def perceptron(inputs, widths, outputs, activation=nn.ReLU):
    layers = []
    for width in widths:
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 3),
        nn.PReLU(3),
        nn.Flatten(),
        nn.Linear(12, 2),
    ).eval()


NETWORKS = {
    "relu": (lambda: perceptron(4, [16, 16], 2), (4,)),
    "leaky": (lambda: perceptron(4, [16, 16], 1, nn.LeakyReLU), (4,)),
    "abs": (lambda: perceptron(4, [16, 16], 2, Abs), (4,)),
    "deep": (lambda: perceptron(4, [24] * 5, 1), (4,)),
    "residual": (Residual, (4,)),
    "convolutional": (convolutional, (2, 8, 8)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network, its float64 function of t along a segment, and the segment's ends."""
    make, shape = NETWORKS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make()
        a, b = 2 * torch.randn(shape), 2 * torch.randn(shape)
    wide = copy.deepcopy(model).double()

    def along(t):
        with torch.no_grad():
            return wide(a.double() + t.view(-1, *(1,) * len(shape)) * (b.double() - a.double()))

    return model, along, a, b


def test_pieces_are_the_network_along_the_segment(network):
    model, along, a, b = network
    t, values = spectra.relu_line(model, a, b)
    assert t[0] == 0 and t[-1] == 1
    assert (t.diff() > 0).all()
    assert len(t) > 5
    torch.testing.assert_close(values, along(t), rtol=1e-12, atol=1e-12)
    # Linear in between, wherever one looks.
    shares = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:, None]
    inside = t[:-1] + shares * t.diff()
    expected = values[:-1] + shares[..., None] * values.diff(dim=0)
    torch.testing.assert_close(along(inside.flatten()), expected.flatten(0, 1), rtol=1e-11, atol=1e-11)


def test_every_knot_is_a_kink_of_some_unit_and_slopes_are_those_of_autograd(network):
    model, _, a, b = network
    t, values = spectra.relu_line(model, a, b)
    wide = copy.deepcopy(model).double()
    a, b = a.double(), b.double()
    slopes = values.diff(dim=0) / t.diff()[:, None]
    long = t.diff() > 1e-6  # shorter ones have fewer digits in their slope
    middle = ((t[1:] + t[:-1]) / 2)[long]
    _, expected = torch.func.jvp(
        lambda s: wide(a + s.view(-1, *(1,) * a.dim()) * (b - a)), (middle,), (torch.ones_like(middle),)
    )
    torch.testing.assert_close(slopes[long], expected.detach(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(spectra.largest_slope(spectra.Pieces(t, values), norm="maximum"), slopes.abs().max())


def test_fourier_coefficients_are_those_of_quadrature(network):
    model, along, a, b = network
    pieces = spectra.relu_line(model, a, b)
    k = torch.tensor([0.0, 1e-3, 0.5, 1, 2, 7, 33, 250, -5, 12.25])
    expected = reference.on_line(along, pieces.t, k)
    torch.testing.assert_close(spectra.relu_line_spectrum(model, a, b, k), expected, rtol=0, atol=1e-12)
    chord = spectra.pieces_fourier(pieces, k, subtract_chord=True)
    ends = pieces.values[[0, -1]]

    def without(t):
        return along(t) - ends[0] - t[:, None] * (ends[1] - ends[0])

    torch.testing.assert_close(chord, reference.on_line(without, pieces.t, k), rtol=0, atol=1e-12)


def test_the_transform_of_a_hat():
    # The hat on [-1, 1] at angular frequency 3, here on [0, 1]: t = (x + 1) / 2.
    hat = spectra.Pieces(torch.tensor([0, 0.5, 1]).double(), torch.tensor([[0.0], [1.0], [0.0]]).double())
    found = spectra.pieces_fourier(hat, torch.tensor([3 / math.pi], dtype=torch.float64))[0, 0]
    assert abs(2 * found.abs() - 2 * (1 - math.cos(3)) / 9) < 1e-15


def test_tiny_pieces_lose_no_digits():
    generator = torch.Generator().manual_seed(0)
    t = torch.cat([torch.zeros(1), 1e-7 * torch.rand(20, generator=generator).sort().values, torch.ones(1)]).double()
    values = torch.randn(22, 1, generator=generator, dtype=torch.float64)
    k = torch.tensor([0, 1e-9, 0.3, 4, 1e4, 1e7])
    pieces = spectra.Pieces(t, values)

    def f(s):
        i = torch.searchsorted(t, s).clamp(1, 21)
        w = (s - t[i - 1]) / (t[i] - t[i - 1])
        return values[i - 1] + w[:, None] * (values[i] - values[i - 1])

    expected = reference.on_line(f, t, k[:4])
    torch.testing.assert_close(spectra.pieces_fourier(pieces, k)[:4], expected, rtol=1e-13, atol=1e-13)
    whole = spectra.pieces_fourier(spectra.Pieces(torch.tensor([0, 1]).double(), torch.ones(2, 1).double()), k[3:])
    assert whole.abs().max() < 1e-15


def test_duplicate_units_and_zeros_at_the_ends_make_no_knots_twice():
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [-1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([-0.5, -1.0, 0.5, 0.0]))  # three kinks at 0.5, one at the end
    t = spectra.relu_line(model, torch.zeros(1), torch.ones(1)).t
    assert torch.equal(t, torch.tensor([0, 0.5, 1]).double())


def test_degenerate_segments():
    model = perceptron(3, [8], 2)
    x = torch.randn(3)
    pieces = spectra.relu_line(model, x, x)
    assert len(pieces.t) == 2
    assert spectra.largest_slope(pieces) == 0
    assert spectra.pieces_fourier(pieces, torch.zeros(0)).shape == (0, 2)


def test_the_law_of_decay():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pieces = spectra.relu_line(perceptron(2, [32, 32], 1), -3 * torch.ones(2), 3 * torch.ones(2))
    low, high = (torch.arange(begin, 2 * begin, dtype=torch.float64) for begin in (64, 1024))

    def slope(**options):
        low_power, high_power = (
            spectra.pieces_fourier(pieces, k, **options).abs().square().mean() for k in (low, high)
        )
        return float((high_power / low_power).log() / math.log(16) / 2)

    assert abs(slope() + 1) < 0.1  # the jump between the ends
    assert abs(slope(subtract_chord=True) + 2) < 0.2


class Named(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(2, 2), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "Tanh '0.1'"),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)), "GELU '0.1'"),
        (nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2)), "MaxPool1d '0.1'"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "LayerNorm '0.1'"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "Dropout '0.1' in training mode"),
        (Named(torch.sin), "sin"),
        (Named(torch.sigmoid), "sigmoid"),
        (Named(lambda x: x * x), "a product, 'mul'"),
        (Named(lambda x: 1 / x), "a quotient, 'truediv'"),
    ],
)
def test_what_is_not_piecewise_linear_is_refused_by_name(model, got):
    with refuses(
        "relu_line: model must be piecewise linear (ReLU, LeakyReLU, PReLU or abs between affine layers), got " + got
    ):
        spectra.relu_line(model, torch.zeros(2), torch.ones(2))


def test_relu_line_refuses():
    model = perceptron(2, [8], 1)
    with refuses("relu_line: end must have the shape of start (2,), got (3,)"):
        spectra.relu_line(model, torch.zeros(2), torch.ones(3))
    with refuses("relu_line: start must be finite, got NaN or infinity"):
        spectra.relu_line(model, torch.tensor([0, math.nan]), torch.ones(2))
    with refuses("relu_line: start must be floating point, got torch.int64"):
        spectra.relu_line(model, torch.tensor([0, 1]), torch.ones(2))
    with refuses("pieces_fourier: frequencies must be real [k], got shape (2, 2)"):
        spectra.relu_line_spectrum(model, torch.zeros(2), torch.ones(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"^relu_line: max_pieces must be at least \d+ for this model, got 1$"):
        spectra.relu_line(model, -9 * torch.ones(2), 9 * torch.ones(2), max_pieces=1)
    with refuses("largest_slope: norm must be spectral or maximum, got l1"):
        spectra.largest_slope(spectra.relu_line(model, torch.zeros(2), torch.ones(2)), norm="l1")
    with pytest.raises(ValueError, match=r"must be a graph that torch.fx can trace, got Branch"):
        spectra.relu_line(Branch(), torch.zeros(2), torch.ones(2))


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


# ---- Planes ----

SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)


@pytest.fixture(params=["relu", "leaky", "abs"])
def plane(request):
    activation = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "abs": Abs}[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = perceptron(2, [10, 10], 2, activation)
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.bias, std=0.3)
    return model, copy.deepcopy(model).double().requires_grad_(False)


def of_region(regions, index):
    begin, end = regions.offsets[index : index + 2].tolist()
    return regions.corners[begin:end], regions.values[begin:end]


def test_regions_tile_the_polygon_and_hold_the_network(plane):
    model, wide = plane
    regions = spectra.relu_plane(model, SQUARE)
    count = len(regions.offsets) - 1
    assert count > 20
    area = 0
    for index in range(count):
        corners, values = of_region(regions, index)
        x, y = corners.T
        area += float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2)
        middle = corners.mean(0)
        torch.testing.assert_close(values.mean(0), wide(middle), rtol=1e-11, atol=1e-11)
        slope = torch.func.jacrev(wide)(middle)
        torch.testing.assert_close(regions.slopes[index], slope, rtol=1e-10, atol=1e-10)
    assert area == pytest.approx(4, abs=1e-13)
    assert regions.lost < 1e-12
    torch.testing.assert_close(regions.values, wide(regions.corners), rtol=1e-11, atol=1e-11)
    assert spectra.largest_slope(regions) == torch.linalg.matrix_norm(regions.slopes, 2).max()


def test_the_plane_transform_is_that_of_quadrature(plane):
    model, wide = plane
    k = torch.tensor([[0.0, 0.0], [0.01, 0.02], [0.5, 0.0], [0.0, -1.0], [1.3, 0.7], [3.0, -2.0]])
    found = spectra.relu_plane_spectrum(model, SQUARE, k)
    expected = reference.on_square(wide, -1, 1, k, 1000)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)  # the midpoint rule's own error, 1 / points^2
    finer = spectra.regions_fourier(spectra.relu_plane(model, SQUARE), k)
    torch.testing.assert_close(found, finer)


def test_quadrature_and_edges_agree_where_they_meet(plane):
    regions = spectra.relu_plane(plane[0], SQUARE)
    k = torch.tensor([[0.03, 0.01], [0.02, -0.02]], dtype=torch.float64)
    across = 2 * math.pi * k.norm(dim=1) * math.sqrt(8)
    assert ((across > 0.4) & (across < 0.6)).all()
    from gramian.spectra import _relu_plane

    expected = _relu_plane._by_quadrature(regions, k)
    scaled = regions._replace(corners=regions.corners * 16, slopes=regions.slopes / 16)
    # The same function on a window 16 times as large: by edges, and back by the scale.
    apart = torch.cat([k, 2 * k]) / 16
    by_edges = spectra.regions_fourier(scaled, apart)[2:] / 256
    torch.testing.assert_close(by_edges, _relu_plane._by_quadrature(regions, 2 * k), rtol=0, atol=1e-12)
    assert expected.shape == (2, 2)


def test_a_plane_in_more_dimensions_agrees_with_lines():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = perceptron(5, [12, 12], 1)
        origin, axes = torch.randn(5), torch.randn(2, 5)
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    regions = spectra.relu_plane(model, square, origin=origin, axes=axes)
    on_axis = regions.corners[:, 1] == 0
    line = spectra.relu_line(model, origin, origin + axes[0])
    knots = regions.corners[on_axis, 0].sort().values
    for t in line.t:
        assert (knots - t).abs().min() < 1e-6  # start and end are float32 sums
    # The transform at (k, 0) is that of the function averaged over the other axis.
    k = torch.tensor([[2.0, 0.0]])
    nodes, weights = reference.gauss(80)
    rows = [
        spectra.relu_line_spectrum(model, o, o + axes[0].double(), k[:, 0]) for o in origin + nodes[:, None] * axes[1]
    ]
    averaged = sum(w * row for w, row in zip(weights, rows, strict=True))
    torch.testing.assert_close(spectra.regions_fourier(regions, k), averaged, rtol=0, atol=1e-4)


def test_the_pyramid_decays_as_its_faces_say():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    last = nn.Linear(2, 1)
    with torch.no_grad():  # max(|x|, |y|) = (s + |d|) / 2 with s = |x| + |y|, d = |x| - |y|; s is not negative
        first.weight.copy_(torch.eye(2))
        second.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        last.weight.copy_(torch.tensor([[-0.5, -0.5]]))
        last.bias.fill_(1)
    model = nn.Sequential(first, Abs(), second, Abs(), last)
    regions = spectra.relu_plane(model, SQUARE)
    assert len(regions.offsets) - 1 == 8  # four faces, each cut by an axis
    volume = spectra.regions_fourier(regions, torch.zeros(1, 2)).real
    assert float(volume) == pytest.approx(4 / 3, abs=1e-14)
    k = torch.logspace(0.5, 2, 400, dtype=torch.float64)[:, None]
    slopes = []
    for direction in ([1.0, 0.0], [math.cos(0.4), math.sin(0.4)]):
        power = spectra.regions_fourier(regions, k * torch.tensor(direction).double())[:, 0].abs()
        tops = torch.stack([part.max() for part in power.chunk(8)]).log()
        at = torch.stack([part.log().mean() for part in k[:, 0].chunk(8)])
        slopes.append(float(((tops - tops.mean()) * (at - at.mean())).sum() / (at - at.mean()).square().sum()))
    assert slopes[0] == pytest.approx(-2, abs=0.15)  # normal to a crease
    assert slopes[1] == pytest.approx(-3, abs=0.25)


def test_relu_plane_refuses():
    model = perceptron(2, [8], 1)
    with refuses("relu_plane: corners must be [v, 2] with v at least 3, got shape (2, 2)"):
        spectra.relu_plane(model, SQUARE[:2])
    with pytest.raises(ValueError, match=r"^relu_plane: corners must go counter-clockwise round a convex polygon, got"):
        spectra.relu_plane(model, SQUARE.flip(0))
    with refuses("relu_plane: origin and axes must be given together, got one"):
        spectra.relu_plane(model, SQUARE, origin=torch.zeros(2))
    with refuses("relu_plane: axes must be (2, 3) for this origin, got (3, 3)"):
        spectra.relu_plane(model, SQUARE, origin=torch.zeros(3), axes=torch.ones(3, 3))
    with refuses("relu_plane: max_regions must be more for this model, got 1"):
        spectra.relu_plane(perceptron(2, [40], 1), 9 * SQUARE, max_regions=1)
    with refuses("regions_fourier: frequencies must be real [k, 2], got shape (3,)"):
        spectra.regions_fourier(spectra.relu_plane(model, SQUARE), torch.zeros(3))
    with pytest.raises(ValueError, match=r"^relu_plane_spectrum: model must be piecewise linear .*, got Tanh '0.1'$"):
        spectra.relu_plane_spectrum(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), SQUARE, torch.zeros(1, 2))
