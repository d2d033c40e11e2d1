"""The tangent kernel: how it turns towards the labels while the network learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from gramian import ntk
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_MODES = 10
_ROWS = {
    "learned": "alignment with the labels, images learned from",
    "held out": "alignment with the labels, images held out",
    "rank": "effective rank of the centred kernel",
    "share": f"share of its {_MODES} largest modes",
}


def section(subject: Subject, measure: Measure) -> Section:
    """Measure the tangent kernel after every epoch, and once more in plain PyTorch at the end."""
    few, count = (16, 64) if subject.quick else (128, 256)
    chosen = torch.cat([torch.arange(count), torch.arange(count) + subject.learned])
    images, labels = subject.images[chosen].chunk(2), subject.labels[chosen].chunk(2)

    kernels, course = [], []
    for network in progress(subject.snapshots, "tangent kernels", "epoch"):
        kernels.append(trace_kernels(network, *images))
        course.append(numbers(kernels[-1], *labels))

    network = subject.snapshots[-1]
    sides = [
        versus(f"full kernel of {few} images", measure, full_kernel, plain_full_kernel, network, images[0][:few]),
        versus(f"trace kernels of 2 x {count} images", measure, trace_kernels, plain_trace_kernels, network, *images),
    ]
    plain_numbers = numbers_plainly(sides[-1].plain.result, *labels)

    narrowest = min(range(len(course)), key=lambda epoch: course[epoch]["rank"])
    first, last = course[0], course[-1]
    return Section(
        title="Tangent kernel",
        about=f"K(x, x') = <df(x)/dw, df(x')/dw> says how alike two images are to the network's gradient. Measured after "
        f"every epoch on {count} images learned from and {count} held out.",
        header=("", "before", "after training", "by plain PyTorch"),
        rows=[(name, *(f"{value[key]:.4g}" for value in (first, last, plain_numbers))) for key, name in _ROWS.items()],
        finding=f"The kernel first narrows, from {first['rank']:.0f} effective directions to "
        f"{course[narrowest]['rank']:.0f} after epoch {narrowest}; its alignment with the labels then goes from "
        f"{course[narrowest]['learned']:.2f} to {last['learned']:.2f}, and on images held out from "
        f"{course[narrowest]['held out']:.2f} to {last['held out']:.2f}.",
        versus=sides,
        figure=_figure(subject, kernels, course, labels[0], narrowest),
        caption="the kernel before, at its narrowest and after training; alignment; spectrum",
    )


def full_kernel(network: nn.Module, images: Tensor) -> Tensor:
    """K [n, n, c, c]."""
    return ntk.empirical_ntk(network, images)


def plain_full_kernel(network: nn.Module, images: Tensor) -> Tensor:
    """K [n, n, c, c], as torch.func's documentation computes it."""
    products = (torch.einsum("nap,mbp->nmab", jacobian, jacobian) for jacobian in _jacobians(network, images))
    return sum(products, start=torch.zeros(()))


def trace_kernels(network: nn.Module, *images: Tensor) -> Tensor:
    """Sum over outputs, K [n, n] of each set of images."""
    return torch.stack([ntk.empirical_ntk(network, some, outputs="trace") for some in images])


def plain_trace_kernels(network: nn.Module, *images: Tensor) -> Tensor:
    """Sum over outputs, K [n, n] of each set of images."""

    def one(some: Tensor) -> Tensor:
        products = (torch.einsum("nap,map->nm", jacobian, jacobian) for jacobian in _jacobians(network, some))
        return sum(products, start=torch.zeros(()))

    return torch.stack([one(some) for some in images])


