"""The examples on spectral bias and on bias and variance: that they find what they print."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.slow


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_random_state_and_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(before)


def draw(example, found, path):
    example.plot(found, path)
    assert path.stat().st_size > 0


def test_low_frequencies_are_learned_first(tmp_path):
    example = load("plot_spectral_bias")
    recorder = example.measure(steps=700)
    times = example.spectra.learned_at(recorder.heat, recorder.steps)
    low, middle, high = times[:3], times[3:6], times[6:]
    assert low.max() < middle.median()
    assert low.max() < 400
    assert middle.min() < high.min()
    assert recorder.heat[-1, -3:].max() < 0.5  # not one of the three highest is half learned
    draw(example, recorder, tmp_path / "figure.png")


def test_noise_of_low_frequency_spoils_the_validation_loss_more(tmp_path):
    example = load("plot_noise_frequency")
    found = example.measure(steps=400, seeds=1)
    best = [float(curve.min()) for curve in found.values()]
    assert best == sorted(best, reverse=True)
    assert best[0] > 3 * best[-1]
    draw(example, found, tmp_path / "figure.png")


def test_petals_make_high_frequencies_easier(tmp_path):
    example = load("plot_petals")
    found = example.measure()
    missed = {petals: float((shares[-3:] - 1).abs().mean()) for petals, shares in found.items()}
    assert missed[0] > 2 * missed[4]
    assert missed[0] > 2 * missed[10]
    draw(example, found, tmp_path / "figure.png")


def test_width_lowers_bias_and_the_variance_of_optimisation(tmp_path):
    example = load("plot_bias_variance")
    narrow, wide = (example.decompose(width, 1, 200) for width in (20, 320))
    assert wide.bias2 < 0.7 * narrow.bias2
    assert wide.optimisation < narrow.optimisation
    assert wide.variance < 1.2 * narrow.variance
    assert 0 < wide.sampling < wide.optimisation
    draw(example, {what: {1: narrow, 2: wide} for what in ("width", "depth")}, tmp_path / "figure.png")
