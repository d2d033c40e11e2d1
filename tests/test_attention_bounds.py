"""Upper bounds of attention: above the constant, tight where they must be, void where they say so; token by token."""

import pytest
import torch
from torch import nn

from gramian import attention
from tests.checks import refuses
from tests.test_attention_layers import tokens, weights


@pytest.mark.parametrize("out", [None, 5])
@pytest.mark.parametrize("masked", ["none", "causal", "padded"])
@pytest.mark.parametrize("kind", ["dot", "l2"])
def test_the_bound_by_blocks_is_never_below_the_constant(out, masked, kind):
    heads = 3 if out else 1
    options = {"heads": heads, "bq": tokens(4 * heads, seed=9), "is_causal": masked == "causal", "kind": kind}
    if masked == "padded":
        options["key_padding_mask"] = torch.arange(7)[None] >= torch.tensor([[7], [5], [1]])
    for size in (0.1, 1.0, 10.0):
        x, w = size * tokens(3, 7, 6), weights(6, heads, 4, 1, out)
        found = attention.sigma(x, *w, **options, tol=1e-8)
        assert found.converged.all()
        assert (
            attention.schur_bound(x, *w, **options) >= found.sigma * (1 - 1e-7)
        ).all()  # distances lose half the digits


def test_the_bound_by_blocks_is_tight_for_equal_tokens_and_one_token():
    w = weights(6, 1, 4)
    x = tokens(1, 1, 6).expand(2, 9, 6)
    expected = torch.linalg.matrix_norm(w[2], 2).expand(2)
    torch.testing.assert_close(attention.schur_bound(x, *w), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(attention.schur_bound(x[:, :1], *w), expected, rtol=1e-6, atol=0)


def test_the_norm_of_the_softmax_jacobian_is_that_of_the_matrix():
    for seed in range(50):
        p = (4 * tokens(5, seed=seed)).softmax(0)
        dense = torch.linalg.matrix_norm(torch.diag(p) - torch.outer(p, p), 2)
        torch.testing.assert_close(attention.softmax_norm(p), dense, rtol=1e-12, atol=1e-15)
    rows = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.4, 0.3, 0.3, 0.0]])
    got = attention.softmax_norm(rows)
    torch.testing.assert_close(got[:3], torch.tensor([0.25, 0.5, 0.0]).double(), rtol=0, atol=1e-15)
    assert attention.softmax_norm(torch.ones(1)).item() == pytest.approx(0, abs=1e-15)
    assert attention.softmax_norm(torch.tensor([0.5, torch.nan])).isnan()
    with refuses("attention.softmax_norm: p must be [..., n] with n of 1 or more, got shape (0,)"):
        attention.softmax_norm(torch.ones(0))


def test_l2_attention_stays_below_its_constant_where_dot_products_grow():
    wk, a, wo = tokens(4, 6, seed=1), tokens(2, 3, 3, seed=2), tokens(6, 4, seed=3)
    wv = (wk.unflatten(1, (2, 3)).transpose(0, 1) @ a).transpose(0, 1).flatten(1)
    options = {"heads": 2, "tol": 1e-6, "max_iter": 300}
    bound = attention.l2_bound(wk, wk, wv, wo, n=6, heads=2)
    largest = {"dot": [], "l2": []}
    for size in (0.1, 1.0, 3.0, 10.0, 100.0):
        x = size * tokens(8, 6, 4, seed=5)
        x[:, 0] = 0  # the token that gives dot products their slope
        for kind, found in largest.items():
            found.append(attention.sigma(x, wk, wk, wv, wo, kind=kind, **options).sigma.max().item())
    assert max(largest["l2"]) <= bound
    assert largest["dot"][-1] > 100 * largest["dot"][0]


def test_l2_bound_refuses_where_it_is_void():
    w = tokens(4, 4)
    with refuses("attention.l2_bound: wq must be equal to wk, got another: then no constant holds for all inputs"):
        attention.l2_bound(w, 2 * w, w, n=3)
    with refuses("attention.l2_bound: scale must be positive, got -1"):
        attention.l2_bound(w, w, w, n=3, scale=-1)
    with refuses("attention.l2_bound: n must be 1 or more, got 0"):
        attention.l2_bound(w, w, w, n=0)
    flat = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"wv must be wk times some matrix in each head, got a remainder of 1"):
        attention.l2_bound(flat, flat, flat.flip(0), n=3)


def test_the_probable_bound_fails_as_seldom_as_it_says():
    x, w = tokens(1, 12, 5), weights(5, 1, 5)
    true = attention.sigma(x[0], *w, tol=0, max_iter=60).sigma.item()
    found = [attention.sigma(x[0], *w, tol=0, max_iter=k, seed=seed) for seed in range(20) for k in (6, 10)]
    assert all(one.sigma <= true * (1 + 1e-9) for one in found)
    assert all(one.probable >= true * (1 - 1e-9) for one in found)  # 40 draws at 1 in 1000
    assert all(one.probable.isfinite() for one in found[1::2])
    assert attention.sigma(x[0], *w, max_iter=1, tol=0).probable.isinf()


def test_sensitivities_are_the_norms_of_column_blocks():
    x, w = tokens(6, 4), weights(4, 2, 3, 1, 5)
    for options in ({}, {"is_causal": True}, {"kind": "l2"}):
        got = attention.sensitivities(x, *w, heads=2, tol=1e-9, max_iter=60, **options)
        sigma = attention.sigma(x, *w, heads=2, tol=1e-9, max_iter=60, **options).sigma
        one = attention.sensitivities(x, *w, heads=2, tokens=[4], tol=1e-9, max_iter=60, **options)
        torch.testing.assert_close(one.sigma[0], got.sigma[4], rtol=1e-8, atol=0)
        basis = torch.eye(24, dtype=torch.float64).view(24, 6, 4)
        columns = [_jacobian_times(x, w, direction, options) for direction in basis]
        jacobian = torch.stack(columns, -1).flatten(0, 1)
        expected = torch.stack([torch.linalg.matrix_norm(jacobian[:, 4 * k : 4 * k + 4], 2) for k in range(6)])
        torch.testing.assert_close(got.sigma, expected, rtol=1e-8, atol=0)
        assert (got.sigma <= sigma * (1 + 1e-9)).all()
        assert got.sigma.square().sum() >= sigma**2
    with refuses("attention.sensitivities: tokens must be some of 0 to 5, got [6]"):
        attention.sensitivities(x, *w, heads=2, tokens=[6])


def _jacobian_times(x, w, direction, options):
    def split(y):
        return y.unflatten(-1, (2, -1)).transpose(0, 1)

    parts = [split(x @ part) for part in w[:3]] + [split(direction @ part) for part in w[:3]]
    return attention.jvp(*parts, **options).transpose(0, 1).flatten(1) @ w[3]


def test_lipschitz_tells_all_bounds_and_prints_them():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    found = attention.lipschitz(model, torch.randn(2, 5, 8))
    assert all((one.schur >= one.sigma.sigma * (1 - 1e-6)).all() for one in found)
    lines = attention.layer_table(found).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "layers.0.self_attn", "layers.1.self_attn"]
    assert lines[1].split()[1] == f"{found[0].sigma.sigma.max().item():.4g}"
    with refuses("attention.layer_table: layers must not be empty, got none"):
        attention.layer_table([])