def _jacobians(network: nn.Module, images: Tensor) -> list[Tensor]:
    def single(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        outputs: Tensor = functional_call(network, parameters, (image[None],))
        return outputs[0]

    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return [jacobian.flatten(2) for jacobian in vmap(jacrev(single), (None, 0))(parameters, images).values()]


def numbers(kernels: Tensor, labels: Tensor, held_out_labels: Tensor) -> dict[str, float]:
    """Alignment and spectrum, by gramian."""
    centered = ntk.center(kernels[0])
    return {
        "learned": float(ntk.alignment(kernels[0], ntk.label_kernel(labels))),
        "held out": float(ntk.alignment(kernels[1], ntk.label_kernel(held_out_labels))),
        "rank": float(ntk.effective_rank(centered)),
        "share": float(ntk.trace_ratio(centered, _MODES)),
    }


def numbers_plainly(kernels: Tensor, labels: Tensor, held_out_labels: Tensor) -> dict[str, float]:
    """Compute the same from the definitions, with H = I - 11'/n."""
    n = len(labels)
    center = torch.eye(n) - torch.full((n, n), 1 / n)

    def alignment(kernel: Tensor, labels: Tensor) -> float:
        one_hot = nn.functional.one_hot(labels).float()
        features, wanted = center @ kernel @ center, center @ one_hot @ one_hot.T @ center
        return float((features * wanted).sum() / features.norm() / wanted.norm())

    modes = torch.linalg.eigvalsh(center @ kernels[0] @ center).clamp_min(0).flip(0)
    share = modes / modes.sum()
    return {
        "learned": alignment(kernels[0], labels),
        "held out": alignment(kernels[1], held_out_labels),
        "rank": float(torch.special.entr(share).sum().exp()),
        "share": float(share[:_MODES].sum()),
    }


def _figure(
    subject: Subject, kernels: list[Tensor], course: list[dict[str, float]], labels: Tensor, narrowest: int
) -> Figure:
    figure = plot.figure(11, 7)
    axes = figure.subplots(2, 3)
    order = labels.argsort(stable=True)
    bounds = labels[order].bincount().cumsum(0)
    shown = {0: plot.BEFORE, narrowest: plot.BETWEEN, len(course) - 1: plot.AFTER}
    for axis, epoch in zip(axes[0], shown, strict=False):
        kernel = kernels[epoch][0][order][:, order]
        scale = kernel.diagonal().rsqrt()
        image = axis.imshow(scale[:, None] * kernel * scale, cmap="magma", vmin=0, vmax=1)
        plot.picture(axis)
        axis.set_yticks(bounds - labels.bincount() / 2, range(len(bounds)), color="#666666")
        axis.tick_params(length=0)
        axis.set_title(f"epoch {epoch}: alignment {course[epoch]['learned']:.2f}, rank {course[epoch]['rank']:.0f}")
    axes[0, 0].set_ylabel("images, by digit")
    figure.colorbar(image, ax=axes[0], shrink=0.8, label="cosine of the gradients")

    aligned, ranks, modes = axes[1]
    epochs = range(len(course))
    aligned.plot(epochs, [numbers["learned"] for numbers in course], color=plot.AFTER, label="learned from")
    aligned.plot(epochs, [numbers["held out"] for numbers in course], "--", color=plot.AFTER, label="held out")
    aligned.plot(epochs, subject.accuracy, ":", color=plot.BEFORE, label="accuracy, held out")
    aligned.set(title="Alignment with the labels", xlabel="epoch", ylim=(0, 1.02))
    aligned.legend()
    ranks.plot(epochs, [numbers["rank"] for numbers in course], color=plot.AFTER)
    ranks.set(title="Effective rank", xlabel="epoch", ylim=(0, None))
    for epoch, color in shown.items():
        spectrum = ntk.spectrum(ntk.center(kernels[epoch][0]))
        modes.loglog(range(1, len(spectrum)), (spectrum / spectrum.sum())[:-1], color=color, label=f"epoch {epoch}")
    modes.set(title="Spectrum", xlabel="mode", ylabel="share of the trace", ylim=(1e-5, 1))
    modes.legend()
    return figure
