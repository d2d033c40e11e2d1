"""ntk: against gradients written out in float64, identities, layouts, refusals."""

import copy

import pytest
import torch
from torch import nn

from gramian import ntk
from tests import checks
from tests.checks import refuses
from tests.reference import ntk as reference

ROUTES = ["hadamard", "materialise"]
# n, m, c, t, d_in, d_out: ones; tiles of 12 x 32 and 6 x 8 plus and minus one; a slab of 512 features plus one; positions
# that do not divide a sub-block of 512 rows; no feature but the bias; many outputs.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (11, 13, 1, 1, 5, 2),
    (12, 32, 1, 1, 3, 4),
    (33, 31, 3, 1, 513, 7),
    (5, 9, 7, 1, 4, 600),
    (9, 6, 2, 5, 17, 33),
    (3, 2, 2, 70, 9, 5),
    (2, 3, 3, 600, 4, 3),
    (4, 5, 2, 3, 0, 5),
    (2, 2, 300, 1, 2, 3),
]


def factors(n, c, t, d_in, d_out, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, t, d_in, generator=generator, dtype=torch.float64)
    g = torch.randn(n, c, t, d_out, generator=generator, dtype=torch.float64)
    return a.to(dtype), g.to(dtype)


def relative_error(value, expected):
    return ((value.double() - expected).abs().max() / expected.abs().max()).item()


def mlp(dtype=torch.float64, outputs=4):
    torch.manual_seed(0)
    layers = [nn.Linear(9, 21), nn.ReLU(), nn.Linear(21, 13), nn.Tanh(), nn.Linear(13, outputs)]
    return nn.Sequential(*layers).to(dtype)


def inputs(n, d=9, dtype=torch.float64, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_linear_gram_matches_written_out_gradients(isa, dtype, size, route):
    n, m, c, t, d_in, d_out = size
    a1, g1 = factors(n, c, t, d_in, d_out, dtype)
    a2, g2 = factors(m, c, t, d_in, d_out, dtype, seed=1)
    # Rounding of sums of at most 600 slabs of 512 terms, against the largest entry: 16 eps seen at most.
    bound = 64 * torch.finfo(dtype).eps
    for bias in (False, True) if d_in else (True,):
        self_kernel = reference.linear_gram(a1, g1, bias=bias)
        kernel = ntk.linear_gram(a1, g1, bias=bias, route=route)
        assert kernel.dtype == dtype
        assert relative_error(kernel, self_kernel) < bound
        assert torch.equal(kernel, kernel.permute(1, 0, 3, 2))
        cross = reference.linear_gram(a1, g1, a2, g2, bias=bias)
        assert relative_error(ntk.linear_gram(a1, g1, a2, g2, bias=bias, route=route), cross) < bound
        for reduce, expected in (("trace", torch.einsum("nmcc->nm", cross)), ("sum", cross.sum((2, 3)))):
            scale = cross.abs().sum((2, 3)).max() / expected.abs().max()  # terms may cancel in the sum over outputs
            value = ntk.linear_gram(a1, g1, a2, g2, bias=bias, route=route, reduce=reduce)
            assert relative_error(value, expected) < bound * scale


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_linear_gram_takes_halves_and_accumulates_in_float32(dtype, route):
    a, g = factors(13, 2, 3, 40, 30, dtype)
    kernel = ntk.linear_gram(a, g, route=route)
    assert kernel.dtype == torch.float32
    # The inputs are exact in float64, so only float32 sums remain.
    assert relative_error(kernel, reference.linear_gram(a, g)) < 64 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("route", ROUTES)
def test_linear_gram_reads_any_strides(route):
    a, g = factors(14, 3, 4, 6, 5)
    expected = reference.linear_gram(a, g)
    expected_trace = torch.einsum("nmcc->nm", expected)
    views = [
        (a.mT.contiguous().mT, g.mT.contiguous().mT),
        (a.flip(2).flip(2), g.transpose(0, 1).contiguous().transpose(0, 1)),
        (torch.cat([a, a], 2)[..., :6], torch.cat([g, g], 2)[:, :, :4]),
        (a.repeat_interleave(2, 0)[::2], g.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)),
    ]
    for a_view, g_view in views:
        assert relative_error(ntk.linear_gram(a_view, g_view, route=route), expected) < 1e-14
        assert relative_error(ntk.linear_gram(a_view, g_view, route=route, reduce="trace"), expected_trace) < 1e-14
    broadcast = g[:1].expand(14, -1, -1, -1)
    assert relative_error(ntk.linear_gram(a, broadcast, route=route), reference.linear_gram(a, broadcast)) < 1e-14


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("reduce", ["full", "trace"])
def test_linear_gram_has_the_same_bits_for_every_number_of_threads(route, reduce):
    a, g = factors(150, 3, 2, 40, 30, torch.float32)
    checks.check_thread_counts_agree(lambda: ntk.linear_gram(a, g, route=route, reduce=reduce))


