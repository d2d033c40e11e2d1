"""Tangent kernels of four networks, and their top eigenpairs, against torch.func, nngeometry and the layerwise trick in plain torch."""

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


def case(n: int, form: Form, *, rounds: int, peers: tuple[str, ...], long: bool = False) -> Case:
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
        long=long,
    )


def gram_case(
    n: int, t: int, d: int, route: Literal["auto", "hadamard"], *, peers: tuple[str, ...], rounds: int
) -> Case:
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
    runs = {
        "materialised": ("materialised: rows @ rows.mT", materialised),
        "grams": ("(a @ a.mT) * (g @ g.mT), summed", grams),
    }
    return Case(
        op="ntk.linear_gram",
        name=f"n={n} t={t} {d}x{d} trace {route}",
        dtype="float32",
        setup=setup,
        ours=lambda inputs: ntk.linear_gram(*inputs, reduce="trace", route=route),
        flops=hadamard if route == "hadamard" else min(hadamard, materialise),
        bytes=4.0 * (2 * n * t * d + n * n),
        error=gram_error,
        peers=[
            Peer(name="torch", version=partial(version, "torch"), call=call, run=run)
            for call, run in (runs[peer] for peer in peers)
        ],
        rounds=rounds,
        memory=True,
    )


# ---- Networks that users have ----


