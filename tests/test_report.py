"""The report: its numbers are those of the ops, its page stands alone, and what does not apply says why."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import nn

import gramian
from gramian import attention, neighbors, ntk
from gramian._report import load_data, load_model
from gramian.cli import main

KERNEL, LAYERS, ATTENTION, SEGMENTS = (
    "Tangent kernel",
    "Learnability and dimension by layer",
    "Attention by layer",
    "Spectrum along data segments",
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.fixture
def x():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y(x):
    return (x[:, 0] > 0).long()


def test_the_numbers_are_those_of_the_ops(tmp_path, x, y):
    model = network()
    numbers = gramian.report(model, (x, y), tmp_path / "page.html").numbers
    assert model.training
    model.eval()
    kernel = ntk.empirical_ntk(model, x, outputs="trace")
    found = numbers[KERNEL]
    assert found["eigenvalues"] == pytest.approx(ntk.spectrum(kernel.double()).tolist())
    assert found["alignment with the labels"] == pytest.approx(float(ntk.label_alignment(kernel, y)))
    layer = model[:2](x).detach()
    assert numbers[LAYERS]["layers"]["1"]["dimension"] == pytest.approx(float(neighbors.twonn(layer).value))
    assert list(numbers[LAYERS]["layers"]) == ["0", "1", "3", "output"]  # dropout changes nothing in eval mode
    assert sum(numbers[SEGMENTS]["power"]) == pytest.approx(1)
    for section in (KERNEL, LAYERS, SEGMENTS):
        assert numbers[section]["seconds"] > 0
        assert numbers[section]["growth of peak memory (MB)"] >= 0


def test_attention_is_measured_layer_by_layer(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    tokens = torch.randn(12, 5, 8)
    found = gramian.report(model, tokens, tmp_path / "page.html").numbers[ATTENTION]
    expected = attention.lipschitz(model.eval(), tokens[:8])
    assert list(found["layers"]) == [f"call {i + 1}: layers.{i}.self_attn" for i in range(2)]
    for row, layer in zip(found["layers"].values(), expected, strict=True):
        assert row["largest"] == pytest.approx(float(layer.sigma.sigma.max()))
        assert row["mean"] <= row["largest"] <= row["largest upper bound"]
    assert found["samples"] == 8


def test_a_sine_has_its_power_at_its_frequency(tmp_path):
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(2 * torch.pi * 10 * x)  # ends are 0 or 1: ten cycles on each segment that is one long

    x = torch.tensor([[0.0], [1.0]] * 8)
    found = gramian.report(Sine(), x, tmp_path / "page.html", seed=3).numbers[SEGMENTS]
    assert max(range(64), key=found["power"].__getitem__) + 1 == 10
    assert found["mean frequency (cycles per segment)"] == pytest.approx(10, abs=0.2)


def test_the_same_seed_gives_the_same_numbers(tmp_path, x):
    def timeless(numbers):
        return {
            name: {key: v for key, v in section.items() if key not in ("seconds", "growth of peak memory (MB)")}
            for name, section in numbers.items()
        }

    first, second = (gramian.report(network(), x, tmp_path / f"{i}.html", seed=5).numbers for i in range(2))
    assert timeless(first) == timeless(second)


def test_the_page_stands_alone_and_holds_the_figures(tmp_path, x, y):
    written = gramian.report(network(), (x, y), tmp_path / "page.html")
    page = written.page.read_text(encoding="utf-8")
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

    Reader().feed(page)
    sources = [attributes["src"] for tag, attributes in tags if "src" in attributes]
    assert len(sources) == 5
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert all("href" not in attributes for _, attributes in tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_the_json_holds_every_number_and_nothing_that_is_not_json(tmp_path, x):
    written = gramian.report(network(), x, tmp_path / "page.html")
    assert written.numbers_file == tmp_path / "page.json"

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(written.numbers_file.read_text(), parse_constant=refuse) == written.numbers
    shown = set(re.findall(r"<th>([^<]+)</th><td", written.page.read_text()))
    assert {"trace", "effective rank", "mean frequency (cycles per segment)"} <= shown


def test_names_are_escaped(tmp_path, x):
    model = nn.Sequential()
    model.add_module("<b>layer&", nn.Linear(6, 3))
    type_ = type("<script>alert(1)</script>", (nn.Sequential,), {})
    page = gramian.report(type_(model), x, tmp_path / "page.html").page.read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;layer&amp;" in page


def test_sections_that_do_not_apply_say_why(tmp_path):
    tokens = torch.randint(0, 9, (20, 4))
    model = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(32, 2)).requires_grad_(requires_grad=False)
    written = gramian.report(model, tokens, tmp_path / "page.html")
    assert written.numbers[KERNEL]["does not apply"] == "no parameter of the model requires a gradient"
    assert written.numbers[SEGMENTS]["does not apply"] == "between torch.int64 samples there are no points"
    page = written.page.read_text(encoding="utf-8")
    assert written.numbers[ATTENTION]["does not apply"].startswith("no layer of the model is self-attention")
    assert page.count("Does not apply: ") == 3
    wide = gramian.report(nn.Linear(3, 2), torch.randn(9, 5), tmp_path / "page.html").numbers
    assert all("does not apply" in wide[section] for section in (KERNEL, LAYERS, SEGMENTS))


@pytest.mark.parametrize("kind", ["tensor", "array", "pair", "loader", "batches", "labelled loader"])
def test_data_comes_in_many_forms(tmp_path, x, y, kind):
    from torch.utils.data import DataLoader, TensorDataset

    data = {
        "tensor": x,
        "array": x.numpy(),
        "pair": (x, y),
        "loader": DataLoader(x, batch_size=7),
        "batches": list(x.split(9)),
        "labelled loader": DataLoader(TensorDataset(x, y), batch_size=7),
    }[kind]
    numbers = gramian.report(network(), data, tmp_path / "page.html", samples=30).numbers
    assert numbers["subject"]["samples"] == "30 of shape (6,), float32"
    assert (numbers["subject"]["labels"] == "none") == (kind not in ("pair", "labelled loader"))
    assert numbers[KERNEL]["samples"] == 30


def test_the_command_reads_files_and_import_paths(tmp_path, x, y, capsys, monkeypatch):
    (tmp_path / "mine_for_report.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=x.numpy(), y=y.numpy())
    assert main(["report", "mine_for_report:make", "data.npz", "--quiet", "--out", "a.html"]) == 0
    assert capsys.readouterr().out == "a.html\na.json\n"
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert 0 < numbers[KERNEL]["alignment with the labels"] < 1


def test_files_of_models_and_data(tmp_path, x, y, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network().eval()
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), "model.pt2")
    torch.save({"x": x, "y": y}, "data.pt")
    numbers = gramian.report("model.pt2", "data.pt", "page.html").numbers
    assert "does not apply" not in numbers[SEGMENTS]
    with torch.no_grad():
        torch.testing.assert_close(load_model("model.pt2")(x), model(x))
    np.save("data.npy", x.numpy())
    assert np.array_equal(load_data("data.npy"), x.numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_file_is_measured_at_its_output(tmp_path, x):
    torch.jit.save(torch.jit.trace(network().eval(), x), tmp_path / "model.pt")
    numbers = gramian.report(str(tmp_path / "model.pt"), x, tmp_path / "page.html").numbers
    assert list(numbers[LAYERS]["layers"]) == ["output"]
    assert numbers[KERNEL]["does not apply"].startswith("the layers of a TorchScript module cannot be followed")
    assert "does not apply" not in numbers[SEGMENTS]


def test_report_refuses_what_it_cannot_use(tmp_path, x, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.html"
    with pytest.raises(ValueError, match=r"^report: data must have at least 3 samples$"):
        gramian.report(network(), x[:2], page)
    with pytest.raises(ValueError, match=r"^report: samples must be at least 3, got 2$"):
        gramian.report(network(), x, page, samples=2)
    with pytest.raises(ValueError, match=r"^report: model must be package.module:factory or a file, got nothing$"):
        gramian.report("nothing", x, page)
    with pytest.raises(ValueError, match=r"^report: model must be importable, got no_such_module:f: No module"):
        gramian.report("no_such_module:f", x, page)
    with pytest.raises(
        ValueError, match=r"^report: model must be or make a torch.nn.Module, got dict from builtins:dict$"
    ):
        gramian.report("builtins:dict", x, page)
    with pytest.raises(ValueError, match=r"^report: out must end in .html, got page$"):
        gramian.report(network(), x, "page")
    (tmp_path / "data.txt").write_text("1")
    np.savez(tmp_path / "data.npz", z=x.numpy())
    for name, why in (
        ("none.pt", "must be a file"),
        ("data.txt", "must be a .pt, .npy or .npz file"),
        ("data.npz", "must have an entry x"),
    ):
        with pytest.raises(ValueError, match=f"^report: data {why}"):
            load_data(str(tmp_path / name))
    assert main(["report", "nothing", "none.pt", "--quiet"]) == 1
    assert capsys.readouterr().err == "gramian report: model must be package.module:factory or a file, got nothing\n"


def test_data_files_cannot_run_anything(tmp_path):
    torch.save(network(), tmp_path / "data.pt")  # a pickle of code
    with pytest.raises(Exception, match="weights_only"):
        load_data(str(tmp_path / "data.pt"))
