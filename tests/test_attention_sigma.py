"""Singular values of attention's Jacobian: dense SVDs, closed forms, scale laws, both methods, masks, bad input, refusals."""

import itertools

import pytest
import torch

from gramian import attention
from tests.checks import refuses
from tests.reference import attention as reference

TIGHT = {"tol": 1e-6, "max_iter": 400}
EXACT = {"rtol": 1e-9, "atol": 1e-12}  # a residual of 1e-6 leaves its square as error, over the gap


def layer(n=7, width=6, heads=2, d=4, out=5, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, inner = draw(batch, n, width), heads * d
    weights = [draw(width, inner) for _ in range(3)] + [draw(inner, out)]
    return x, weights, {"bq": draw(inner), "bk": draw(inner), "bv": draw(inner)}


def dense(x, weights, biases, rows=slice(None), **options):
    """All singular values of the layer's Jacobian at one x, by autograd."""
    biases = [biases[name] for name in ("bq", "bk", "bv")]
    jacobian = torch.func.jacrev(lambda t: reference.layer(t, *weights, *biases, num_heads=2, **options)[rows])(x)
    return torch.linalg.svdvals(jacobian.flatten(0, 1).flatten(1))


@pytest.mark.parametrize("kind", ["dot", "l2"])
@pytest.mark.parametrize("method", ["lanczos", "power"])
def test_sigma_is_the_norm_of_the_dense_jacobian(method, kind):
    x, weights, biases = layer()
    for options in ({}, {"is_causal": True}, {"scale": 0.1}):
        got = attention.sigma(x, *weights, **biases, heads=2, method=method, kind=kind, **options, **TIGHT)
        expected = torch.stack([dense(one, weights, biases, kind=kind, **options)[0] for one in x])
        assert got.converged.all()
        torch.testing.assert_close(got.sigma, expected, **EXACT)


def test_sigma_finds_the_largest_few_and_their_vectors():
    x, weights, biases = layer()
    got = attention.sigma(x, *weights, **biases, heads=2, top=3, vectors=True, **TIGHT)
    expected = torch.stack([dense(one, weights, biases)[:3] for one in x])
    torch.testing.assert_close(got.sigma, expected, **EXACT)
    assert got.left.shape == (2, 3, 7, 5)
    assert got.right.shape == (2, 3, 7, 6)
    for i in range(2):
        one = attention.sigma(x[i], *weights, **biases, heads=2, vectors=True, **TIGHT)
        torch.testing.assert_close(one.sigma, expected[i, 0], **EXACT)

        def forward(t):
            return reference.layer(t, *weights, *biases.values(), num_heads=2)

        along = torch.func.jvp(forward, (x[i],), (one.right,))[1]
        torch.testing.assert_close(along, one.sigma * one.left, rtol=0, atol=1e-6 * one.sigma.item())


def test_sigma_is_a_lower_bound_from_the_first_step_and_grows():
    x, weights, biases = layer()
    largest = torch.stack([dense(one, weights, biases)[0] for one in x])
    for method in ("lanczos", "power"):
        values = [
            attention.sigma(x, *weights, **biases, heads=2, method=method, max_iter=steps, tol=0).sigma
            for steps in (1, 2, 4, 8)
        ]
        for before, after in itertools.pairwise(values):
            assert (after >= before * (1 - 1e-12)).all()
        assert (values[-1] <= largest * (1 + 1e-12)).all()


def test_lanczos_needs_fewer_steps_than_power():
    x, weights, biases = layer(n=40, width=16, batch=4)
    steps = [
        attention.sigma(x, *weights, **biases, heads=2, method=method, tol=1e-6, max_iter=100).iterations
        for method in ("lanczos", "power")
    ]
    assert (steps[0] < steps[1]).all()


def test_sigma_of_equal_tokens_of_one_token_and_of_flat_scores_is_that_of_the_weights():
    x, weights, biases = layer()
    expected = torch.linalg.matrix_norm(weights[2] @ weights[3], 2).expand(2)
    cases = [(x[:, :1].expand(-1, 7, -1), {}), (x[:, :1], {}), (x, {"scale": 0.0}), (torch.zeros_like(x), {})]
    for tokens, options in cases:
        got = attention.sigma(tokens, *weights, **biases, heads=2, **options, **TIGHT)
        torch.testing.assert_close(got.sigma, expected, **EXACT)


def test_sigma_of_two_opposite_tokens_has_its_closed_form():
    t = 1.7
    one = torch.ones(1, 1, dtype=torch.float64)
    p = torch.sigmoid(torch.tensor(2 * t * t, dtype=torch.float64))
    a = 2 * t * t * p * (1 - p)
    got = attention.sigma(torch.stack([t * one, -t * one], 1)[0], one, one, one, scale=1.0, top=2, **TIGHT)
    expected = torch.stack([1 + 2 * a, (2 * p - 1 + 4 * a).abs()]).sort(descending=True).values
    torch.testing.assert_close(got.sigma, expected, **EXACT)


def test_sigma_obeys_its_scale_laws():
    x, (wq, wk, wv, wo), _ = layer()
    base = attention.sigma(x, wq, wk, wv, wo, heads=2, **TIGHT).sigma
    torch.testing.assert_close(attention.sigma(x, wq, wk, 3 * wv, wo, heads=2, **TIGHT).sigma, 3 * base, **EXACT)
    torch.testing.assert_close(attention.sigma(x, 2 * wq, wk / 2, wv, wo, heads=2, **TIGHT).sigma, base, **EXACT)
    torch.testing.assert_close(attention.sigma(x.flip(1), wq, wk, wv, wo, heads=2, **TIGHT).sigma, base, **EXACT)


def test_sigma_leaves_out_padded_tokens_unless_told_otherwise():
    x, weights, biases = layer()
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    got = attention.sigma(x, *weights, **biases, heads=2, key_padding_mask=padding, **TIGHT)
    expected = torch.stack([dense(x[0], weights, biases)[0], dense(x[1, :4], weights, biases)[0]])
    torch.testing.assert_close(got.sigma, expected, **EXACT)
    counted = attention.sigma(x, *weights, **biases, heads=2, key_padding_mask=padding, padded_rows=True, **TIGHT)
    expected[1] = dense(x[1], weights, biases, mask=~padding[1])[0]
    torch.testing.assert_close(counted.sigma, expected, **EXACT)
    assert counted.sigma[1] > got.sigma[1]


def test_sigma_is_never_finite_for_input_that_is_not_and_zero_for_a_zero_jacobian():
    x, weights, biases = layer()
    x[1, 2, 3] = torch.nan
    for method in ("lanczos", "power"):
        got = attention.sigma(x, *weights, **biases, heads=2, method=method, **TIGHT)
        assert got.sigma.isnan().tolist() == [False, True]
        assert got.converged.tolist() == [True, False]
        none = attention.sigma(x[0], *weights[:3], torch.zeros(8, 5).double(), heads=2, method=method)
        assert none.sigma == 0
        assert none.converged
        blind = attention.sigma(x[0], *weights, heads=2, mask=torch.zeros(7, 7, dtype=torch.bool), method=method)
        assert blind.sigma == 0


def test_sigma_in_float32_is_that_in_float64():
    x, weights, _ = layer(n=50, width=16)
    single = attention.sigma(x.float(), *(w.float() for w in weights), heads=2, tol=1e-5)
    double = attention.sigma(x, *weights, heads=2, **TIGHT)
    assert single.sigma.dtype == torch.float32
    torch.testing.assert_close(single.sigma.double(), double.sigma, rtol=1e-5, atol=0)  # scores of 30 times eps


@pytest.mark.parametrize("method", ["lanczos", "power"])
def test_op_sigma_is_the_norm_of_the_dense_jacobian(method):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, *s, generator=generator, dtype=torch.float64) for s in ((5, 3), (6, 3), (6, 4)))
    for options in ({}, {"is_causal": True}, {"kind": "l2"}):
        got = attention.op_sigma(q, k, v, method=method, **options, **TIGHT)
        assert got.sigma.shape == (2, 2)
        for b in range(2):
            for h in range(2):
                parts = torch.func.jacrev(lambda *x: reference.attend(*x, **options), (0, 1, 2))(  # noqa: B023
                    q[b, h], k[b, h], v[b, h]
                )
                expected = torch.linalg.matrix_norm(torch.cat([part.flatten(2).flatten(0, 1) for part in parts], 1), 2)
                torch.testing.assert_close(got.sigma[b, h], expected, **EXACT)