def test_linear_gram_forms_the_jacobian_in_pieces():
    a, g = factors(120, 1, 2, 300, 301, torch.float32)  # 43 MB of Jacobian, more than the 8 MiB of a piece
    assert relative_error(ntk.linear_gram(a, g, route="materialise"), reference.linear_gram(a, g)) < 1e-5


def test_linear_gram_is_bilinear_and_invariant_under_rotation_of_features():
    a, g = factors(8, 2, 3, 6, 5)
    rotation = torch.linalg.qr(factors(1, 1, 6, 6, 1, seed=3)[0][0]).Q
    kernel = ntk.linear_gram(a, g)
    assert relative_error(ntk.linear_gram(a @ rotation, g), kernel) < 1e-14
    assert relative_error(ntk.linear_gram(2 * a, 3 * g), 36 * kernel) < 1e-14


def test_linear_gram_of_nothing_is_empty():
    a, g = factors(0, 2, 1, 3, 4)
    assert ntk.linear_gram(a, g).shape == (0, 0, 2, 2)
    a2, g2 = factors(3, 2, 1, 3, 4)
    assert ntk.linear_gram(a, g, a2, g2, reduce="trace").shape == (0, 3)
    zero = ntk.linear_gram(a2, g2[..., :0])
    assert torch.equal(zero, torch.zeros(3, 3, 2, 2, dtype=zero.dtype))


