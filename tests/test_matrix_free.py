"""Products, eigenpairs, diagonal and streamed alignment of the tangent kernel, against the kernel itself."""

import pytest
import torch
from torch import nn

from gramian import ntk
from tests.checks import refuses


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens)).mean(1))


def perceptron():
    return nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 3)), torch.randn(17, 5, dtype=torch.float64)


def convolutions():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    model(torch.randn(9, 2, 4, 4))
    return model.eval(), torch.randn(7, 2, 4, 4, dtype=torch.float64)


def transformer():
    return Attention().eval(), torch.randint(11, (6, 5))


@pytest.fixture(params=[perceptron, convolutions, transformer], ids=lambda make: make.__name__)
def network(request):
    torch.manual_seed(0)
    model, x = request.param()
    return model.double(), x


def matrix(model, x, **options):
    kernel = ntk.empirical_ntk(model, x, **options)
    return kernel.permute(0, 2, 1, 3).reshape(kernel.shape[0] * kernel.shape[2], -1)


@pytest.mark.parametrize("block_size", [1, 4, None])
def test_ntk_vp_is_the_product_with_the_kernel(network, block_size):
    model, x = network
    kernel = matrix(model, x)
    v = torch.randn(len(x), len(kernel) // len(x), 3, dtype=torch.float64)
    expected = (kernel @ v.flatten(0, 1)).view_as(v)
    torch.testing.assert_close(ntk.ntk_vp(model, x, v, block_size=block_size), expected)
    torch.testing.assert_close(ntk.ntk_vp(model, x, v[..., 0]), expected[..., 0])
    assert all(p.grad is None for p in model.parameters())


def test_ntk_vp_by_some_parameters():
    torch.manual_seed(0)
    model, x = perceptron()
    model.double()
    v = torch.randn(17, 3, dtype=torch.float64)
    names = ["2.weight", "0.bias"]
    expected = (matrix(model, x, params=names) @ v.flatten()).view_as(v)
    torch.testing.assert_close(ntk.ntk_vp(model, x, v, params=names), expected)
    model[0].requires_grad_(False)
    expected = (matrix(model, x) @ v.flatten()).view_as(v)
    torch.testing.assert_close(ntk.ntk_vp(model, x, v), expected)


@pytest.mark.parametrize("block_size", [1, 4, None])
def test_ntk_diagonal_and_trace_are_those_of_the_kernel(network, block_size):
    model, x = network
    kernel = matrix(model, x)
    torch.testing.assert_close(ntk.ntk_diagonal(model, x, block_size=block_size).flatten(), kernel.diagonal())
    torch.testing.assert_close(ntk.ntk_trace(model, x), kernel.trace())


def test_ntk_top_is_the_top_of_the_spectrum(network):
    model, x = network
    kernel = matrix(model, x)
    values, _ = torch.linalg.eigh(kernel)
    found = ntk.ntk_top(model, x, 4, tol=1e-9, generator=torch.Generator().manual_seed(0), progress=True)
    assert found.converged
    torch.testing.assert_close(found.values, values.flip(0)[:4])
    vectors = found.vectors.flatten(0, 1)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(4, dtype=torch.float64))
    residuals = (kernel @ vectors - vectors * found.values).norm(dim=0)
    assert (residuals <= 1e-8 * values[-1]).all()


def test_ntk_top_of_all_values_and_of_a_small_rank():
    x = torch.randn(9, 2, dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()  # the kernel x xᵀ has rank two
    values = torch.linalg.eigvalsh(x @ x.mT).flip(0)
    torch.testing.assert_close(ntk.ntk_top(model, x, 9).values, values, atol=1e-10, rtol=1e-10)
    early = ntk.ntk_top(model, torch.randn(40, 2, dtype=torch.float64), 2, max_iter=2, tol=1e-14)
    assert early.values.shape == (2,)


def test_ntk_top_says_when_it_did_not_converge():
    torch.manual_seed(0)
    model, x = perceptron()
    found = ntk.ntk_top(model.double(), x, 3, max_iter=3, tol=1e-12)
    assert not found.converged
    assert (found.values <= torch.linalg.eigvalsh(matrix(model, x)).flip(0)[:3] * (1 + 1e-12)).all()


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("block_size", [1, 5, None])
def test_streamed_label_alignment_is_that_of_the_kernel(centered, block_size):
    torch.manual_seed(0)
    model, x = perceptron()
    model.double()
    labels = torch.randint(3, (17,)) - 1
    kernel = ntk.empirical_ntk(model, x, outputs="trace")
    expected = ntk.alignment(kernel, (labels[:, None] == labels).double(), centered=centered)
    got = ntk.streamed_label_alignment(model, x, labels, centered=centered, block_size=block_size)
    torch.testing.assert_close(got, expected)


X = torch.zeros(4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: ntk.ntk_vp(m, X, torch.zeros(4, 2)),
            "ntk_vp: v must be [n, c] = (4, 3) or [n, c, k], got shape (4, 2)",
        ),
        (
            lambda m: ntk.ntk_vp(m, X, torch.zeros(4, 3).double()),
            "ntk_vp: v must be torch.float32 like the outputs, got torch.float64",
        ),
        (lambda m: ntk.ntk_vp(m, X[:0], torch.zeros(0, 3)), "ntk_vp: x must have at least one sample, got 0"),
        (lambda m: ntk.ntk_vp(m, X, torch.zeros(4, 3), block_size=0), "ntk_vp: block_size must be at least 1, got 0"),
        (lambda m: ntk.ntk_top(m, X, 13), "ntk_top: k must be from 1 to n c = 12, got 13"),
        (lambda m: ntk.ntk_top(m, X, 3, max_iter=2), "ntk_top: max_iter must be at least k = 3, got 2"),
        (
            lambda m: ntk.ntk_vp(nn.Unflatten(1, (5, 1)), X, X),
            "empirical_ntk: params must hold at least one parameter that requires a gradient, got none",
        ),
        (lambda m: ntk.ntk_diagonal(m, X[:0]), "ntk_diagonal: x must have at least one sample, got 0"),
        (lambda m: ntk.ntk_diagonal(m, X, block_size=0), "ntk_diagonal: block_size must be at least 1, got 0"),
        (
            lambda m: ntk.streamed_label_alignment(m, X, torch.zeros(4)),
            "streamed_label_alignment: labels must be [n] integers with n = 4 like x, got shape (4,) torch.float32",
        ),
    ],
)
def test_matrix_free_refuses(call, message):
    with refuses(message):
        call(nn.Linear(5, 3))
