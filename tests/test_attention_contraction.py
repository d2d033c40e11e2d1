"""Fixed points with their error, inverses of residual layers, contraction between measures, replaced tokens."""

import pytest
import torch

from gramian import attention
from tests.checks import refuses
from tests.test_attention_layers import tokens


def flow(a, v):
    return lambda x: (x @ a @ x.mT).softmax(1) @ x @ v.mT


def test_a_fixed_point_is_as_near_as_its_error_says():
    w, b = tokens(4, 4), tokens(6, 4, seed=1)
    w = 0.8 * w / torch.linalg.matrix_norm(w, 2)
    expected = b @ torch.linalg.inv(torch.eye(4).double() - w)
    for max_iter in (1, 3, 200):
        found = attention.fixed_point(
            lambda x: x @ w + b, torch.zeros_like(b), lipschitz=0.8, tol=1e-10, max_iter=max_iter
        )
        assert (found.x - expected).norm() <= found.error * (1 + 1e-9)
        assert found.converged == (max_iter == 200)
        assert found.ratio <= 0.8


def test_a_residual_layer_of_attention_is_inverted():
    a, v = 0.2 * tokens(3, 3), 0.05 * tokens(3, 3, seed=1)
    x = tokens(7, 3, seed=2)
    step = flow(a, v)
    found = attention.invert_residual(step, x + step(x), lipschitz=0.9, tol=1e-10)
    assert found.converged
    assert (found.x - x).norm() <= found.error + 1e-12
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-8)


def test_fixed_point_refuses_what_is_no_contraction():
    with refuses("attention.fixed_point: lipschitz must be 0 or more and below 1, got 1"):
        attention.fixed_point(lambda x: x, torch.ones(1), lipschitz=1)
    with refuses("attention.fixed_point: function must keep the shape (2,), got (1,)"):
        attention.fixed_point(lambda x: x[:1], torch.ones(2), lipschitz=0.5)
    with refuses("attention.fixed_point: max_iter must be 1 or more, got 0"):
        attention.fixed_point(lambda x: x, torch.ones(1), lipschitz=0.5, max_iter=0)
    with pytest.raises(
        ValueError, match=r"lipschitz must be a constant of function, got 0\.5 and steps in a ratio of 2"
    ):
        attention.fixed_point(lambda x: 2 * x, torch.ones(1), lipschitz=0.5)
    assert not attention.fixed_point(lambda x: x * torch.nan, torch.ones(1), lipschitz=0.5).converged


def test_a_contraction_between_measures_brings_all_tokens_to_one_place():
    a, v = 0.02 * tokens(3, 3), tokens(3, 3, seed=1)
    v = 0.5 * v / torch.linalg.matrix_norm(v, 2)
    proved = attention.contraction(a, v, 1.0)
    assert proved.holds
    assert proved.bound < 1
    x = torch.nn.functional.normalize(tokens(9, 3, seed=2), dim=1)
    for _ in range(60):
        x = flow(a, v)(x)
    assert (x - x[0]).norm() < 1e-9
    assert not attention.contraction(a, 3 * v, 1.0).invariant
    assert not attention.contraction(100 * a, v, 1.0).holds
    with refuses("attention.contraction: v must be square, got shape (2, 3)"):
        attention.contraction(a, v[:2], 1.0)


def test_a_replaced_token_moves_the_output_by_less_than_the_bound():
    for seed in range(100):
        a, v = 0.3 * tokens(3, 3, seed=seed), tokens(2, 3, seed=seed + 1000)
        x = torch.nn.functional.normalize(tokens(8, 3, seed=seed + 2000), dim=1)
        found = attention.substitution(x, seed % 8, x[(seed + 1) % 8] / 2, a, v)
        assert 0 < found.measured <= found.bound
    with refuses("attention.substitution: index must be from 0 to 7, got 8"):
        attention.substitution(x, 8, x[0], a, v)
    with refuses("attention.substitution: token must have shape (3,), got (2,)"):
        attention.substitution(x, 0, x[0, :2], a, v)