def test_linear_gram_propagates_nan():
    a, g = factors(5, 1, 1, 3, 4)
    a[2, 0, 1] = float("nan")
    kernel = ntk.linear_gram(a, g, reduce="trace")
    assert kernel[2].isnan().all()
    assert kernel[[0, 1, 3, 4]][:, [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("route", ROUTES)
def test_linear_gram_batches_traces_and_passes_opcheck(route):
    a, g = factors(5, 2, 3, 4, 6)
    op = torch.ops.gramian.ntk_linear_gram.default
    torch.library.opcheck(op, (a, g, None, None, True, False, route == "materialise"))
    torch.library.opcheck(op, (a, g, a[:2], g[:2], False, True, route == "materialise"))
    expected = ntk.linear_gram(a, g, route=route)
    stacked = torch.vmap(lambda b, h: ntk.linear_gram(b, h, route=route))(torch.stack([a, 2 * a]), torch.stack([g, g]))
    assert torch.equal(stacked, torch.stack([expected, 4 * expected]))
    shared = torch.vmap(lambda b: ntk.linear_gram(b, g, route=route))(torch.stack([a, 2 * a]))
    assert torch.equal(shared, stacked)
    compiled = torch.compile(lambda b, h: ntk.linear_gram(b, h, route=route), fullgraph=True, backend="eager")
    assert torch.equal(compiled(a, g), expected)


@pytest.mark.parametrize(("reduce", "bias", "sides"), [("full", True, 1), ("trace", False, 2)])
def test_linear_gram_has_derivatives_of_every_order(check_differentiable, reduce, bias, sides):
    inputs = factors(2, 1 + (reduce == "trace"), 4, 1, 1) + (factors(1, 2, 4, 1, 1, seed=1) if sides == 2 else ())
    check_differentiable(lambda *x: ntk.linear_gram(*x, bias=bias, reduce=reduce), *inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a1": torch.ones(3, 2)}, "linear_gram: a1 must be [n, t, d_in], got shape (3, 2)"),
        ({"g1": torch.ones(3, 2, 2)}, "linear_gram: g1 must be [n, c, t, d_out], got shape (3, 2, 2)"),
        (
            {"g1": torch.ones(4, 2, 1, 2)},
            "linear_gram: g1 must have the samples and positions of a1 (3, 1, 2), got shape (4, 2, 1, 2)",
        ),
        (
            {"a1": torch.ones(3, 1, 2, dtype=torch.int64)},
            "linear_gram: a1 must be float32, float64, bfloat16 or float16, got int64",
        ),
        (
            {"g1": torch.ones(3, 2, 1, 2, dtype=torch.float64)},
            "linear_gram: g1 must have the dtype of a1 (float32), got float64",
        ),
        ({"a2": torch.ones(3, 1, 2)}, "linear_gram: g2 must be given with a2, got None"),
        ({"g2": torch.ones(3, 2, 1, 2)}, "linear_gram: a2 must be given with g2, got None"),
        (
            {"a2": torch.ones(3, 1, 5), "g2": torch.ones(3, 2, 1, 2)},
            "linear_gram: a2 must have the positions and features of a1 (3, 1, 2), got shape (3, 1, 5)",
        ),
        (
            {"a2": torch.ones(3, 1, 2), "g2": torch.ones(3, 4, 1, 2)},
            "linear_gram: g2 must have the outputs and features of g1 (3, 2, 1, 2), got shape (3, 4, 1, 2)",
        ),
        (
            {"a1": torch.ones(3, 0, 2), "g1": torch.ones(3, 2, 0, 2)},
            "linear_gram: a1 must have at least one position, got shape (3, 0, 2)",
        ),
        ({"a1": torch.ones(3, 1, 0)}, "linear_gram: a1 must have features unless bias is set, got shape (3, 1, 0)"),
        ({"reduce": "mean"}, "linear_gram: reduce must be 'full', 'trace' or 'sum', got 'mean'"),
        ({"route": "fast"}, "linear_gram: route must be 'auto', 'hadamard' or 'materialise', got 'fast'"),
    ],
)
def test_linear_gram_refuses(change, message):
    arguments = {"a1": torch.ones(3, 1, 2), "g1": torch.ones(3, 2, 1, 2)} | change
    with refuses(message):
        ntk.linear_gram(**arguments)
    if {"reduce", "route"} & change.keys():
        return
    sides = [arguments.get(name) for name in ("a1", "g1", "a2", "g2")]
    with refuses(message):
        torch.ops.gramian.ntk_linear_gram(*sides, False, False, False)


def test_layers_gram_sums_layers_into_a_block_and_its_mirror():
    layers = [factors(7, 2, t, 5, 6, seed=t) for t in (1, 3)]
    first = ([a[:4] for a, _ in layers], [g[:4] for _, g in layers])
    second = ([a[4:] for a, _ in layers], [g[4:] for _, g in layers])
    whole = sum(reference.linear_gram(a, g) for a, g in layers)
    out = torch.full((7, 2, 7, 2), float("nan"), dtype=torch.float64)
    op = torch.ops.gramian.ntk_layers_gram_.default
    for route in ([0, 1], [1, 0], [1, 1], [0, 0]):
        op(out, *first, [], [], [0, 0], route, False, False, 0, 0, False)
        op(out, *second, [], [], [0, 0], route, False, False, 4, 4, False)
        op(out, *first, *second, [0, 0], route, False, False, 0, 4, True)
        assert relative_error(out.permute(0, 2, 1, 3), whole) < 1e-14
        op(out, *first, [], [], [0, 0], route, False, True, 0, 0, False)
        op(out, *second, [], [], [0, 0], route, False, True, 4, 4, False)
        op(out, *first, *second, [0, 0], route, False, True, 0, 4, True)
        assert relative_error(out.permute(0, 2, 1, 3), 2 * whole) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("trace", [False, True])
def test_layers_gram_reads_patches_from_images(isa, dtype, trace):
    images = torch.randn(3, 11, 9, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    a = images.unfold(1, 4, 1).unfold(2, 3, 2).permute(0, 1, 2, 4, 5, 3).flatten(4)  # [3, 8, 4, 4, 21]: views
    assert a.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    written = a.flatten(3).flatten(1, 2)
    g = torch.randn(3, 2, 32, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    op = torch.ops.gramian.ntk_layers_gram_.default
    kernels = []
    for inputs in (a, written):
        for route in (0, 1):
            out = torch.empty((3, 1, 3, 1) if trace else (3, 2, 3, 2), dtype=torch.promote_types(dtype, torch.float32))
            op(out, [inputs], [g], [], [], [1], [route], trace, False, 0, 0, False)
            op(out, [inputs[:1]], [g[:1]], [inputs[1:]], [g[1:]], [1], [route], trace, True, 0, 1, True)
            kernels.append(out)
    assert torch.equal(kernels[0], kernels[2])
    assert torch.equal(kernels[1], kernels[3])
    assert relative_error(kernels[0], kernels[1].double()) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a1": []}, "a1 must have at least one layer, got none"),
        ({"bias": []}, "g1, a2, g2, bias and route must have one entry for each of the 1 layers of a1"),
        ({"bias": [4]}, "bias must be 0 to 3 and route 0 or 1, got 4 and 0 for layer 0"),
        ({"route": [2]}, "bias must be 0 to 3 and route 0 or 1, got 0 and 2 for layer 0"),
        ({"out": torch.zeros(3, 1, 3, 1)}, "out must be [N, 2, M, 2], got shape (3, 1, 3, 1)"),
        ({"out": torch.zeros(3, 2, 3, 2).double()}, "out must be float32, got float64"),
        (
            {"out": torch.zeros(3, 2, 3, 2).transpose(0, 2)},
            "out must be contiguous, got shape (3, 2, 3, 2) with other strides",
        ),
        ({"row": 1, "col": 1}, "row and col must place the 3 by 3 samples within out (3, 2, 3, 2), got 1 and 1"),
    ],
)
def test_layers_gram_refuses(change, message):
    arguments = {
        "out": torch.zeros(3, 2, 3, 2),
        "a1": [torch.ones(3, 1, 4)],
        "g1": [torch.ones(3, 2, 1, 5)],
        "a2": [],
        "g2": [],
        "bias": [0],
        "route": [0],
        "trace": False,
        "accumulate": False,
        "row": 0,
        "col": 0,
        "mirror": False,
    } | change
    with refuses(f"layers_gram_: {message}"):
        torch.ops.gramian.ntk_layers_gram_(*arguments.values())


def test_layer_cost_prefers_products_of_grams_for_one_position_and_gradients_for_many():
    assert ntk.layer_cost(1024, 1024, outputs=10, positions=1, d_in=785, d_out=512).route == "hadamard"
    assert ntk.layer_cost(256, 256, outputs=1, positions=64, d_in=128, d_out=128).route == "materialise"
    assert ntk.layer_cost(256, 256, outputs=1, positions=4, d_in=2048, d_out=2048).route == "hadamard"
    plain = ntk.layer_cost(100, 100, outputs=3, positions=2, d_in=50, d_out=60, symmetric=False)
    assert plain.hadamard > 2 * 100 * 100 * 4 * (50 + 9 * 60)
    assert plain.materialise > 2 * 100 * 100 * 9 * 50 * 60
    assert ntk.layer_cost(100, 100, outputs=3, positions=2, d_in=50, d_out=60).hadamard == pytest.approx(
        plain.hadamard * 101 / 200
    )
    assert ntk.layer_cost(100, 100, outputs=3, positions=2, d_in=50, d_out=60, trace=True).hadamard < plain.hadamard


@pytest.mark.parametrize("block_size", [None, 3, 64])
def test_empirical_ntk_matches_torch_func(block_size):
    model, x, y = mlp(), inputs(23), inputs(7, seed=1)
    full = reference.empirical_ntk(model, x)
    kernel = ntk.empirical_ntk(model, x, block_size=block_size)
    assert relative_error(kernel, full) < 1e-12
    assert torch.equal(kernel, kernel.permute(1, 0, 3, 2))
    cross = reference.empirical_ntk(model, x, y)
    for outputs, of in (
        ("full", lambda k: k),
        ("trace", lambda k: torch.einsum("nmcc->nm", k)),
        ("sum", lambda k: k.sum((2, 3))),
        (2, lambda k: k[:, :, 2, 2]),
    ):
        assert relative_error(ntk.empirical_ntk(model, x, outputs=outputs, block_size=block_size), of(full)) < 1e-12
        assert relative_error(ntk.empirical_ntk(model, x, y, outputs=outputs, block_size=block_size), of(cross)) < 1e-12


class Shared(nn.Module):
    """One weight in three places: a layer called twice, and a second layer with a bias of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(9, 9), nn.Linear(9, 9)
        self.second.weight = self.first.weight
        self.head = nn.Linear(9, 3, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))))


class Tokens(nn.Module):
    """Layers over positions, and a mean over them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(9, 20), nn.Linear(20, 4)

    def forward(self, x):
        return self.down(torch.relu(self.up(x.unflatten(1, (4, 9))))).mean(1)


@pytest.mark.parametrize(("net", "width"), [(Shared, 9), (Tokens, 36)])
def test_empirical_ntk_sums_the_uses_of_a_parameter(net, width):
    torch.manual_seed(0)
    model, x = net().double(), inputs(11, width)
    assert relative_error(ntk.empirical_ntk(model, x), reference.empirical_ntk(model, x)) < 1e-12


class Mean(nn.Module):
    """The mean over all axes but samples and channels."""

    def forward(self, x):
        return x.flatten(2).mean(2)


class Language(nn.Module):
    """Classes to vectors, an encoder, a mean; `tied`: back to classes by the same weight."""

    def __init__(self, classes, *, tied=False, padding=None):
        super().__init__()
        self.embedding = nn.Embedding(classes, 6, padding_idx=padding)
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, dropout=0.1)
        self.head = nn.Linear(6, classes if tied else 3, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x))).mean(1)


