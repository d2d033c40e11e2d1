"""The spectral-bias harness: sinusoids, amplitudes, curves, label noise, recordings and perturbations."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from gramian import spectra
from tests.checks import refuses

K = [5.0, 10.0, 15.0]


def grid(n=200):
    return torch.arange(n, dtype=torch.float64) / n


def network(width=64, inputs=1):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_sinusoids_are_their_formula():
    z, a, p = grid(), [1.0, 0.5, 2.0], [0.3, 1.0, 5.0]
    expected = sum(ai * np.sin(2 * np.pi * k * z.numpy() + pi) for ai, k, pi in zip(a, K, p, strict=True))
    got = spectra.sinusoids(z, K, amplitudes=a, phases=p)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    assert spectra.sinusoids(z.float(), K).dtype == torch.float32


def test_amplitudes_are_bins_of_the_dft_and_invert_the_sinusoids():
    z = grid()
    values = torch.randn(3, 200, dtype=torch.float64)
    expected = torch.fft.rfft(values).abs()[:, [5, 10, 15]] / 100
    torch.testing.assert_close(spectra.amplitudes_at(values, z, K), expected, rtol=1e-12, atol=1e-13)
    made = spectra.sinusoids(z, K, amplitudes=[1.0, 0.5, 2.0], phases=[0.3, 1.0, 5.0])
    found = spectra.amplitudes_at(made, z, [0.0, *K, 7.0])
    torch.testing.assert_close(found, torch.tensor([0, 1, 0.5, 2, 0]).double(), rtol=0, atol=1e-13)
    assert spectra.amplitudes_at(torch.ones(200), z, [0.0]) == 1
    assert torch.autograd.gradcheck(
        lambda v: spectra.amplitudes_at(v, z[:10], [1.0]), (torch.randn(10).double().requires_grad_(),)
    )


def test_petals_close_and_have_their_radius():
    z = grid(1000)
    for petals in (0, 4, 16):
        x = spectra.petal(z, petals)
        radius = x.norm(dim=1)
        torch.testing.assert_close(radius, 1 + 0.5 * (2 * math.pi * petals * z).sin())
        torch.testing.assert_close(torch.atan2(x[:, 1], x[:, 0]).remainder(2 * math.pi), 2 * math.pi * z)
        if petals:
            assert spectra.amplitudes_at(radius, z, [petals]) == pytest.approx(0.5, abs=1e-12)


def test_wave_noise_has_its_frequency():
    x = torch.linspace(0, 10, 1001, dtype=torch.float64)[:-1, None]  # one dimension: |x| is x
    noise = spectra.wave_noise(x, 3.0, units="cycles")
    found = spectra.amplitudes_at(noise, x[:, 0], [2.9, 3.0, 3.1])
    torch.testing.assert_close(found, torch.tensor([0, 1, 0]).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(spectra.wave_noise(x, 6 * math.pi), noise)
    images = torch.rand(500, 1, 8, 8)
    along = spectra.wave_noise(images, 2.0, form="directions", generator=torch.Generator().manual_seed(0))
    assert along.shape == (500,)
    assert float(along.square().mean()) == pytest.approx(0.5, rel=1e-5)
    expected = torch.sin(0.7 * images.flatten(1).norm(dim=1))
    torch.testing.assert_close(spectra.wave_noise(images, 0.7), expected)


@pytest.fixture(scope="module")
def learned():
    """A network that is learning three sinusoids, and how."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
    options = {"phases": [0.5, 1.0, 2.0], "steps": 1700, "every": 50, "learning_rate": 5e-3}
    return model, spectra.learn_sinusoids(model, grid().float(), [1.0, 4.0, 8.0], **options)


def test_low_frequencies_are_learned_first(learned, tmp_path):
    _, recorder = learned
    assert recorder.steps == list(range(0, 1701, 50))
    times = spectra.learned_at(recorder.heat, recorder.steps)
    assert times[0] < times[1] < times[2]
    recorder.save(tmp_path / "heat.json")
    kept = json.loads((tmp_path / "heat.json").read_text(encoding="utf-8"))
    assert kept["steps"] == recorder.steps
    assert torch.equal(torch.tensor(kept["heat"], dtype=torch.float64), recorder.heat)


