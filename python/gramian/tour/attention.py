"""Attention: how much its output can move with the tokens, before and after it learned to read digits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gramian import attention
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_WIDTH, _HEADS, _ROWS = 32, 4, 8
_TOL = 1e-4


class Reader(nn.Module):
    """A digit's eight rows of pixels are its tokens: two layers of attention with residual connections, and a linear map of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(_ROWS, _WIDTH)
        self.place = nn.Parameter(0.3 * torch.randn(_ROWS, _WIDTH))
        self.layers = nn.ModuleList(nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True) for _ in range(2))
        self.out = nn.Linear(_WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``[n, 64]`` images."""
        x = self.embed(images.view(-1, _ROWS, _ROWS)) + self.place
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        found: Tensor = self.out(x.mean(1))
        return found


def section(subject: Subject, measure: Measure) -> Section:
    """Train a small reader and measure its attention at images that it never learned from."""
    count, epochs = (16, 3) if subject.quick else (128, 20)
    before, after, accuracy = train(subject, epochs)
    images = subject.images[subject.held_out][:count]
    found = {
        name: attention.lipschitz(model, images, tol=_TOL) for name, model in (("before", before), ("after", after))
    }
    rows = []
    for number, layers in enumerate(zip(*found.values(), strict=True), start=1):
        for what, values in (
            ("local constant", [layer.sigma.sigma for layer in layers]),
            ("bound by blocks", [layer.schur for layer in layers]),
            ("bound in closed form", [layer.upper for layer in layers]),
        ):
            rows.append(
                (f"layer {number}: {what}", *(f"{float(value.median()):.3g}" for value in values if value is not None))
            )
    grown = [float((b.sigma.sigma / a.sigma.sigma).median()) for a, b in zip(*found.values(), strict=True)]
    tight = [float((layer.schur / layer.sigma.sigma).median()) for layer in found["after"] if layer.schur is not None]
    return Section(
        title="Regularity of attention",
        about=f"Two attention layers read a digit row by row; learned in {epochs} epochs, they are right on {accuracy:.0%} of the images held "
        f"out. The local Lipschitz constant is the norm of a layer's Jacobian at the tokens of one image (arXiv:2102.05628), here the "
        f"median over {count} images held out.",
        header=("median over images", "untrained", "trained"),
        rows=rows,
        finding=f"Training makes the layers {grown[0]:.1f} and {grown[1]:.1f} times as steep. The bound by blocks is {tight[0]:.1f} and "
        f"{tight[1]:.1f} times the constant.",
        versus=[
            versus(f"constants at {count} images", measure, constants, dense, after.layers[0], tokens(after, images))
        ],
        figure=_figure(found),
        caption="local Lipschitz constants of two attention layers, untrained and trained",
    )


def train(subject: Subject, epochs: int) -> tuple[Reader, Reader, float]:
    """The reader untrained, trained, and its accuracy on images held out."""
    images, labels = subject.images[: subject.learned], subject.labels[: subject.learned]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = Reader()
        model = copy.deepcopy(start)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in progress(range(epochs), "reader", "epoch"):
            for batch in torch.split(torch.randperm(len(images)), 64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    with torch.no_grad():
        right = model(subject.images[subject.held_out]).argmax(1) == subject.labels[subject.held_out]
    return start.eval(), model.eval(), float(right.double().mean())


@torch.no_grad()
def tokens(model: Reader, images: Tensor) -> Tensor:
    """What reaches the first attention layer."""
    found: Tensor = model.embed(images.view(-1, _ROWS, _ROWS)) + model.place
    return found


def constants(layer: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """By Lanczos' method."""
    weights = attention.lipschitz(layer, x, tol=_TOL)
    return weights[0].sigma.sigma


def dense(layer: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """By the whole Jacobian of each image, as one writes it with torch.func."""

    def one(x: Tensor) -> Tensor:
        found: Tensor = layer(x, x, x)[0]
        return found

    jacobian = torch.stack([torch.func.jacrev(one)(image).flatten(2).flatten(0, 1).detach() for image in x])
    norm: Tensor = torch.linalg.matrix_norm(jacobian, 2)
    return norm


def _figure(found: dict[str, list[attention.LayerConstant]]) -> Figure:
    figure = plot.figure(6, 3)
    axes = figure.subplots(1, 2, sharey=True)
    for number, axis in enumerate(axes):
        for (name, layers), color in zip(found.items(), (plot.BEFORE, plot.AFTER), strict=True):
            axis.hist(layers[number].sigma.sigma, bins=20, color=color, alpha=0.7, label=name)
        axis.set(title=f"layer {number + 1}", xlabel="local Lipschitz constant")
    axes[0].set_ylabel("images")
    axes[0].legend()
    return figure