class Vision(nn.Module):
    """Patches, parameters of its own, an encoder."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(4, 6, 3, 3)
        self.first, self.places = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 7, 6))
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, norm_first=True, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.encoder(x)[:, 0])


class Recurrent(nn.Module):
    """Outputs and last states of a recurrent layer, both used."""

    def __init__(self, kind, *, batch_first):
        super().__init__()
        self.layer = kind(4, 5, 2, batch_first=batch_first, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        x = x.mT if self.layer.batch_first else x.permute(2, 0, 1)
        y, state = self.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        return self.head(y.mean(1 if self.layer.batch_first else 0)) + state[0, :, :3]


class Residual(nn.Module):
    """A block of a ResNet: the input is added in place."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)
        )

    def forward(self, x):
        y = self.body(x)
        y += x
        return torch.relu_(y)


class Convolving(nn.Module):
    """A layer without a rule, whose weight is that of a convolution elsewhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, dilation=2)


class ConvolvingTwice(nn.Module):
    """A weight used by two layers of different types."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(4, 4, (3, 2))
        self.other = Convolving(self.one.weight)

    def forward(self, x):
        return self.other(torch.tanh(self.one(x)))


IMAGE, SEQUENCE, VOLUME, CLASSES = "image", "sequence", "volume", "classes"
LAYERS = {
    "conv1d": (SEQUENCE, lambda: [nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"), nn.Tanh(), Mean()]),
    "conv2d": (IMAGE, lambda: [nn.Conv2d(4, 8, 3, 2, 1, 2), nn.ReLU(), nn.Conv2d(8, 3, (2, 1), bias=False), Mean()]),
    "conv2d read in place": (
        IMAGE,
        lambda: [nn.Conv2d(4, 16, 1), nn.Tanh(), nn.Conv2d(16, 5, 3, (1, 2), 1, (2, 1)), nn.Tanh(), Mean()],
    ),
    "conv2d in groups": (IMAGE, lambda: [nn.Conv2d(4, 8, (3, 2), (1, 2), groups=2), nn.Tanh(), Mean()]),
    "conv2d by channel": (IMAGE, lambda: [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Tanh(), Mean()]),
    "conv2d shared": (IMAGE, lambda: [ConvolvingTwice(), nn.Tanh(), Mean()]),
    "conv3d": (VOLUME, lambda: [nn.Conv3d(2, 3, 2, (1, 2, 1)), nn.Tanh(), Mean()]),
    "transposed conv1d": (SEQUENCE, lambda: [nn.ConvTranspose1d(4, 3, 4, 3), nn.Tanh(), Mean()]),
    "transposed conv2d": (IMAGE, lambda: [nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, dilation=2), nn.Tanh(), Mean()]),
    "transposed in groups": (IMAGE, lambda: [nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.Tanh(), Mean()]),
    "transposed conv3d": (VOLUME, lambda: [nn.ConvTranspose3d(2, 3, 2, bias=False), nn.Tanh(), Mean()]),
    "layer norm": (IMAGE, lambda: [nn.LayerNorm([9, 8]), nn.Conv2d(4, 3, 1), nn.LayerNorm(8), nn.Tanh(), Mean()]),
    "layer norm of all": (IMAGE, lambda: [nn.LayerNorm([4, 9, 8]), nn.Tanh(), Mean(), nn.LayerNorm(4, bias=False)]),
    "rms norm": (IMAGE, lambda: [nn.RMSNorm(8), nn.Tanh(), Mean()]),
    "group norm": (IMAGE, lambda: [nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6), nn.Tanh(), Mean()]),
    "batch norm": (IMAGE, lambda: [nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), Mean(), nn.BatchNorm1d(6)]),
    "residual": (IMAGE, lambda: [Residual(), Residual(), Mean(), nn.Linear(4, 3)]),
    "no rule": (IMAGE, lambda: [nn.InstanceNorm2d(4, affine=True), nn.PReLU(4), Mean()]),
    "embedding": (CLASSES, lambda: [Language(11, padding=0)]),
    "embedding of many": (CLASSES, lambda: [Language(600)]),
    "tied embedding": (CLASSES, lambda: [Language(11, tied=True)]),
    "vision": (IMAGE, lambda: [Vision()]),
    "lstm": (SEQUENCE, lambda: [Recurrent(nn.LSTM, batch_first=True)]),
    "gru, samples second": (SEQUENCE, lambda: [Recurrent(nn.GRU, batch_first=False)]),
}