def test_sigma_refuses_what_it_cannot_do():
    x, (wq, wk, wv, wo), _ = layer()
    with refuses("attention.sigma: x must be [batch, n, D] or [n, D] and not empty, got shape (2, 0, 6)"):
        attention.sigma(x[:, :0], wq, wk, wv)
    with refuses(
        "attention.sigma: wq must be [6, out], for y = x W, got shape (8, 6); nn.Linear keeps the transpose, pass wq.T"
    ):
        attention.sigma(x, wq.T, wk, wv)
    with refuses("attention.sigma: wk must have columns for 3 heads, got shape (6, 8)"):
        attention.sigma(x, torch.cat([wq, wq[:, :1]], 1), wk, wv, heads=3)
    with refuses("attention.sigma: wv must have the dtype of x (torch.float64), got torch.float32"):
        attention.sigma(x, wq, wk, wv.float(), wo)
    with refuses("attention.sigma: method must be 'lanczos' or 'power', got 'svd'"):
        attention.sigma(x, wq, wk, wv, method="svd")
    with refuses("attention.sigma: top must be 1 with method='power', got 2"):
        attention.sigma(x, wq, wk, wv, method="power", top=2)
    with refuses("attention.sigma: key_padding_mask must be bool [2, 7], got torch.float32 (2, 7)"):
        attention.sigma(x, wq, wk, wv, key_padding_mask=torch.zeros(2, 7))
    with refuses("attention_linearize: mask must be bool, true where a query may look, got float32"):
        attention.sigma(x, wq, wk, wv, mask=torch.ones(7, 7))
    with refuses("attention.op_sigma: kind must be 'dot' or 'l2', got 'cosine'"):
        attention.op_sigma(x, x, x, kind="cosine")
