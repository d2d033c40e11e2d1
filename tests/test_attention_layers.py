"""Bounds of attention layers in closed form, and the constants of the layers of a model."""

import math

import pytest
import torch
from torch import nn

from gramian import attention


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(width, heads, d, seed=0, out=None):
    shapes = [(width, heads * d)] * 3 + ([] if out is None else [(heads * d, out)])
    return [tokens(*shape, seed=seed + at) / math.sqrt(shape[0]) for at, shape in enumerate(shapes)]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("out", [None, 5])
@pytest.mark.parametrize("masked", ["none", "causal", "padded"])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_the_bound_is_never_below_the_constant(heads, out, masked, size):
    x, w = size * tokens(3, 7, 6), weights(6, heads, 4, 1, out)
    options = {"heads": heads, "bq": tokens(4 * heads, seed=9), "is_causal": masked == "causal"}
    if masked == "padded":
        options["key_padding_mask"] = torch.arange(7)[None] >= torch.tensor([[7], [5], [1]])
    found = attention.sigma(x, *w, **options, tol=1e-8)
    bound = attention.closed_form_bound(x, *w, **options)
    assert found.converged.all()
    assert (bound >= found.sigma * (1 - 1e-9)).all()


def test_the_bound_is_tight_for_equal_tokens():
    w = weights(6, 1, 4)
    x = tokens(1, 1, 6).expand(2, 9, 6)
    torch.testing.assert_close(attention.closed_form_bound(x, *w), torch.linalg.matrix_norm(w[2], 2).expand(2))
    torch.testing.assert_close(attention.closed_form_bound(x[:, :1], *w), torch.linalg.matrix_norm(w[2], 2).expand(2))


def test_the_norm_of_the_softmax_jacobian_is_below_what_two_probabilities_say():
    for seed in range(200):
        p = (3 * tokens(6, seed=seed)).softmax(0)
        first, second = p.topk(2).values
        norm = torch.linalg.matrix_norm(torch.diag(p) - torch.outer(p, p), 2)
        assert norm <= first * (1 - first + second) + 1e-12


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_lipschitz_of_a_module_is_the_norm_of_its_jacobian(batch_first, bias):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first).double()
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-0.5, 0.5)
    x = tokens(1, 5, 8)
    given = x if batch_first else x.transpose(0, 1)
    (found,) = attention.lipschitz(module, given, tol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda t: module(t, t, t, need_weights=False)[0], given).reshape(
        40, 40
    )
    torch.testing.assert_close(found.sigma.sigma[0], torch.linalg.matrix_norm(jacobian, 2), rtol=1e-9, atol=0)
    assert found.upper >= found.sigma.sigma


@pytest.mark.parametrize("norm_first", [True, False])
def test_lipschitz_finds_every_layer_at_its_own_tokens(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first, dropout=0.0)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double()
    for mode in (model.train(), model.eval()):
        x = tokens(2, 6, 8)
        found = attention.lipschitz(mode, x)
        assert [one.name for one in found] == [f"layers.{i}.self_attn" for i in range(3)]
        second = model.layers[0](x)
        reached = model.layers[1].norm1(second) if norm_first else second
        (alone,) = attention.lipschitz(model.layers[1].self_attn, reached)
        torch.testing.assert_close(found[1].sigma.sigma, alone.sigma.sigma)
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_lipschitz_refuses_what_it_cannot_measure():
    x = torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match=r"lipschitz: model must call torch.nn.MultiheadAttention, got Linear without"):
        attention.lipschitz(nn.Linear(8, 8), x)
    with pytest.raises(ValueError, match="lipschitz: module must be self-attention without kdim"):
        attention.lipschitz(nn.MultiheadAttention(8, 2, kdim=4, batch_first=True), x)

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.inner(x, x + 1, x)

    with pytest.raises(
        ValueError, match="lipschitz: model must attend to its own tokens, got other keys or values at 'inner'"
    ):
        attention.lipschitz(Cross(), x)
    with pytest.raises(ValueError, match=r"closed_form_bound: x must be \[batch, n, D\]"):
        attention.closed_form_bound(x[0], *weights(8, 1, 4))
    w = weights(8, 1, 4)
    with pytest.raises(ValueError, match=r"closed_form_bound: wq must have columns for 3 heads, got shape \(8, 4\)"):
        attention.closed_form_bound(x.double(), *w, heads=3)
    with pytest.raises(ValueError, match=r"schur_bound: key_padding_mask must be bool \[1, 4\], got torch.float64"):
        attention.schur_bound(x.double(), *w, key_padding_mask=torch.zeros(1, 4).double())
