"""Tangent kernels of a multilayer perceptron, against torch.func, nngeometry and the layerwise trick in plain torch."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.case import Case, Peer
from gramian import ntk

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS = (784, 512, 512, 10)
Form = Literal["full", "trace"]


class Inputs(NamedTuple):
    """A network and its samples."""

    model: nn.Sequential
    x: Tensor


def perceptron(n: int, seed: int) -> Inputs:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(WIDTHS):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return Inputs(nn.Sequential(*layers[:-1]), torch.randn(n, WIDTHS[0]))


def layerwise(inputs: Inputs, form: Form) -> Tensor:
    """Each layer's product of two Grams, as one writes it in torch: batched backward, mm, multiply and add in place."""
    activations, outputs, h = [], [], inputs.x
    for module in inputs.model:
        if isinstance(module, nn.Linear):
            activations.append(h.detach())
        h = module(h)
        if isinstance(module, nn.Linear):
            outputs.append(h)
    n, c = h.shape
    seeds = torch.eye(c)[:, None].expand(c, n, c)
    gradients = torch.autograd.grad(h, outputs, seeds, is_grads_batched=True)
    kernel: Tensor | None = None
    for a, g in zip(activations, gradients, strict=True):
        gram = (a @ a.mT).add_(1)
        if form == "trace":
            rows = g.movedim(0, 1).reshape(n, -1)
            layer = (rows @ rows.mT).mul_(gram)
        else:
            rows = g.reshape(c * n, -1)
            layer = (rows @ rows.mT).view(c, n, c, n).mul_(gram[:, None])
        kernel = layer if kernel is None else kernel.add_(layer)
    assert kernel is not None
    return kernel if form == "trace" else kernel.permute(1, 3, 0, 2)


def nngeometry_gram(inputs: Inputs, form: Form) -> Tensor:
    from nngeometry.gram import GramMatrix
    from torch.utils.data import DataLoader, TensorDataset

    n = len(inputs.x)
    data = TensorDataset(inputs.x, torch.zeros(n, dtype=torch.int64))
    gram = GramMatrix(inputs.model, DataLoader(data, batch_size=n), function=lambda *batch: inputs.model(batch[0]))
    kernel = gram.to_torch()
    if form == "trace":
        return torch.einsum("cncm->nm", kernel)
    return kernel.permute(1, 3, 0, 2)