def test_a_recorder_reads_what_a_model_is_and_leaves_its_mode():
    class Exact(nn.Module):
        def forward(self, z):
            return 0.25 * spectra.sinusoids(z, K, amplitudes=[1.0, 2.0, 3.0])

    model = Exact().train()
    recorder = spectra.FrequencyRecorder(model, grid()[:, None], grid(), K, amplitudes=[1.0, 2.0, 3.0])
    assert recorder.heat.shape == (0, 3)
    recorder.record(7)
    assert model.training
    torch.testing.assert_close(recorder.heat, torch.full((1, 3), 0.25).double())
    assert spectra.learned_at(recorder.heat, recorder.steps, threshold=0.2).tolist() == [7.0] * 3


def test_perturbation_at_a_radius_moves_all_parameters_by_it():
    model = nn.Linear(
        1, 1, bias=False
    ).double()  # amplitudes are |w| times those of z: the ratio is |w + du| / |w|, u = 1 or -1
    z = grid(64)
    with torch.no_grad():
        model.weight.fill_(2)
    found = spectra.perturbed_amplitudes(model, z[:, None], z, [1.0, 2.0], [0.0, 1.0, 5.0], directions=7, together=3)
    torch.testing.assert_close(found[:2].mean(1)[0], torch.ones(()).double())
    up = (found[1, 0] - 0.5) / (1.5 - 0.5)  # the share of u = +1
    assert float(up * 7) == pytest.approx(round(float(up * 7)), abs=1e-9)
    torch.testing.assert_close(found[2, 0], up * 3.5 + (1 - up) * 1.5)
    assert model.weight == 2


def test_high_frequencies_are_less_robust(learned):
    model, z = learned[0], grid().float()
    generator = torch.Generator().manual_seed(0)
    found = spectra.perturbed_amplitudes(
        model, z[:, None], z, [1.0, 8.0], [0.0, 3.0], directions=100, generator=generator
    )
    torch.testing.assert_close(found[0], torch.ones(2).double(), rtol=0, atol=1e-5)
    assert found[1, 1] < 0.9  # a high frequency is lost, while the perturbation itself adds to low ones
    assert found[1, 0] > found[1, 1] + 0.2


def test_harness_refuses():
    z = grid()
    with refuses("sinusoids: amplitudes must be [3], one for each frequency, got shape (2,)"):
        spectra.sinusoids(z, K, amplitudes=[1.0, 2.0])
    with refuses("amplitudes_at: frequencies must be [k] got shape (1, 1)"):
        spectra.amplitudes_at(z, z, torch.ones(1, 1))
    with refuses("amplitudes_at: values must be [..., n] for z [n], got shapes (5,) and (200,)"):
        spectra.amplitudes_at(torch.ones(5), z, K)
    with refuses("petal: z must be [n], got shape (200, 1)"):
        spectra.petal(z[:, None], 3)
    with refuses("wave_noise: form must be radial or directions, got plane"):
        spectra.wave_noise(z[:, None], 1.0, form="plane")
    with refuses("wave_noise: units must be angular or cycles, got degrees"):
        spectra.wave_noise(z[:, None], 1.0, units="degrees")
    with refuses("FrequencyRecorder: inputs must have the 200 rows of z, got 3"):
        spectra.FrequencyRecorder(network(), torch.ones(3, 1), z, K)
    with refuses("learn_sinusoids: steps and every must be positive, got 10 and 0"):
        spectra.learn_sinusoids(network(), z, K, steps=10, every=0)
    with refuses("FrequencyRecorder: model must have one output, got shape (200, 2) for 200 inputs"):
        spectra.learn_sinusoids(nn.Linear(1, 2).double(), z, K, steps=10)
    with refuses("learned_at: heat must be [2, k] for these steps, got shape (3, 1)"):
        spectra.learned_at(torch.ones(3, 1), [0, 1])
    with refuses("perturbed_amplitudes: directions and together must be at least 1, got 0 and 25"):
        spectra.perturbed_amplitudes(network(), z[:, None], z, K, [1.0], directions=0)
