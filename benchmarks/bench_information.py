"""Critics of all pairs, InfoNCE of large batches and nearest-neighbour estimates, against plain torch and the estimators' packages."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.case import Case, Peer
from gramian import information

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 8  # rows at a time of the chunked torch forms: 8 x 512 x 256 activations are 4 MB
_D = 20


def _torch_version() -> str:
    return torch.__version__


def _critic(n: int, h: int, *, grad: bool) -> Callable[[int], list[Tensor]]:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n, _D), (n, _D), (_D, h), (_D, h), (h,), (h, h), (h,), (h,), ()]
        scales = [1, 1, _D**-0.5, _D**-0.5, 1, h**-0.5, 1, h**-0.5, 1]
        return [
            (torch.randn(shape, generator=generator) * scale).requires_grad_(grad)
            for shape, scale in zip(shapes, scales, strict=True)
        ]

    return setup


def _rest(a: Tensor, b: Tensor, w2: Tensor, b2: Tensor, w3: Tensor) -> Tensor:
    return ((a[:, None] + b).relu() @ w2 + b2).relu() @ w3


def _whole(inputs: list[Tensor]) -> Tensor:
    x, y, w_x, w_y, b1, w2, b2, w3, b3 = inputs
    return _rest(x @ w_x, y @ w_y + b1, w2, b2, w3) + b3


def _chunked(inputs: list[Tensor]) -> Tensor:
    x, y, w_x, w_y, b1, w2, b2, w3, b3 = inputs
    b = y @ w_y + b1
    return torch.cat([_rest(a, b, w2, b2, w3) for a in (x @ w_x).split(_CHUNK)]) + b3


def _checkpointed(inputs: list[Tensor]) -> Tensor:
    x, y, w_x, w_y, b1, w2, b2, w3, b3 = inputs
    b = y @ w_y + b1
    rows = [checkpoint(_rest, a, b, w2, b2, w3, use_reentrant=False) for a in (x @ w_x).split(_CHUNK)]
    return torch.cat(rows) + b3


def _ours(inputs: list[Tensor]) -> Tensor:
    return information.pairwise_scores(*inputs)


def _step(scores: Callable[[list[Tensor]], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    """Gradient of the Donsker-Varadhan bound by all weights, as one vector."""

    def run(inputs: list[Tensor]) -> Tensor:
        value = information.bound(scores(inputs), "dv")
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, inputs)])

    return run


def _distance(result: Tensor, expected: Tensor) -> float:
    return float((result.double() - expected).norm() / expected.norm())


def _wide(inputs: list[Tensor]) -> list[Tensor]:
    return [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]


def _without_grad(function: Callable[[list[Tensor]], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    def run(inputs: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return function(inputs)

    return run


def _forward(n: int, h: int, rounds: int = 6) -> Case:
    sides = {"all at once": _whole, f"{_CHUNK} rows at a time": _chunked}
    return Case(
        op="information.pairwise_scores",
        name=f"forward n={n} h={h}",
        dtype="float32",
        setup=_critic(n, h, grad=False),
        ours=_without_grad(_ours),
        peers=[
            Peer(name="torch", version=_torch_version, call=f"first layer split, {call}", run=_without_grad(run))
            for call, run in sides.items()
        ],
        flops=2.0 * n * n * h * h,
        bytes=4.0 * n * n,
        error=lambda result, inputs: _distance(result, _without_grad(_chunked)(_wide(inputs))),
        rounds=rounds,
    )


def _training(n: int, h: int, rounds: int = 4, *, peers: bool = True) -> Case:
    sides = {"all at once": _whole, f"checkpoint, {_CHUNK} rows at a time": _checkpointed}
    return Case(
        op="information.pairwise_scores",
        name=f"forward and backward n={n} h={h}",
        dtype="float32",
        setup=_critic(n, h, grad=True),
        ours=_step(_ours),
        peers=[
            Peer(name="torch", version=_torch_version, call=f"first layer split, {call}", run=_step(run))
            for call, run in sides.items()
        ]
        if peers
        else [],
        flops=6.0 * n * n * h * h,
        bytes=4.0 * n * n,
        error=(lambda result, inputs: _distance(result, _step(_checkpointed)(_wide(inputs))))
        if peers
        else "the float64 reference would take minutes; the smaller case has it",
        rounds=rounds,
        memory=True,
    )


def _embeddings(n: int, d: int) -> Callable[[int], list[Tensor]]:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        f = torch.randn(n, d, generator=generator)
        g = f + torch.randn(n, d, generator=generator)
        return [torch.nn.functional.normalize(t, dim=1).mul_(10).requires_grad_() for t in (f, g)]

    return setup


def _plain_infonce(inputs: list[Tensor]) -> Tensor:
    scores = inputs[0] @ inputs[1].mT
    return (scores.diagonal() - scores.logsumexp(1)).mean() + math.log(len(scores))


def _gradient(value: Callable[[list[Tensor]], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    return lambda inputs: torch.cat(torch.autograd.grad(value(inputs), inputs))


def _infonce(n: int, d: int, rounds: int = 2) -> Case:
    return Case(
        op="information.infonce_separable",
        name=f"forward and backward n={n} d={d}",
        dtype="float32",
        setup=_embeddings(n, d),
        ours=_gradient(lambda inputs: information.infonce_separable(*inputs)),
        peers=[Peer(name="torch", version=_torch_version, call="f @ g.mT, logsumexp", run=_gradient(_plain_infonce))],
        flops=6.0 * n * n * d,
        bytes=16.0 * n * d,
        error=(lambda result, inputs: _distance(result, _gradient(_plain_infonce)(_wide(inputs))))
        if n <= 4096
        else "the float64 reference would need 8 GB; the smaller case has it",
        rounds=rounds,
        memory=True,
    )


def _npeet(pair: list[Tensor]) -> float:
    import npeet_plus

    return float(npeet_plus.mi(pair[0].numpy(), pair[1].numpy(), k=3, base=math.e))


def _sklearn(pair: list[Tensor]) -> float:
    from sklearn.feature_selection import mutual_info_regression

    return float(mutual_info_regression(pair[0].numpy(), pair[1].numpy()[:, 0], n_neighbors=3, random_state=0)[0])


def _ksg(n: int, d: int, rounds: int = 4) -> Case:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        return [x, 0.6 * x + 0.8 * torch.randn(n, d, generator=generator, dtype=torch.float64)]

    def expected(pair: list[Tensor]) -> float:
        apart = [torch.cdist(t, t, p=math.inf).fill_diagonal_(math.inf) for t in pair]
        radius = torch.maximum(*apart).topk(3, largest=False).values[:, -1:]
        terms = sum(((side < radius).sum(1).double() + 1).digamma().mean() for side in apart)
        digamma = [torch.tensor(float(number), dtype=torch.float64).digamma() for number in (3, n)]
        return float(sum(digamma) - terms)

    peers = [Peer(name="npeet_plus", version=lambda: version("npeet_plus"), call="mi(x, y, k=3, base=e)", run=_npeet)]
    if d == 1:
        call = "mutual_info_regression(x, y, n_neighbors=3)"
        peers.append(Peer(name="scikit-learn", version=lambda: version("scikit-learn"), call=call, run=_sklearn))

    def error(result: Any, pair: list[Tensor]) -> float:
        return abs(float(result) - expected(pair))

    return Case(
        op="information.ksg",
        name=f"n={n} d={d}+{d}",
        dtype="float64",
        setup=setup,
        ours=lambda pair: information.ksg(*pair),
        peers=peers,
        flops=float(n) * n * 2 * d,
        bytes=16.0 * n * d,
        error=error,
        rounds=rounds,
    )


CASES = [
    _forward(512, 256),
    _forward(61, 33),
    _training(512, 256),
    _training(2048, 256, 2, peers=False),
    _infonce(4096, 256),
    _infonce(16384, 256),
    _infonce(300, 64, 10),
    _ksg(10_000, 1),
    _ksg(10_000, 2),
    _ksg(10_000, 5),
    _ksg(10_000, 20, 2),
]