class Block(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-18."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False), nn.BatchNorm2d(d_out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False), nn.BatchNorm2d(d_out))
        self.short = nn.Sequential()
        if d_in != d_out:
            self.short = nn.Sequential(nn.Conv2d(d_in, d_out, 1, stride, bias=False), nn.BatchNorm2d(d_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.short(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 with the small stem for 32 x 32 images: 11 million parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for d_in, d_out in pairwise((64, 64, 128, 256, 512)):
        layers += [Block(d_in, d_out, 1 if d_in == d_out else 2), Block(d_out, d_out, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)).eval()


def convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    for d_in, d_out, stride in ((1, 32, 1), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(d_in, d_out, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class EncoderLayer(nn.Module):
    """Self-attention and a feedforward network, each behind a norm."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class MeanToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def transformer() -> nn.Sequential:
    return nn.Sequential(*(EncoderLayer(128, 4) for _ in range(4)), MeanToken(), nn.Linear(128, 10))


class Network(NamedTuple):
    """How to make a network and one of its samples."""

    make: Callable[[], nn.Sequential]
    sample: tuple[int, ...]


NETWORKS = {
    "cnn 32-64-64": Network(convolutions, (1, 28, 28)),
    "transformer d=128 x 4, T=64": Network(transformer, (64, 128)),
    "ResNet-18": Network(resnet18, (3, 32, 32)),
}


def network_inputs(name: str, n: int, seed: int) -> Inputs:
    torch.manual_seed(seed)
    return Inputs(NETWORKS[name].make(), torch.randn(n, *NETWORKS[name].sample))


def sample_gradients(module: nn.Module, a: Tensor, g: Tensor) -> list[Tensor]:
    """Gradients of each parameter of a layer, ``[n, p]`` a sample, from its input and the gradient of its output."""
    if isinstance(module, nn.Linear):
        a, g = (a[:, None], g[:, None]) if a.ndim == 2 else (a, g)
        weight, bias = g.mT @ a, g.sum(1)
    elif isinstance(module, nn.Conv2d):
        patches = nn.functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
        weight, bias = g.flatten(2) @ patches.mT, g.flatten(2).sum(2)
    elif isinstance(module, nn.LayerNorm):
        weight, bias = (g * nn.functional.layer_norm(a, module.normalized_shape, eps=module.eps)).sum(1), g.sum(1)
    else:
        assert isinstance(module, nn.BatchNorm2d)
        unit = nn.functional.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)
        weight, bias = (g * unit).sum((2, 3)), g.sum((2, 3))
    return [weight.flatten(1)] if module.bias is None else [weight.flatten(1), bias]


def materialised(inputs: Inputs, form: Form) -> Tensor:
    """Each layer's gradients of each sample from hooks, and their products: the layerwise trick for any layer."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    layers = [m for m in inputs.model.modules() if next(m.parameters(recurse=False), None) is not None]
    hooks = [m.register_forward_hook(lambda m, given, out: seen.append((m, given[0].detach(), out))) for m in layers]
    h = inputs.model(inputs.x)
    for hook in hooks:
        hook.remove()
    n, c = h.shape
    outputs = [out for _, _, out in seen]
    by_class = [torch.autograd.grad(h[:, k].sum(), outputs, retain_graph=k < c - 1) for k in range(c)]
    kernel = h.new_zeros((n, n) if form == "trace" else (c * n, c * n))
    for place, (module, a, _) in enumerate(seen):
        parts = [sample_gradients(module, a, gradients[place]) for gradients in by_class]
        if form == "trace":
            for rows in (rows for part in parts for rows in part):
                kernel.addmm_(rows, rows.mT)
        else:
            for rows in map(torch.cat, zip(*parts, strict=True)):
                kernel.addmm_(rows, rows.mT)
    return kernel if form == "trace" else kernel.view(c, n, c, n).permute(1, 3, 0, 2)


def network_error(result: Tensor, inputs: Inputs, form: Form) -> float:
    corner = Inputs(inputs.model.double(), inputs.x[:8].double())
    wide = materialised(corner, form)
    inputs.model.float()
    return float((result[:8, :8] - wide).abs().max() / wide.abs().max())


def network_flops(name: str, n: int, form: Form) -> float:
    """The forward pass, c backward passes, and the cheaper route of each layer's Gram."""
    total = 0.0
    with torch.no_grad():
        network = network_inputs(name, 1, 0)

        def add(module: nn.Module, given: Any, out: Tensor) -> None:
            nonlocal total
            if isinstance(module, nn.Linear):
                positions, d_in, d_out = given[0].numel() // module.in_features, module.in_features, module.out_features
            elif isinstance(module, nn.Conv2d):
                positions, d_in, d_out = out[0, 0].numel(), module.weight[0].numel(), module.out_channels
            else:
                return
            total += 2.0 * n * positions * d_in * d_out * (1 + 10)
            cost = ntk.layer_cost(n, n, outputs=10, positions=positions, d_in=d_in, d_out=d_out, trace=form == "trace")
            total += min(cost.hadamard, cost.materialise)

        for module in network.model.modules():
            module.register_forward_hook(add)
        network.model(network.x)
    return total


def network_case(name: str, n: int, form: Form, *, peers: tuple[str, ...], long: bool = False) -> Case:
    runs: dict[str, tuple[str, str, Callable[[Inputs, Form], Tensor]]] = {
        "torch": ("torch", "hooks, gradients of each sample and layer, rows @ rows.mT", materialised),
        "nngeometry": ("nngeometry", "GramMatrix(model, loader).to_torch()", nngeometry_gram),
        "torch.func": ("torch", "vmap(jacrev), einsum: jacobian contraction", jacobian_contraction),
    }

    def peer(which: str) -> Peer:
        package, call, run = runs[which]
        return Peer(name=which, version=partial(version, package), call=call, run=lambda inputs: run(inputs, form))

    return Case(
        op="ntk.empirical_ntk",
        name=f"{name} {form} n={n}",
        dtype="float32",
        setup=partial(network_inputs, name, n),
        ours=lambda inputs: ntk.empirical_ntk(inputs.model, inputs.x, outputs=form),
        flops=network_flops(name, n, form),
        bytes=4.0 * n * n * (100 if form == "full" else 1),
        error=lambda result, inputs: network_error(result, inputs, form),
        peers=[peer(which) for which in peers],
        rounds=2,
        memory=not long,
        long=long,
    )


# ---- Without the kernel ----


def top_case(n: int, k: int, *, long: bool = False) -> Case:
    """Top eigenpairs of a kernel of 10 n rows, which is never stored; as a peer, a product in torch.func's NTK-vector form."""
    model_inputs = partial(perceptron, n)
    products = k + 2

    def ours(inputs: Inputs) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return ntk.ntk_top(inputs.model, inputs.x, k, max_iter=products, generator=generator).values

    def by_torch(inputs: Inputs) -> Tensor:
        """As many products as ours makes, of all samples at once."""
        weights = {name: p.detach() for name, p in inputs.model.named_parameters()}

        def outputs(w: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(inputs.model, w, (inputs.x,))

        v = torch.randn(n, WIDTHS[-1])
        for _ in range(products):
            gradient = torch.func.vjp(outputs, weights)[1](v)[0]
            v = torch.func.jvp(outputs, (weights,), (gradient,))[1]
            v = v / v.norm()
        return v

    multiplications = float(sum(d_in * d_out for d_in, d_out in pairwise(WIDTHS)))
    return Case(
        op="ntk.ntk_top",
        name=f"mlp {'-'.join(map(str, WIDTHS))} n={n} k={k}, {products} products",
        dtype="float32",
        setup=model_inputs,
        ours=ours,
        flops=products * 2.0 * n * multiplications * 6,  # forward and two for the backward pass, forward with tangents
        bytes=4.0 * products * n * WIDTHS[0],
        error="residuals are in the result; tests compare with the kernel",
        peers=[
            Peer(name="torch.func", version=partial(version, "torch"), call="jvp of vjp, products only", run=by_torch)
        ],
        rounds=2,
        memory=True,
        long=long,
    )


# About five minutes at one thread, the long cases last. The first case of an op is also its null, so it is a short one; what a peer
# takes a minute or more for is measured at smaller sizes.
CASES = [
    case(8, "full", rounds=10, peers=("torch", "nngeometry", "torch.func")),
    case(32, "full", rounds=2, peers=("torch", "nngeometry", "torch.func")),
    case(256, "trace", rounds=4, peers=("torch",)),
    case(256, "full", rounds=4, peers=("torch", "nngeometry")),
    case(1024, "trace", rounds=4, peers=("torch",)),
    network_case("cnn 32-64-64", 8, "full", peers=("torch", "nngeometry", "torch.func")),
    network_case("transformer d=128 x 4, T=64", 4, "full", peers=("torch", "torch.func")),
    network_case("ResNet-18", 4, "trace", peers=("torch",), long=True),
    gram_case(256, 64, 128, "auto", peers=("materialised",), rounds=10),
    gram_case(64, 16, 512, "auto", peers=("materialised",), rounds=10),
    gram_case(256, 8, 256, "hadamard", peers=("materialised", "grams"), rounds=4),
    top_case(1000, 1),
    top_case(10_000, 1, long=True),
    case(1024, "full", rounds=2, peers=("torch", "nngeometry"), long=True),
    network_case("cnn 32-64-64", 256, "full", peers=("torch",), long=True),
    network_case("transformer d=128 x 4, T=64", 128, "trace", peers=("torch",), long=True),
    network_case("ResNet-18", 32, "trace", peers=("torch",), long=True),
    case(8192, "trace", rounds=2, peers=(), long=True),
    case(2048, "full", rounds=2, peers=("torch",), long=True),
]
