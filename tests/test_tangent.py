"""empirical_ntk where parameters are used in unusual ways, in other precisions, and where it cannot answer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gramian import ntk
from gramian.ntk import _recording
from tests.checks import refuses
from tests.reference import ntk as reference


class TiedByHand(nn.Module):
    """Weights of layers that are also used without the layers, as language models tie their first and last."""

    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.tanh(self.body(self.embedding(x.abs().long() % 7))).mean(1)
        h = torch.tanh(F.linear(h, self.body.weight))
        return self.head(h) + (h @ self.embedding.weight.mT)[:, :3]


class OnlyByHand(nn.Module):
    """A layer that is never called."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x, self.body.weight, self.body.bias)))


class AddedInPlace(nn.Module):
    """A layer whose output is a view, and is changed in place: its node leaves the graph."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        x = x[:, None] * torch.arange(1, 5)[:, None]
        y, _ = self.attention(x, x, x)
        y += x
        return self.head(y).mean(1)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(input=self.norm(input=x))


def hooked():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda module, args, out: 2 * out + args[0].sum(1, keepdim=True))
    model[2].register_forward_pre_hook(lambda module, args: (3 * args[0],))
    return model


def parametrized():
    first = parametrizations.weight_norm(nn.Linear(6, 5))
    return nn.Sequential(first, nn.Tanh(), parametrizations.orthogonal(nn.Linear(5, 5)), nn.Linear(5, 3))


NETWORKS = [TiedByHand, OnlyByHand, AddedInPlace, ByName, hooked, parametrized]


def inputs(n=5, dtype=torch.float64):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(3).to(dtype)


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_empirical_ntk_misses_no_use_of_a_parameter(make):
    torch.manual_seed(0)
    model, x = make().double(), inputs()
    expected = reference.empirical_ntk_by_loops(model, x)
    torch.testing.assert_close(ntk.empirical_ntk(model, x), expected, rtol=1e-10, atol=1e-12)
    trace = torch.einsum("nmcc->nm", expected[:2])
    got = ntk.empirical_ntk(model, x[:2], x, outputs="trace", block_size=2)
    torch.testing.assert_close(got, trace, rtol=1e-10, atol=1e-12)
    names = [name for name, _ in model.named_parameters()][::2]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    expected = reference.empirical_ntk_by_loops(model, x)
    torch.testing.assert_close(ntk.empirical_ntk(model, x, params=names), expected, rtol=1e-10, atol=1e-12)


def test_empirical_ntk_of_transposed_convolutions_in_dilated_groups():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, 1, groups=2, dilation=2)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(4, 4, 5, 3, dtype=torch.float64)
    model(x)
    expected = reference.empirical_ntk_by_loops(model, x)
    torch.testing.assert_close(ntk.empirical_ntk(model, x), expected, rtol=1e-10, atol=1e-12)


def test_empirical_ntk_is_the_same_with_outputs_in_turn(monkeypatch):
    torch.manual_seed(0)
    model = AddedInPlace().double()
    expected = ntk.empirical_ntk(model, inputs())
    monkeypatch.setattr(_recording, "_BATCHED_BYTES", 0)
    torch.testing.assert_close(ntk.empirical_ntk(model, inputs()), expected)


def test_empirical_ntk_of_one_sample():
    model = hooked().double()
    expected = reference.empirical_ntk_by_loops(model, inputs(1))
    torch.testing.assert_close(ntk.empirical_ntk(model, inputs(1)), expected)
    assert ntk.empirical_ntk(model, inputs(1), inputs(4), outputs="trace").shape == (1, 4)


@pytest.mark.parametrize("how", ["autocast", torch.bfloat16, torch.float16], ids=str)
def test_empirical_ntk_in_mixed_precision(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 3))
    x = inputs(9, torch.float32)
    expected = ntk.empirical_ntk(model, x)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            kernel = ntk.empirical_ntk(model, x)
    else:
        kernel = ntk.empirical_ntk(model.to(how), x.to(how))
    assert kernel.dtype == torch.float32
    # Activations and gradients have 8 bits (bfloat16): entries are sums of some dozens of products of them.
    assert (kernel - expected).abs().max() < 0.02 * expected.abs().max()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, self.training)


def test_empirical_ntk_refuses_what_draws_random_numbers():
    message = "empirical_ntk: model must be deterministic, got one that draws random numbers; call model.eval()"
    with refuses(message):
        ntk.empirical_ntk(Noisy().double(), inputs())
    hooked_model = nn.Linear(6, 3).double()
    hooked_model.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    with refuses(message):
        ntk.empirical_ntk(hooked_model, inputs())
    assert ntk.empirical_ntk(Noisy().double().eval(), inputs()).shape == (5, 5, 3, 3)


def test_label_energy_is_what_the_modes_share():
    torch.manual_seed(0)
    kernel, y = ntk.empirical_ntk(hooked().double(), inputs(8)), torch.arange(8) % 3
    values = ntk.spectrum(ntk.center(kernel))
    energy = ntk.label_energy(kernel, y)
    torch.testing.assert_close(energy.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close((values * energy).sum() / values.norm(), ntk.label_alignment(kernel, y, labels="vector"))
    trace = torch.einsum("nmcc->nm", kernel)
    values, energy = ntk.spectrum(ntk.center(trace)), ntk.label_energy(trace, y)
    labels = ntk.center(ntk.label_kernel(y, dtype=torch.float64))
    expected = ntk.alignment(trace, labels)  # <K_c, Y_c Y_cᵀ> is the sum of modes' eigenvalues times their energy
    torch.testing.assert_close((values * energy).sum() * labels.trace() / (values.norm() * labels.norm()), expected)
    with refuses("label_energy: y must have a label for each sample of K (8, 8), got (3,)"):
        ntk.label_energy(trace, y[:3])