def layer_inputs(kind):
    if kind == CLASSES:
        return torch.randint(0, 11, (5, 7), generator=torch.Generator().manual_seed(0))
    return inputs(5, {IMAGE: 4 * 9 * 8, SEQUENCE: 4 * 13, VOLUME: 2 * 5 * 4 * 6}[kind]).reshape(
        {IMAGE: (5, 4, 9, 8), SEQUENCE: (5, 4, 13), VOLUME: (5, 2, 5, 4, 6)}[kind]
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_empirical_ntk_knows_the_layer(layer):
    torch.manual_seed(0)
    kind, make = LAYERS[layer]
    model, x = nn.Sequential(*make()).double().eval(), layer_inputs(kind)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # else the statistics are 0 and 1
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    expected = reference.empirical_ntk_by_loops(model, x)
    assert relative_error(ntk.empirical_ntk(model, x), expected) < 1e-10
    assert relative_error(ntk.empirical_ntk(model, x[:3], x, block_size=2), expected[:3]) < 1e-10
    trace = torch.einsum("nmcc->nm", expected)
    assert relative_error(ntk.empirical_ntk(model, x, outputs="trace"), trace) < 1e-10
    names = [name for name, _ in model.named_parameters()][::2]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    expected = reference.empirical_ntk_by_loops(model, x)
    assert relative_error(ntk.empirical_ntk(model, x, params=names), expected) < 1e-10


def test_empirical_ntk_is_the_same_within_little_memory(monkeypatch):
    torch.manual_seed(0)
    model, x = nn.Sequential(*LAYERS["residual"][1]()).double().eval(), layer_inputs(IMAGE)
    kernels = {outputs: ntk.empirical_ntk(model, x, outputs=outputs) for outputs in ("full", "trace")}
    monkeypatch.setattr(ntk._empirical, "_WRITTEN_BYTES", 1)  # one layer at a time
    for outputs, kernel in kernels.items():
        for size in (None, 2, 5):  # of a trace, one output at a time
            little = {"outputs": outputs, "block_size": size, "memory_bytes": 1}
            assert relative_error(ntk.empirical_ntk(model, x, **little), kernel) < 1e-12
            assert relative_error(ntk.empirical_ntk(model, x, x[:3], **little), kernel[:, :3]) < 1e-12


@pytest.mark.parametrize(("n", "m"), [(513, None), (512, 513), (40, 600), (512, None)])
def test_linear_gram_sums_small_and_large_kernels_alike(n, m):
    a, g = torch.randn(n, 3, 5, dtype=torch.float64), torch.randn(n, 1, 3, 70, dtype=torch.float64)
    a2, g2 = (
        (None, None)
        if m is None
        else (torch.randn(m, 3, 5, dtype=torch.float64), torch.randn(m, 1, 3, 70, dtype=torch.float64))
    )
    kernel = ntk.linear_gram(a, g, a2, g2, bias=True, route="materialise")
    assert relative_error(kernel, ntk.linear_gram(a, g, a2, g2, bias=True, route="hadamard")) < 1e-13


def test_empirical_ntk_sees_through_activations_in_place():
    model = mlp()
    expected = ntk.empirical_ntk(model, inputs(5))
    model[1] = nn.ReLU(inplace=True)
    assert torch.equal(ntk.empirical_ntk(model, inputs(5)), expected)


def test_empirical_ntk_differentiates_by_the_wanted_parameters():
    model, x = mlp(), inputs(6)
    for params in (["0.weight"], ["2.bias", "4.weight"]):
        assert (
            relative_error(ntk.empirical_ntk(model, x, params=params), reference.empirical_ntk(model, x, None, params))
            < 1e-12
        )
    model[0].weight.requires_grad_(False)
    model[4].requires_grad_(False)
    assert relative_error(ntk.empirical_ntk(model, x), reference.empirical_ntk(model, x)) < 1e-12


def test_empirical_ntk_of_one_output_without_an_axis():
    model = nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    kernel = ntk.empirical_ntk(model, inputs(4))
    assert kernel.shape == (4, 4, 1, 1)
    assert torch.equal(kernel[:, :, 0, 0], ntk.empirical_ntk(model, inputs(4), outputs="trace"))


def test_empirical_ntk_leaves_the_model_alone():
    model, x = mlp(), inputs(5)
    before = copy.deepcopy(model.state_dict())
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        kernel = ntk.empirical_ntk(model, x)
    assert not kernel.requires_grad
    assert calls == [1]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def fail(*_):
        raise RuntimeError("stop")

    handle = model[4].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        ntk.empirical_ntk(model, x)
    handle.remove()
    assert [len(m._forward_hooks) for m in model] == [0, 0, 1, 0, 0]


def test_empirical_ntk_explains_its_choice(capsys):
    ntk.empirical_ntk(mlp(), inputs(3), explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["0.weight", "+", "0.bias"]
    assert all(line.split()[-1] in ROUTES for line in lines[1:])


class Wrapped(nn.Module):
    """Any function around a layer."""

    def __init__(self, before=lambda x: x, after=lambda x: x):
        super().__init__()
        self.layer, self.before, self.after = nn.Linear(9, 2), before, after

    def forward(self, x):
        return self.after(self.layer(self.before(x)))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)),
            {},
            "model must not mix samples, got BatchNorm1d '1' in training mode; call model.eval()",
        ),
        (
            nn.Sequential(nn.Linear(9, 4), nn.Dropout(0.5)),
            {},
            "model must be deterministic, got Dropout '1' in training mode; call model.eval()",
        ),
        (
            nn.LSTM(9, 2, 2, dropout=0.5),
            {},
            "model must be deterministic, got LSTM in training mode; call model.eval()",
        ),
        (
            nn.Sequential(nn.Linear(9, 2), nn.BatchNorm1d(2, track_running_stats=False)).eval(),
            {},
            "model must not mix samples, got BatchNorm1d '1' without running statistics",
        ),
        (Wrapped(after=lambda x: x.sum()), {}, "model must return [n, c] for n = 3 samples, got ()"),
        (Wrapped(after=lambda x: (x, x)), {}, "model must return [n, c] for n = 3 samples, got tuple"),
        (
            Wrapped(before=lambda x: x[None], after=lambda x: x[0]),
            {},
            "model must keep the samples on the first axis, got 1 of 3 at 'layer'",
        ),
        (
            Wrapped(after=lambda x: x.detach()),
            {},
            "params must reach the output, got a model whose output does not depend on them",
        ),
        (nn.Linear(9, 2), {"params": ["w"]}, "params must name parameters of the model, got 'w'"),
        (nn.Linear(9, 2), {"params": []}, "params must hold at least one parameter that requires a gradient, got none"),
        (nn.Linear(9, 2), {"outputs": 2}, "outputs must be an output below 2, got 2"),
        (nn.Linear(9, 2), {"outputs": "all"}, "outputs must be 'full', 'trace', 'sum' or a number, got 'all'"),
        (nn.Linear(9, 2), {"block_size": 0}, "block_size must be at least 1, got 0"),
        (nn.Linear(9, 2), {"memory_bytes": 0}, "memory_bytes must be at least 1, got 0"),
        (nn.Linear(9, 2), {"x1": torch.ones(0, 9)}, "x1 must have at least one sample, got 0"),
        (nn.Linear(9, 2), {"x2": torch.ones(0, 9)}, "x2 must have at least one sample, got 0"),
        (nn.Linear(9, 2), {"x2": torch.ones(3, 8)}, "x2 must have samples like x1 (9,), got (8,)"),
        (
            nn.Linear(9, 2),
            {"x2": torch.ones(3, 9, dtype=torch.float64)},
            "x2 must be torch.float32 on cpu like x1, got torch.float64 on cpu",
        ),
    ],
)
def test_empirical_ntk_refuses(model, arguments, message):
    with refuses(f"empirical_ntk: {message}"):
        ntk.empirical_ntk(model, **({"x1": torch.ones(3, 9)} | arguments))


