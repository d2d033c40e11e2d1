"""The sweep, by its plainest op: every tile must be computed once, at any size, type and layout."""

import pytest
import torch

from gramian.engine import gram_square_sum
from tests.checks import check_thread_counts_agree, error_ratio, refuses, wide
from tests.reference import engine as reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# n, m, d: tiles are 4 to 12 rows by 8 to 32 columns, a block 96 rows, a slab 256 (float64) or 512 features.
SIZES = [
    (1, 1, 1),
    (2, 1, 3),
    (11, 31, 15),
    (12, 32, 16),
    (13, 33, 17),
    (95, 97, 255),
    (96, 96, 256),
    (97, 95, 257),
    (5, 7, 513),
    (193, 100, 1100),
]


def rows(n, d, *, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gram_square_sum_equals_the_reference(isa, dtype):
    for n, m, d in SIZES:
        x, y = rows(n, d, dtype=dtype), rows(m, d, seed=1, dtype=dtype)
        got = gram_square_sum(x, y)
        assert got.shape == ()
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        # One number, where a peer may be right by luck: so by the bound, d + 2 roundings of each squared product.
        bound = (d + 2) * torch.finfo(got.dtype).eps * reference.gram_square_sum(x.abs(), y.abs())
        assert abs(wide(got) - reference.gram_square_sum(x, y)) <= bound, (n, m, d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_square_sum_errs_no_more_than_torch(isa, dtype):
    pairs = [(rows(50, 300, seed=s, dtype=dtype), rows(40, 300, seed=s + 1, dtype=dtype)) for s in range(0, 40, 2)]
    got, peer = (
        torch.stack([gram_square_sum(x, y) for x, y in pairs]),
        torch.stack([((x @ y.T) ** 2).sum() for x, y in pairs]),
    )
    assert error_ratio(got, peer, [reference.gram_square_sum(x, y) for x, y in pairs]) <= 2


def test_gram_square_sum_of_integers_is_exact(isa):
    generator = torch.Generator().manual_seed(0)
    for n, m, d in SIZES:
        x, y = (torch.randint(-1, 2, (rows, d), generator=generator).double() for rows in (n, m))
        assert gram_square_sum(x, y) == ((x @ y.T) ** 2).sum()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)])
def test_gram_square_sum_of_nothing_is_zero(isa, shape):
    n, m, d = shape
    assert gram_square_sum(torch.ones(n, d), torch.ones(m, d)) == 0


def test_gram_square_sum_does_not_change_under_swap_and_rotation():
    x, y = rows(50, 20, dtype=torch.float64), rows(70, 20, seed=1, dtype=torch.float64)
    rotation = torch.linalg.qr(rows(20, 20, seed=2, dtype=torch.float64)).Q
    value = gram_square_sum(x, y)
    for same in (gram_square_sum(y, x), gram_square_sum(x @ rotation, y @ rotation), ((x.T @ x) * (y.T @ y)).sum()):
        torch.testing.assert_close(same, value, rtol=1e-12, atol=0)


def test_gram_square_sum_reads_any_layout(layout):
    for dtype in DTYPES:
        x, y = rows(37, 21, dtype=dtype), rows(41, 21, seed=1, dtype=dtype)
        assert torch.equal(gram_square_sum(layout(x), layout(y)), gram_square_sum(layout(x).clone(), layout(y).clone()))


def test_gram_square_sum_propagates_what_is_not_finite(isa):
    for bad in (torch.nan, torch.inf):
        x = torch.ones(40, 5)
        x[33, 2] = bad
        assert not gram_square_sum(x, torch.ones(3, 5)).isfinite()


def test_a_gram_square_sum_beyond_float32_is_infinite():
    assert gram_square_sum(torch.full((4, 3), 1e12), torch.full((2, 3), 1e12)) == torch.inf


def test_thread_counts_agree(isa):
    x, y = rows(1000, 30), rows(1100, 30, seed=1)
    check_thread_counts_agree(lambda: gram_square_sum(x, y))
    check_thread_counts_agree(lambda: gram_square_sum(x.double(), y.double()))


def test_gram_square_sum_is_differentiable(check_differentiable):
    x, y = rows(5, 3, dtype=torch.float64), rows(6, 3, seed=1, dtype=torch.float64)
    check_differentiable(gram_square_sum, x, y)


def test_the_derivative_of_half_types_is_computed_in_float32():
    x, y = rows(30, 9, dtype=torch.bfloat16), rows(20, 9, seed=1, dtype=torch.bfloat16)
    grad = torch.func.grad(gram_square_sum)(x, y)
    assert torch.equal(grad, torch.func.grad(gram_square_sum)(x.float(), y.float()).bfloat16())


def test_gram_square_sum_under_vmap_is_one_sweep_a_sample():
    x, y = rows(60, 4).view(3, 20, 4), rows(7, 4, seed=1)
    together = torch.vmap(gram_square_sum, in_dims=(0, None))(x, y)
    assert torch.equal(together, torch.stack([gram_square_sum(sample, y) for sample in x]))


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[0], X, "x must be [n, d], got shape (3,)"),
        (X, X[None], "y must be [m, d], got shape (1, 4, 3)"),
        (X, X[:, :2], "y must have d = 3 columns like x, got 2"),
        (X.int(), X.int(), "x must be float32, float64, bfloat16 or float16, got int32"),
        (X, X.double(), "y must have the dtype of x (float32), got float64"),
    ],
)
def test_gram_square_sum_refuses(x, y, message):
    for function in (gram_square_sum, torch.ops.gramian.gram_square_sum):
        with refuses(f"gram_square_sum: {message}"):
            function(x, y)
