"""Adapters to the attention layers of other libraries: against the dense Jacobians of modules like theirs, masks, refusals."""

import pytest
import torch
from torch import nn

from gramian import attention
from tests.checks import refuses

TIGHT = {"tol": 1e-8, "max_iter": 300}


def norm_of(function, x):
    """The largest singular value of the derivative at one x, by autograd."""
    jacobian = torch.autograd.functional.jacobian(function, x)
    return torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2)


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class SelfAttention(nn.Module):  # of BERT and ViT
    def __init__(self, width, heads):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.num_attention_heads = heads

    def forward(self, hidden_states, attention_mask=None):
        parts = (
            p(hidden_states).unflatten(-1, (self.num_attention_heads, -1)) for p in (self.query, self.key, self.value)
        )
        q, k, v = (p.transpose(1, 2) for p in parts)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return out.transpose(1, 2).flatten(2)


class Output(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)


class BertAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self, self.output = SelfAttention(width, heads), Output(width)

    def forward(self, x, mask=None):
        return self.output.dense(self.self(x, mask))


class Conv1D(nn.Module):  # of GPT-2: y = x W + b
    def __init__(self, inside, outside):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inside, outside)), nn.Parameter(torch.randn(outside))

    def forward(self, x):
        return x @ self.weight + self.bias


class GptAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.c_attn, self.c_proj, self.num_heads = Conv1D(width, 3 * width), Conv1D(width, width), heads

    def forward(self, hidden_states):
        parts = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in self.c_attn(hidden_states).chunk(3, -1))
        out = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.c_proj(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("module", [BertAttention, GptAttention])
def test_lipschitz_of_a_layer_is_the_norm_of_its_jacobian(module):
    layer, x = module(6, 2), torch.randn(2, 5, 6)
    (found,) = attention.lipschitz(layer, x, per_head=True, **TIGHT)
    expected = torch.stack([norm_of(layer, one[None]) for one in x])
    torch.testing.assert_close(found.sigma.sigma, expected, rtol=1e-8, atol=0)
    assert found.heads.shape == (2, 2)
    assert (found.sigma.sigma <= found.heads.sum(1) * (1 + 1e-8)).all()  # the layer is the sum of its heads
    assert found.sigma.converged.all()


def test_lipschitz_reads_the_padding_of_bert():
    layer, x = BertAttention(6, 2), torch.randn(1, 5, 6)
    added = torch.zeros(1, 1, 1, 5)
    added[..., 3:] = torch.finfo(torch.float64).min
    (found,) = attention.lipschitz(layer, x, mask=added, **TIGHT)
    torch.testing.assert_close(found.sigma.sigma[0], norm_of(layer, x[:, :3]), rtol=1e-8, atol=0)


def test_lipschitz_takes_adapters():
    layer, x = nn.Linear(6, 6), torch.randn(4, 6)

    def adapter(model, name, args, kwargs):
        eye = torch.eye(6)
        return {"x": args[0], "wq": eye, "wk": eye, "wv": model.get_submodule(name).weight.mT, "wo": None, "heads": 1}

    (found,) = attention.lipschitz(layer, x, adapters=[adapter], **TIGHT)
    expected = attention.sigma(x, torch.eye(6), torch.eye(6), layer.weight.mT, **TIGHT).sigma
    torch.testing.assert_close(found.sigma.sigma[0], expected)


def test_lipschitz_refuses_masks_that_move_scores():
    layer, x = BertAttention(6, 2), torch.randn(1, 5, 6)
    with refuses("lipschitz: the mask of 'self' must only hide keys, got one that moves scores"):
        attention.lipschitz(layer, x, mask=torch.full((1, 1, 1, 5), 0.5))
