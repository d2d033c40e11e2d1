"""The examples on mutual information and attacks: that they find what they print."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

FOLDER = Path(__file__).parent.parent / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::gramian.NumericalWarning")]


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def test_adversarial_training_helps_against_attacks(tmp_path):
    pytest.importorskip("matplotlib")
    example = load("plot_adversarial")
    found = example.measure(epochs=8, seeds=1)
    clean, attacked = (torch.stack([seeds.mean(0)[side] for seeds in found.values()]) for side in (0, 1))
    assert clean.min() > 0.8
    assert (attacked[1:] > attacked[0] + 0.1).all()  # every one of them beats standard training
    example.plot(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_a_bottleneck_keeps_less(tmp_path):
    pytest.importorskip("matplotlib")
    example = load("plot_bottleneck")
    found = example.measure(steps=300)
    assert found[1.0].information < found[0.0].information
    assert found[0.0].error < 0.3
    example.plot(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_information_keeps_a_generator_from_collapsing(tmp_path):
    pytest.importorskip("matplotlib")
    example = load("plot_gan_regularisation")
    found = example.measure(steps=1500)
    assert found[1.0].entropy > found[0.0].entropy + 0.3
    assert found[1.0].information > found[0.0].information + 1
    example.plot(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
