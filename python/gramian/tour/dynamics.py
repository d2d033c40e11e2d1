"""Learning dynamics: who is learned first, lazily and hastily."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from gramian import dynamics, ntk
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_HASTY, _LAZY = 0.3, 100.0
_RATE, _MOMENTUM = 0.05, 0.9
_WRONG = 0.2
_LEVELS = torch.linspace(0.3, 0.9, 25, dtype=torch.float64)
_SHOWN = (0.4, 0.5, 0.6, 0.7)


def section(subject: Subject, measure: Measure) -> Section:
    """Fork the untrained network into a hasty and a lazy run on labels of which some are wrong."""
    count, steps, course = (100, 40, 20) if subject.quick else (400, 500, 100)
    images, labels, wrong = noisy(subject, count)
    groups = {"clean": ~wrong, "wrong": wrong}
    start = subject.snapshots[0]
    forks = {"hasty": _HASTY, "lazy": _LAZY}

    curves, kept = {}, {}
    for name, alpha in progress(list(forks.items()), "forks", "run"):
        network = copy.deepcopy(start)
        curves[name] = train(network, alpha, images, labels, groups, steps)
        kernels = [ntk.empirical_ntk(model, images[:100], outputs="trace") for model in (start, network)]
        kept[name] = float(ntk.alignment(*kernels))

    few = images[: min(count, 64)]
    targets = nn.functional.one_hot(labels[: len(few)], 10).float()
    sides = [
        versus(f"{course} steps of the linear model", measure, closed_form, step_by_step, start, few, targets, course)
    ]
    reached = torch.stack([*curves.values()]).isfinite().all(2).all(0)
    lead = {name: float((curve[:, 0] - curve[:, 1])[reached].mean()) for name, curve in curves.items()}
    rows = [
        (f"where {level:.0%} of all are fitted", *(f"{share:.0%}" for name in forks for share in curves[name][place]))
        for level in _SHOWN
        for place in [int((_LEVELS - level).abs().argmin())]
        if reached[place]
    ]
    return Section(
        title="Lazy and hasty learning",
        about=f"The untrained network forks into two runs on {count} images, {_WRONG:.0%} of them with wrong labels: outputs "
        f"scaled by {_HASTY:g} (hasty: it learns features) and by {_LAZY:g} (lazy: it stays a linear model). Compared where "
        "both fit the training images equally well (arXiv:2209.09658).",
        header=("accuracy on labels that are", *(f"{name}: {group}" for name in forks for group in groups)),
        rows=[
            *rows,
            ("alignment of the kernel with its start", *(text for name in forks for text in (f"{kept[name]:.3f}", ""))),
        ],
        finding=f"On average the clean labels are {lead['hasty']:.2f} ahead of the wrong ones in the hasty run, {lead['lazy']:.2f} "
        f"in the lazy one, whose kernel stays what it was (alignment {kept['lazy']:.3f} with the start; hasty {kept['hasty']:.3f}).",
        versus=sides,
        figure=_figure(curves),
        caption="accuracy on clean and wrong labels against the accuracy on all",
    )


def noisy(subject: Subject, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels of which a share is wrong, and which those are."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(count, generator=generator) < _WRONG
    labels = subject.labels[:count]
    others = (labels + torch.randint(1, 10, (count,), generator=generator)) % 10
    return subject.images[:count], torch.where(wrong, others, labels), wrong


def train(
    network: nn.Module, alpha: float, images: Tensor, labels: Tensor, groups: dict[str, Tensor], steps: int
) -> Tensor:
    """Train with full batches; return the groups' accuracies [levels, 2] where all images first reach each level."""
    scaled = dynamics.scale_output(network, alpha, keep_start=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=_RATE / alpha**2, momentum=_MOMENTUM)
    course = dynamics.GroupProgress(groups)
    for _ in range(steps):
        logits = scaled(images)
        course.record(logits.detach(), labels)
        if course.curves()[0][-1] > _LEVELS[-1] + 0.02:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return course.at(_LEVELS)


def rate(network: nn.Module, images: Tensor) -> float:
    """Step at which gradient descent of the linear model is stable: one over a bound of the largest eigenvalue."""
    return 1 / float(ntk.empirical_ntk(network, images, outputs="trace").trace())


def closed_form(network: nn.Module, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    """Outputs of the linearised network after gradient descent on half the squared error, from its tangent kernel."""
    kernel = ntk.empirical_ntk(network, images)
    with torch.no_grad():
        outputs: Tensor = network(images)
    times = torch.tensor([float(steps)])
    return dynamics.flow(kernel, targets, outputs, times, rate=rate(network, images), discrete=True)[0]


def step_by_step(network: nn.Module, images: Tensor, targets: Tensor, steps: int) -> Tensor:
    """The same outputs by running the descent, as one writes it with torch.func."""
    start = {name: parameter.detach() for name, parameter in network.named_parameters()}
    change = {name: torch.zeros_like(parameter) for name, parameter in start.items()}
    step = rate(network, images)

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(network, weights, (images,))
        return found

    def loss(change: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        value, tangent, *_ = jvp(outputs, (start,), (change,))
        return (value + tangent - targets).square().sum() / 2, value + tangent

    descend = torch.func.grad(loss, has_aux=True)
    for _ in range(steps):
        slope, _ = descend(change)
        change = {name: c - step * slope[name] for name, c in change.items()}
    return loss(change)[1].detach()


def _figure(curves: dict[str, Tensor]) -> Figure:
    figure = plot.figure(5, 3.4)
    axis = figure.subplots()
    for (name, curve), color in zip(curves.items(), (plot.AFTER, plot.BEFORE), strict=True):
        axis.plot(_LEVELS, curve[:, 0], color=color, label=f"{name}, clean labels")
        axis.plot(_LEVELS, curve[:, 1], "--", color=color, label=f"{name}, wrong labels")
    axis.set(
        title="Who is learned first",
        xlabel="accuracy on all training images",
        ylabel="accuracy of the group",
        ylim=(0, 1.02),
    )
    axis.legend()
    return figure