def jacobian_contraction(inputs: Inputs, form: Form) -> Tensor:
    """The call of torch's NTK tutorial."""
    parameters = {name: p.detach() for name, p in inputs.model.named_parameters()}

    def one(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(inputs.model, w, (x[None],))[0]

    jacobians = torch.func.vmap(torch.func.jacrev(one), (None, 0))(parameters, inputs.x).values()
    sums = "Naf,Maf->NM" if form == "trace" else "Naf,Mbf->NMab"
    return sum(torch.einsum(sums, j.flatten(2), j.flatten(2)) for j in jacobians)


def error(result: Tensor, inputs: Inputs, form: Form) -> float:
    """Largest error over the largest entry, against float64, on a corner of up to 64 samples."""
    corner = inputs.x[:64]
    wide = layerwise(Inputs(nn.Sequential(*inputs.model).double(), corner.double()), form)
    inputs.model.float()
    return float((result[: len(corner), : len(corner)] - wide).abs().max() / wide.abs().max())


def flops(n: int, form: Form) -> float:
    """Half of the Hadamard route: pairs times (d_in + C² d_out), or (d_in + C d_out) in the trace form."""
    blocks = WIDTHS[-1] if form == "trace" else WIDTHS[-1] ** 2
    gradients = sum(d_in + blocks * d_out for d_in, d_out in pairwise(WIDTHS))
    return n * (n + 1) * float(gradients)


def case(n: int, form: Form, *, rounds: int, peers: tuple[str, ...]) -> Case:
    outputs = WIDTHS[-1] ** 2 if form == "full" else 1
    runs: dict[str, tuple[str, str, Callable[[Inputs, Form], Tensor]]] = {
        "torch": ("torch", "layerwise: batched backward, g @ g.mT * (a @ a.mT + 1)", layerwise),
        "nngeometry": ("nngeometry", "GramMatrix(model, loader).to_torch()", nngeometry_gram),
        "torch.func": ("torch", "vmap(jacrev), einsum: jacobian contraction", jacobian_contraction),
    }

    def peer(name: str) -> Peer:
        package, call, run = runs[name]
        return Peer(name=name, version=partial(version, package), call=call, run=lambda inputs: run(inputs, form))

    def ours(inputs: Any) -> Tensor:
        return ntk.empirical_ntk(inputs.model, inputs.x, outputs=form)

    return Case(
        op="ntk.empirical_ntk",
        name=f"mlp {'-'.join(map(str, WIDTHS))} {form} n={n}",
        dtype="float32",
        setup=partial(perceptron, n),
        ours=ours,
        flops=flops(n, form),
        bytes=4.0 * (n * n * outputs + n * WIDTHS[0]),
        error=lambda result, inputs: error(result, inputs, form),
        peers=[peer(name) for name in peers],
        rounds=rounds,
        memory=True,
    )


def gram_case(n: int, t: int, d: int, route: Literal["auto", "hadamard"], *, rounds: int) -> Case:
    """One layer over positions, where forming the gradients wins over products of Grams."""

    def setup(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, t, d, generator=generator), torch.randn(n, 1, t, d, generator=generator)

    def materialised(inputs: tuple[Tensor, Tensor]) -> Tensor:
        a, g = inputs
        rows = (g[:, 0].mT @ a).flatten(1)
        return rows @ rows.mT

    def grams(inputs: tuple[Tensor, Tensor]) -> Tensor:
        a, g = (x.reshape(n * t, d) for x in inputs)
        return ((a @ a.mT) * (g @ g.mT)).view(n, t, n, t).sum((1, 3))

    def gram_error(result: Tensor, inputs: tuple[Tensor, Tensor]) -> float:
        wide = materialised((inputs[0].double(), inputs[1].double()))
        return float((result.reshape(n, n) - wide).abs().max() / wide.abs().max())

    hadamard = n * (n + 1) * t * t * 2.0 * d
    materialise = 2.0 * n * t * d * d + n * (n + 1) * float(d * d)
    runs = {"materialised: rows @ rows.mT": materialised, "(a @ a.mT) * (g @ g.mT), summed": grams}
    return Case(
        op="ntk.linear_gram",
        name=f"n={n} t={t} {d}x{d} trace {route}",
        dtype="float32",
        setup=setup,
        ours=lambda inputs: ntk.linear_gram(*inputs, reduce="trace", route=route),
        flops=hadamard if route == "hadamard" else min(hadamard, materialise),
        bytes=4.0 * (2 * n * t * d + n * n),
        error=gram_error,
        peers=[Peer(name="torch", version=partial(version, "torch"), call=call, run=run) for call, run in runs.items()],
        rounds=rounds,
        memory=True,
    )


CASES = [
    case(256, "trace", rounds=10, peers=("torch", "nngeometry")),
    case(256, "full", rounds=10, peers=("torch", "nngeometry")),
    case(8, "full", rounds=10, peers=("torch", "nngeometry", "torch.func")),
    case(101, "full", rounds=2, peers=("torch", "nngeometry", "torch.func")),
    case(1024, "trace", rounds=6, peers=("torch", "nngeometry")),
    case(1024, "full", rounds=4, peers=("torch", "nngeometry")),
    gram_case(256, 64, 128, "auto", rounds=10),
    gram_case(256, 8, 256, "hadamard", rounds=10),
    gram_case(97, 4, 1024, "auto", rounds=10),
    case(256, "trace", rounds=2, peers=("torch.func",)),  # minutes
    case(256, "full", rounds=2, peers=("torch.func",)),
]
