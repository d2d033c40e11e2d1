"""Draws docs/images/overview.png, the figure of the README, from four scripts of examples/: `python tools/overview.py`, a minute."""

import importlib.util
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from gramian import neighbors

ROOT = Path(__file__).resolve().parent.parent
BLUE, RED = "#0072B2", "#D55E00"  # Okabe and Ito's: the colour-blind can tell them apart
SHADES = {"random": "#999999", "pca": "#E69F00", "supervised": RED, "contrastive": BLUE}


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alignment(axes):
    for (name, recorder), color, dash in zip(
        example("plot_alignment").measure().items(), (BLUE, RED), "-:", strict=True
    ):
        axes.plot(recorder.steps, recorder.curve("train", "alignment"), dash, color=color, lw=2, label=name)
    axes.set(xlabel="epoch", ylabel="alignment with the labels", title="Tangent kernels turn to true labels")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, loc="center right")


def spectral_bias(axes):
    module = example("plot_spectral_bias")
    recorder = module.measure()
    places = range(len(module.FREQUENCIES))
    mesh = axes.pcolormesh(
        places, recorder.steps, recorder.heat.numpy(), vmin=0, vmax=1, shading="nearest", cmap="cividis"
    )
    axes.set_xticks(places, [f"{k:g}" for k in module.FREQUENCIES])
    axes.set(xlabel="frequency (cycles)", ylabel="step", title="Low frequencies are learned first")
    axes.figure.colorbar(mesh, ax=axes, label="share learned")


def clid(axes):
    module = example("plot_clid")
    images, labels = module.digits()
    torch.manual_seed(0)
    place = torch.randperm(len(images))
    learned = len(images) // 2
    encoders = module.zoo(images[place], labels[place], learned, 8)
    found = neighbors.clid({n: r[learned:] for n, r in encoders.items()}, generator=torch.Generator().manual_seed(0))
    accuracy = [module.probe(rows, labels[place], learned) for rows in encoders.values()]
    for (kind, color), marker in zip(SHADES.items(), "Xs^o", strict=True):
        at = [i for i, name in enumerate(found.names) if name.startswith(kind)]
        axes.plot(found.score[at], [100 * accuracy[i] for i in at], marker, color=color, ms=7, label=kind)
    axes.set(
        xlabel="CLID, without labels",
        ylabel="linear probe, with labels (%)",
        title="Representations judged without labels",
    )
    axes.legend(frameon=False)


def sixj(axes):
    module = example("plot_sixj_landscape")
    found = module.measure()
    height = float(found.symbols.abs().quantile(0.99))
    image = axes.imshow(found.symbols.numpy(), cmap="RdBu", vmin=-height, vmax=height, origin="lower")
    axes.contour(found.exists.double().numpy(), levels=[0.5], colors="black", linewidths=0.8)
    axes.set(xlabel="spin l1", ylabel="spin j1", title=f"6j symbols, the other spins {module.SPIN}")
    axes.figure.colorbar(image, ax=axes, label="value")


def main():
    torch.set_num_threads(1)  # small networks
    figure = Figure(figsize=(11, 7), layout="constrained")
    for draw, axes in zip((alignment, spectral_bias, clid, sixj), figure.subplots(2, 2).flat, strict=True):
        print(draw.__name__, file=sys.stderr)
        draw(axes)
        if draw in (alignment, clid):
            axes.spines[["top", "right"]].set_visible(False)
    path = ROOT / "docs" / "images" / "overview.png"
    figure.savefig(path, dpi=100, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