def test_empirical_ntk_refuses_an_input_that_changes():
    def after(y, kept=[]):  # noqa: B006
        kept[0].add_(1)
        return y

    kept = after.__defaults__[0]
    model = Wrapped(before=lambda x: kept.append(x * 1) or kept[0], after=after)
    with refuses("empirical_ntk: model must not change the input of 'layer' in place"):
        ntk.empirical_ntk(model, torch.ones(3, 9))


def test_center_is_the_projection():
    full = ntk.empirical_ntk(mlp(), inputs(8))
    h = torch.eye(8, dtype=torch.float64) - 1 / 8
    expected = torch.einsum("na,abce,bm->nmce", h, full, h)
    assert relative_error(ntk.center(full), expected) < 1e-13
    assert ntk.center(full).sum(0).abs().max() < 1e-12 * full.abs().max()


def test_alignment_is_one_for_multiples_and_ignores_constants():
    kernel = ntk.empirical_ntk(mlp(), inputs(9), outputs="trace")
    assert ntk.alignment(kernel, 3 * kernel + 5).item() == pytest.approx(1, abs=1e-12)
    assert ntk.alignment(kernel, kernel + 100, centered=False).item() < 0.99
    other = ntk.empirical_ntk(mlp(), inputs(9, seed=1), outputs="trace")
    h = torch.eye(9, dtype=torch.float64) - 1 / 9
    left, right = h @ kernel @ h, h @ other @ h
    expected = (left * right).sum() / (left.norm() * right.norm())
    assert ntk.alignment(kernel, other).item() == pytest.approx(expected.item())


