"""State sums: recoupling symbols and weights of 4-simplices. They know nothing of the network."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian import simplex
from gramian.tour import plot
from gramian.tour.report import Section, progress, versus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gramian.tour.measure import Measure
    from gramian.tour.subject import Subject

_PAIRS = list(itertools.combinations(range(5), 2))
_SPHERE = [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]]
_POINTS = [(2, -6, 8, -7), (9, -8, -3, 6), (8, 4, 1, 5), (9, 5, 2, 0), (-2, -4, -2, -7), (9, 0, 7, 6)]


def section(subject: Subject, measure: Measure) -> Section:
    """Check the identities that the weights must satisfy, and set gradients of weights beside torch.linalg."""
    sphere = simplex.edges_of(torch.tensor(_SPHERE))
    checks = progress(["6j", "invariant", "Pachner"], "identities", "check")
    rows = []
    for check in checks:
        if check == "6j":
            rows += [
                ("orthogonality of the 6j symbols of four spins 50", simplex.check_orthogonality(100, 100, 100, 100)),
                (
                    "Biedenharn and Elliott's identity, nine spins 10 to 12",
                    simplex.check_biedenharn_elliott(20, 22, 24, 20, 22, 24, 20, 22, 24),
                ),
            ]
        elif check == "invariant":
            found, r = simplex.turaev_viro(sphere, 5, r=6), 6
            exact = 2 / r * float(torch.sin(torch.tensor(torch.pi / r, dtype=torch.float64))) ** 2
            rows.append((f"Turaev and Viro's invariant of the 3-sphere at r = {r}", abs(found - exact)))
        else:
            residual = simplex.check_pachner(_POINTS)
            rows.append((f"the {residual.move} Pachner identity of six points of R⁴, exactly", float(residual.finite)))

    count = 1000 if subject.quick else 20000
    lengths, labels = simplices(count)
    side = versus(f"weights of {count} simplices, both gradients", measure, weights, plain_weights, lengths, labels)
    return Section(
        title="State sums",
        about="A 4-simplex with edge lengths and labels of its triangles has a weight, a categorified 6j symbol (arXiv:1409.3526). "
        "What proves weights and symbols right are the identities that make state sums independent of the triangulation.",
        header=("identity", "residual"),
        rows=[(name, f"{residual:.1e}" if residual else "0") for name, residual in rows],
        finding=f"All hold to {max(residual for _, residual in rows):.0e}.",
        versus=[side],
        figure=_figure(),
        caption="6j symbols against a spin, and Ponzano and Regge's limit",
    )


def simplices(count: int) -> tuple[Tensor, Tensor]:
    """Edge lengths [n, 10] of random points, and labels."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 5, 4, generator=generator, dtype=torch.float64)
    lengths = torch.stack([(points[:, i] - points[:, j]).norm(dim=1) for i, j in _PAIRS], 1)
    return lengths, torch.rand(count, 10, generator=generator, dtype=torch.float64)


def weights(lengths: Tensor, labels: Tensor) -> Tensor:
    """Actions, and the gradients of their sum by lengths and labels, [n, 21]."""
    lengths, labels = lengths.requires_grad_(), labels.requires_grad_()
    action = simplex.weight4(lengths, labels).action
    return torch.cat([action.detach()[:, None], *torch.autograd.grad(action.sum(), (lengths, labels))], 1)


def plain_weights(lengths: Tensor, labels: Tensor) -> Tensor:
    """The same by the inverse of each Gram matrix."""
    lengths, labels = lengths.requires_grad_(), labels.requires_grad_()
    apart = torch.zeros(len(lengths), 5, 5, dtype=torch.float64)
    i, j = torch.tensor(_PAIRS).T
    apart = apart.index_put((torch.arange(len(lengths))[:, None], i, j), lengths.square())
    apart = apart + apart.mT
    gram = (apart[:, 1:, :1] + apart[:, :1, 1:] - apart[:, 1:, 1:]) / 2
    inverse = torch.linalg.inv(gram)
    first = -inverse.sum(2, keepdim=True)
    whole = torch.cat([torch.cat([-first.sum(1, keepdim=True), first.mT], 2), torch.cat([first, inverse], 2)], 1)
    size = whole.diagonal(dim1=1, dim2=2).sqrt()
    action = (labels * torch.acos(-whole[:, i, j] / (size[:, i] * size[:, j]))).sum(1)
    return torch.cat([action.detach()[:, None], *torch.autograd.grad(action.sum(), (lengths, labels))], 1)


def _figure() -> Figure:
    figure = plot.figure(8, 3.2)
    axis = figure.subplots()
    spin = 30
    family = simplex.sixj_family(2 * spin, 2 * spin, 2 * spin, 2 * spin, 2 * spin)
    values = family.values.flatten()
    first = int(family.first.flatten()[0])
    doubled = first + 2 * torch.arange(len(values))
    axis.plot(doubled / 2, values, ".", color=plot.AFTER, markersize=4, label="6j symbol")
    limit = simplex.ponzano_regge_asymptotics(doubled, *[torch.full_like(doubled, 2 * spin)] * 5)
    axis.plot(doubled / 2, limit, color=plot.BEFORE, linewidth=1, label="Ponzano and Regge's limit")
    axis.set(title=f"{{j, {spin}, {spin}; {spin}, {spin}, {spin}}}", xlabel="j")
    height = 1.3 * float(values.abs().max())
    axis.set_ylim(-height, height)
    axis.legend()
    return figure
