"""ntk.AlignmentRecorder in a training loop, and projected kernels."""

import json
import sys
import types
from itertools import pairwise

import pytest
import torch
from torch import nn

from gramian import ntk
from tests.checks import refuses


def problem():
    torch.manual_seed(0)
    x, labels = torch.randn(40, 6), torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    return model, x + 2 * nn.functional.one_hot(labels, 6), labels


def train(model, x, labels, steps, record):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        record(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    record(steps)


def test_recorder_reads_the_kernel_along_the_run(tmp_path):
    model, x, labels = problem()
    held_out = torch.randn(12, 6), torch.arange(12) % 3
    recorder = ntk.AlignmentRecorder(model, {"train": (x, labels), "held out": held_out})
    moves, weights = [], []

    def record(step):
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        recorder.record(step)

    train(model, x, labels, 5, record)
    assert model.training  # dropout is back
    assert recorder.steps == list(range(6))
    model.eval()
    kernel = ntk.empirical_ntk(model, x, outputs="trace").double()
    last = recorder.records[-2]
    assert last.name == "train"
    torch.testing.assert_close(last.alignment, float(ntk.label_alignment(kernel, labels)))
    torch.testing.assert_close(last.effective_rank, float(ntk.effective_rank(ntk.center(kernel))))
    torch.testing.assert_close(last.top_share, float(ntk.trace_ratio(ntk.center(kernel), 3)))
    torch.testing.assert_close(last.trace, float(kernel.trace()))
    moves = torch.stack([(b - a).norm() for a, b in pairwise(weights)]).double()
    torch.testing.assert_close(recorder.curve("train", "moved")[1:], moves)
    for name in ("train", "held out"):
        traces, complexity = recorder.curve(name, "trace"), recorder.curve(name, "complexity")
        torch.testing.assert_close(complexity[1:], (moves * traces[:-1].sqrt()).cumsum(0))
    recorder.save(tmp_path / "records.json")
    saved = json.loads((tmp_path / "records.json").read_text())
    assert [ntk.AlignmentRecord(**r) for r in saved] == recorder.records


def test_recorder_takes_either_form_of_the_labels():
    model, x, labels = problem()
    recorder = ntk.AlignmentRecorder(model, {"train": (x, labels)}, labels="vector", params=["3.weight"])
    recorder.record(0)
    model.eval()
    kernel = ntk.empirical_ntk(model, x, params=["3.weight"]).double()
    expected = ntk.label_alignment(kernel, labels, labels="vector")
    torch.testing.assert_close(recorder.records[0].alignment, float(expected))
    torch.testing.assert_close(recorder.records[0].trace, float(torch.einsum("nncc->", kernel)))
    with refuses("AlignmentRecorder: labels must be 'kernel' or 'vector', got 'both'"):
        ntk.AlignmentRecorder(model, {"train": (x, labels)}, labels="both")


def test_complexity_grows_with_corrupted_labels():
    ends = []
    for corrupted in (0, 20, 40):
        model, x, labels = problem()
        labels = torch.cat([torch.randint(3, (corrupted,)), labels[corrupted:]])
        model[2].p = 0.0
        recorder = ntk.AlignmentRecorder(model, {"train": (x, labels)})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for step in range(3000):
            loss = nn.functional.cross_entropy(model(x), labels)
            if step % 25 == 0 or loss < 0.1:
                recorder.record(step)
            if loss < 0.1:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(float(recorder.curve("train", "complexity")[-1]))
    assert ends[0] < ends[1] < ends[2]


def test_recorder_is_a_lightning_callback(monkeypatch):
    lightning, pytorch = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
    pytorch.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", lightning)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", pytorch)
    model, x, labels = problem()
    recorder = ntk.AlignmentRecorder(model, {"train": (x, labels)})
    callback = recorder.callback(every=2)
    assert isinstance(callback, pytorch.Callback)
    for step in range(5):
        callback.on_train_batch_start(types.SimpleNamespace(global_step=step), None, None, step)
    callback.on_train_end(types.SimpleNamespace(global_step=5), None)
    assert recorder.steps == [0, 2, 4, 5]


@pytest.mark.parametrize("x2", [False, True])
def test_projected_outputs_are_the_projected_kernel(x2):
    model, x, _ = problem()
    model.eval().double()
    first, second = x[:9].double(), x[9:14].double() if x2 else None
    projection = torch.randn(3, 2, dtype=torch.float64)
    full = ntk.empirical_ntk(model, first, second)
    expected = torch.einsum("nmce,cr,es->nmrs", full, projection, projection)
    torch.testing.assert_close(ntk.empirical_ntk(model, first, second, outputs=projection), expected)
    with refuses("empirical_ntk: outputs must be a projection [3, r], got shape (2, 2)"):
        ntk.empirical_ntk(model, first, outputs=projection[:2])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "sets must hold at least one, got none"),
        (
            {"a": (torch.zeros(3, 1), torch.zeros(2))},
            "sets must have labels [n] of integers, got shape (2,) torch.float32 for 3 samples of 'a'",
        ),
    ],
)
def test_recorder_refuses(sets, message):
    with refuses(f"AlignmentRecorder: {message}"):
        ntk.AlignmentRecorder(nn.Linear(1, 1), sets)
    recorder = ntk.AlignmentRecorder(nn.Linear(1, 1), {"a": (torch.zeros(2, 1), torch.zeros(2).long())})
    with pytest.raises(
        ValueError, match=r"AlignmentRecorder: curve must be one of alignment, .* of one of a, got x of a"
    ):
        recorder.curve("a", "x")