def test_label_alignment_in_both_forms():
    kernel, y = ntk.empirical_ntk(mlp(outputs=3), inputs(9)), torch.arange(9) % 3
    trace = torch.einsum("nmcc->nm", kernel)
    labels = ntk.label_kernel(y, dtype=torch.float64)
    assert torch.equal(labels, (y[:, None] == y).double())
    expected = ntk.alignment(trace, labels)
    assert ntk.label_alignment(kernel, y).item() == pytest.approx(expected.item())
    assert ntk.label_alignment(trace, y).item() == pytest.approx(expected.item())
    one_hot = nn.functional.one_hot(y).double()
    vector = (one_hot - one_hot.mean(0)).flatten()
    rank_one = (vector[:, None] * vector).unflatten(0, (9, 3)).unflatten(2, (9, 3)).permute(0, 2, 1, 3)
    expected = ntk.alignment(kernel, rank_one)
    assert ntk.label_alignment(kernel, y, labels="vector").item() == pytest.approx(expected.item())


def test_spectrum_rank_and_trace_ratio():
    kernel = ntk.empirical_ntk(mlp(), inputs(6))
    matrix = kernel.permute(0, 2, 1, 3).reshape(24, 24)
    values = ntk.spectrum(kernel)
    assert values.sum().item() == pytest.approx(matrix.trace().item())
    assert values.square().sum().item() == pytest.approx(matrix.square().sum().item())
    assert torch.equal(values, values.sort(descending=True).values)
    assert values.min() > -1e-12 * values.max()
    assert torch.equal(ntk.spectrum(kernel, 5), values[:5])
    assert ntk.trace_ratio(kernel, 3).item() == pytest.approx((values[:3].sum() / values.sum()).item())
    assert ntk.trace_ratio(values, 24).item() == 1
    assert ntk.effective_rank(torch.ones(7)).item() == pytest.approx(7)
    assert ntk.effective_rank(torch.ones(5, 5)).item() == pytest.approx(1, abs=1e-5)
    assert ntk.effective_rank(kernel).item() == pytest.approx(ntk.effective_rank(values).item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ntk.center(torch.ones(3)), "center: K must be [n, m] or [n, m, c, c], got shape (3,)"),
        (lambda: ntk.alignment(torch.ones(3, 4), torch.ones(3, 4)), "alignment: K must be square, got shape (3, 4)"),
        (
            lambda: ntk.alignment(torch.eye(3), torch.eye(4)),
            "alignment: L must have the shape of K (3, 3), got (4, 4)",
        ),
        (
            lambda: ntk.label_kernel(torch.ones(3)),
            "label_kernel: y must be [n] class numbers or [n, c] targets, got shape (3,) torch.float32",
        ),
        (
            lambda: ntk.label_alignment(torch.eye(3), torch.zeros(3, dtype=torch.int64), labels="vector"),
            "label_alignment: K must be [n, n, c, c] for labels='vector', got shape (3, 3)",
        ),
        (
            lambda: ntk.label_alignment(torch.eye(3), torch.zeros(3, dtype=torch.int64), labels="both"),
            "label_alignment: labels must be 'kernel' or 'vector', got 'both'",
        ),
        (
            lambda: ntk.label_alignment(torch.eye(3), torch.zeros(4, dtype=torch.int64)),
            "label_alignment: y must have a label for each sample of K (3, 3), got (4,)",
        ),
        (lambda: ntk.spectrum(torch.eye(3), 4), "spectrum: k must be between 1 and 3, got 4"),
        (lambda: ntk.trace_ratio(torch.eye(3), 0), "trace_ratio: k must be between 1 and 3, got 0"),
        (lambda: ntk.effective_rank(torch.ones(2, 3)), "effective_rank: K must be square, got shape (2, 3)"),
    ],
)
def test_kit_refuses(call, message):
    with refuses(message):
        call()
