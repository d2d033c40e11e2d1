"""empirical_ntk of multi-head attention: its rule against gradients of each sample and output in float64."""

import pytest
import torch
from torch import nn

from gramian import ntk
from gramian.ntk import _recording
from tests.reference import ntk as reference

N, T, S, D = 4, 3, 5, 6


class Attending(nn.Module):
    """Attention within a sample, or from its first tokens to all of them, and what is made of its outputs."""

    def __init__(self, *, crossing=False, weights="none", call=None, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2, **settings)
        self.head = nn.Linear(D, 3)
        self.crossing, self.weights, self.call = crossing, weights, call or (lambda x: {})

    def forward(self, x):
        x = x.unflatten(1, (S, D))
        key, value = x[..., : self.attention.kdim], torch.sin(x)[..., : self.attention.vdim]
        given = (torch.cos(x[:, :T]), key, value) if self.crossing else (x, x, x)
        if not self.attention.batch_first:
            given = tuple(t.transpose(0, 1) for t in given) if self.crossing else (x.transpose(0, 1),) * 3
        need = {"need_weights": self.weights != "none", "average_attn_weights": self.weights != "each"}
        y, p = self.attention(*given, **need, **self.call(x))
        y = torch.tanh(y.mean(1 if self.attention.batch_first else 0))
        if self.weights == "none":
            return self.head(y)
        shown = (p.square() * torch.arange(p.shape[-1])).flatten(1).sum(1, keepdim=True)
        return shown if self.weights == "only" else self.head(y) + shown


def inputs():
    return torch.randn(N, S * D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CAUSAL = torch.ones(S, S, dtype=torch.bool).triu(1)


def padded(x):
    """Keys that a sample has not; never the first."""
    return {"key_padding_mask": torch.cat([x[:, :1, 0] > 9, x[:, 1:, 0] > 0], 1), "attn_mask": CAUSAL}


def for_each_head(x):
    return {"attn_mask": torch.stack([x @ x.mT, torch.sin(x) @ x.mT], 1).flatten(0, 1)}


CASES = {
    "self": {},
    "self, samples second": {"batch_first": False},
    "without biases": {"bias": False},
    "crossing": {"crossing": True},
    "crossing, samples second": {"crossing": True, "batch_first": False, "bias": False},
    "other widths": {"crossing": True, "kdim": 4, "vdim": 5},
    "other widths without biases": {"crossing": True, "kdim": 4, "vdim": 5, "bias": False},
    "causal": {"call": lambda _: {"attn_mask": CAUSAL, "is_causal": True}},
    "padded": {"call": padded},
    "mask of each head": {"call": for_each_head},
    "mean weights": {"weights": "mean"},
    "weights of each head": {"weights": "each", "crossing": True},
    "only weights": {"weights": "only"},
}


def check(model):
    x = inputs()
    expected = reference.empirical_ntk_by_loops(model, x)
    with torch.no_grad():
        torch.testing.assert_close(ntk.empirical_ntk(model, x), expected, rtol=1e-10, atol=1e-12)
        trace = torch.einsum("nmcc->nm", expected)
        torch.testing.assert_close(ntk.empirical_ntk(model, x, outputs="trace"), trace, rtol=1e-10, atol=1e-12)
        diagonal = torch.einsum("nncc->nc", expected)
        torch.testing.assert_close(ntk.ntk_diagonal(model, x), diagonal, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_attention_has_a_rule(case, monkeypatch):
    monkeypatch.setattr(_recording, "by_samples", None)  # not differentiated by itself
    torch.manual_seed(0)
    model = Attending(**({"batch_first": True} | CASES[case])).double()
    check(model)
    model.attention.out_proj.requires_grad_(False)
    model.head.weight.requires_grad_(False)
    check(model)


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_attention_with_further_keys_is_differentiated_by_itself(settings):
    torch.manual_seed(0)
    check(Attending(batch_first=True, **settings).double())


class Encoder(nn.Module):
    """torch's encoder, whose layers have a fast path of their own in evaluation."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 8, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(D, 3)

    def forward(self, x):
        return self.head(self.encoder(x.unflatten(1, (S, D))).mean(1))


@pytest.mark.parametrize("frozen", [[], ["encoder.layers.0"], ["encoder"]], ids=str)
def test_attention_is_seen_where_torch_would_take_its_fast_path(frozen, monkeypatch):
    monkeypatch.setattr(_recording, "by_samples", None)
    torch.manual_seed(0)
    model = Encoder().double().eval()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    check(model)
