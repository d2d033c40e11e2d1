"""The examples of tangent kernels and dynamics: what they find, on smaller runs."""

import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_draws(module, found, path):
    module.plot(found, path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_kernel_turns_to_true_labels_and_stretches(tmp_path):
    module = example("plot_alignment")
    found = module.measure(epochs=20)
    true, random = (found[name].curve("train", "alignment") for name in ("true labels", "random labels"))
    assert true[-1] > true[0] + 0.05
    assert random.max() < random[0] + 0.04
    for recorder in found.values():
        share = recorder.curve("train", "top_share")
        assert share.max() > share[0] + 0.05
    assert_draws(module, found, tmp_path / "figure.png")


@pytest.mark.slow
def test_complexity_and_test_error_grow_with_corruption(tmp_path):
    module = example("plot_complexity")
    runs = module.measure((0.0, 0.4, 0.8))
    assert runs[0].complexity < runs[1].complexity < runs[2].complexity
    assert runs[0].test_accuracy > runs[1].test_accuracy > runs[2].test_accuracy
    assert_draws(module, runs, tmp_path / "figure.png")


@pytest.mark.slow
def test_the_hasty_run_is_farther_ahead_on_clean_labels(tmp_path):
    module = example("plot_lazy_and_hasty")
    found = module.measure(steps=500)
    noise = module.leads(found["label noise"])
    assert noise[0.3] > noise[100.0] > 0.3
    shortcut = module.leads(found["shortcut"])
    assert min(shortcut.values()) > 0.3
    assert torch.isfinite(found["shortcut"][0.3]).all()
    assert_draws(module, found, tmp_path / "figure.png")
