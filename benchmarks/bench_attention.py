"""Products with the Jacobian of attention layers and their spectral norm, against torch.func built once and explicit formulas."""

from __future__ import annotations

from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.case import Case, Peer
from gramian import attention

if TYPE_CHECKING:
    from collections.abc import Callable

_WIDTH, _HEADS = 512, 8


class Inputs(NamedTuple):
    """A layer's tokens and weights (y = x W), a direction, and what peers build once."""

    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    direction: Tensor
    built: dict[str, Any]


def _split(y: Tensor) -> Tensor:
    return y.unflatten(-1, (_HEADS, -1)).transpose(-3, -2)


def _joined(y: Tensor) -> Tensor:
    return y.transpose(-3, -2).flatten(-2)


def _layer(weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
    wq, wk, wv, wo = weights
    return _joined(scaled_dot_product_attention(_split(x @ wq), _split(x @ wk), _split(x @ wv))) @ wo


def _setup(n: int, build: bool, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, _WIDTH, generator=generator)
    weights = tuple(torch.randn(_WIDTH, _WIDTH, generator=generator) / _WIDTH**0.5 for _ in range(4))
    direction = torch.randn(n, _WIDTH, generator=generator)
    inputs = Inputs(x, weights, direction / direction.norm(), {})
    prepared = attention.linearize(*(_split(x @ w)[None] for w in weights[:3]))
    inputs.built["ours"] = prepared, torch.cat(weights[:3], 1), weights[3] @ weights[3].mT
    if build:
        with sdpa_kernel(SDPBackend.MATH):
            inputs.built["linearize"] = torch.func.linearize(partial(_layer, weights), x)[1]
            inputs.built["vjp"] = torch.func.vjp(partial(_layer, weights), x)[1]
    return inputs


def _parts(inputs: Inputs) -> tuple[Tensor, ...]:
    """Queries, keys, values, probabilities and outputs by head, made once."""
    if "parts" not in inputs.built:
        q, k, v = (_split(inputs.x @ w) for w in inputs.weights[:3])
        p = (q @ k.mT).div_(q.shape[-1] ** 0.5).softmax(-1)
        inputs.built["parts"] = (q, k, v, p, p @ v)
    found: tuple[Tensor, ...] = inputs.built["parts"]
    return found


def _ours(inputs: Inputs) -> Tensor:
    """One product with JᵀJ, as an iteration does it."""
    prepared, w_in, mix = inputs.built["ours"]
    directions = (_split(part)[None] for part in (inputs.direction @ w_in).chunk(3, 1))
    parts = prepared.jtj(*directions, mix=mix)
    return torch.cat([_joined(part[0]) for part in parts], 1) @ w_in.mT


def _built(inputs: Inputs) -> Tensor:
    found: Tensor = inputs.built["vjp"](inputs.built["linearize"](inputs.direction))[0]
    return found


def _explicit(inputs: Inputs) -> Tensor:
    wq, wk, wv, wo = inputs.weights
    q, k, v, p, o = _parts(inputs)
    c = q.shape[-1] ** -0.5
    dq, dk, dv = (_split(inputs.direction @ w) for w in (wq, wk, wv))
    t = (dq @ k.mT + q @ dk.mT).mul_(c).mul_(p)
    moved = t @ v - t.sum(-1, keepdim=True) * o + p @ dv
    g = _split(_joined(moved) @ wo @ wo.mT)
    e = (g @ v.mT).sub_((g * o).sum(-1, keepdim=True)).mul_(p)
    by_q, by_k, by_v = c * (e @ k), c * (e.mT @ q), p.mT @ g
    return _joined(by_q) @ wq.mT + _joined(by_k) @ wk.mT + _joined(by_v) @ wv.mT


def _error(result: Tensor, inputs: Inputs) -> float:
    if "expected" not in inputs.built:
        wide = Inputs(inputs.x.double(), tuple(w.double() for w in inputs.weights), inputs.direction.double(), {})
        inputs.built["expected"] = _explicit(wide)
    expected = inputs.built["expected"]
    return float((result - expected).abs().max() / expected.abs().max())


_PRODUCTS = [
    Peer(name="torch", version=partial(version, "torch"), call="linearize and vjp under MATH, built once", run=_built),
    Peer(
        name="torch",
        version=partial(version, "torch"),
        call="linearize and vjp under MATH, built once",
        run=_built,
        environment="kept",
    ),
    Peer(name="torch", version=partial(version, "torch"), call="explicit formulas, probabilities kept", run=_explicit),
]


def _product_case(n: int, *, rounds: int, peers: list[Peer]) -> Case:
    return Case(
        op="attention.jtj",
        name=f"layer n={n} D=512 H=8",
        dtype="float32",
        setup=partial(_setup, n, _PRODUCTS[0] in peers),
        ours=_ours,
        flops=16.0 * n * n * _WIDTH + 16.0 * n * _WIDTH**2,
        bytes=4.0 * (2 * n * _WIDTH + 4 * _WIDTH**2),
        error=_error if n <= 2048 else "the reference would need 5 GB",
        peers=peers,
        rounds=rounds,
        long=n >= 4096,
    )


class Products(NamedTuple):
    """Queries, keys and values of all heads, directions in each, a gradient, attention prepared at them, and what is expected."""

    heads: tuple[Tensor, Tensor, Tensor]
    directions: tuple[Tensor, Tensor, Tensor]
    g: Tensor
    prepared: attention.Linearized
    along: Any
    back: Any
    expected: dict[str, Tensor]


def _heads(n: int, seed: int) -> Products:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(1, _HEADS, n, _WIDTH // _HEADS, generator=generator) for _ in range(7)]
    heads, directions = (drawn[0], drawn[1], drawn[2]), (drawn[3], drawn[4], drawn[5])
    with sdpa_kernel(SDPBackend.MATH):
        along = torch.func.linearize(scaled_dot_product_attention, *heads)[1]
        back = torch.func.vjp(scaled_dot_product_attention, *heads)[1]
    return Products(heads, directions, drawn[6], attention.linearize(*heads), along, back, {})


def _half_case(op: str, n: int, *, rounds: int) -> Case:
    runs: dict[str, tuple[Callable[[Products], Tensor], Callable[[Products], Tensor], str]] = {
        "jvp": (
            lambda at: at.prepared.jvp(*at.directions),
            lambda at: at.along(*at.directions),
            "linearize, built once",
        ),
        "vjp": (lambda at: torch.cat(at.prepared.vjp(at.g)), lambda at: torch.cat(at.back(at.g)), "vjp, built once"),
    }
    ours, theirs, call = runs[op]

    def error(result: Tensor, at: Products) -> float:
        if op not in at.expected:
            heads, directions = ([x.double() for x in part] for part in (at.heads, at.directions))
            wide = attention.linearize(heads[0], heads[1], heads[2], keep=False)
            at.expected[op] = wide.jvp(*directions) if op == "jvp" else torch.cat(wide.vjp(at.g.double()))
        expected = at.expected[op]
        return float((result - expected).abs().max() / expected.abs().max())

    return Case(
        op=f"attention.{op}",
        name=f"prepared, n={n} H=8 d=64",
        dtype="float32",
        setup=partial(_heads, n),
        ours=ours,
        flops=8.0 * n * n * _WIDTH,
        bytes=4.0 * 7 * n * _WIDTH,
        error=error,
        peers=[Peer(name="torch", version=partial(version, "torch"), call=f"{call} under MATH", run=theirs)],
        rounds=rounds,
    )


def _along(inputs: list[Tensor]) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(scaled_dot_product_attention, tuple(inputs[:3]), tuple(inputs[3:]))[1]


def _long_case(n: int) -> Case:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(1, 1, n, 64, generator=generator) for _ in range(6)]

    return Case(
        op="attention.jvp",
        name=f"once, n={n}, one head of d=64: torch's memory times the heads of a layer",
        dtype="float32",
        setup=setup,
        ours=lambda inputs: attention.jvp(*inputs),
        flops=14.0 * n * n * 64,
        bytes=4.0 * 7 * n * 64,
        error="the reference would need the matrices",
        peers=[Peer(name="torch", version=partial(version, "torch"), call="func.jvp under MATH", run=_along)],
        rounds=2,
        memory=True,
        long=True,
    )


_ACCURACY = 1e-6  # relative, of sigma


class Layer(NamedTuple):
    """A layer's tokens and weights, and the largest singular value of its Jacobian in float64."""

    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    start: Tensor
    sigma: float


@cache
def _sigma_setup(n: int, seed: int) -> Layer:
    x, weights, start, _ = _setup(n, build=False, seed=seed)
    wide = attention.sigma(x.double(), *(w.double() for w in weights), heads=_HEADS, tol=1e-5)
    return Layer(x, weights, start, wide.sigma.item())


def _power(at: Layer) -> float:
    """Power iteration on products built once, up to the first value that is right: a user would not know, and go on."""
    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.linearize(partial(_layer, at.weights), at.x)[1]
        back = torch.func.vjp(partial(_layer, at.weights), at.x)[1]
    u = at.start
    for _ in range(500):
        product = back(forward(u))[0]
        sigma = float((u * product).sum()) ** 0.5
        if abs(sigma - at.sigma) <= _ACCURACY * at.sigma:
            break
        u = product / product.norm()
    return sigma


def _sigma_case(n: int) -> Case:
    return Case(
        op="attention.sigma",
        name=f"layer n={n} D=512 H=8, to 1e-6",
        dtype="float32",
        setup=lambda _: _sigma_setup(n, 0),  # one layer: its power iteration takes minutes
        # Stopped by its residual, as a user's is; one of 5e-4 leaves an error below 1e-6.
        ours=lambda at: attention.sigma(at.x, *at.weights, heads=_HEADS, tol=5e-4).sigma.item(),
        flops=24 * (16.0 * n * n * _WIDTH + 16.0 * n * _WIDTH**2),
        bytes=4.0 * (2 * n * _WIDTH + 4 * _WIDTH**2),
        error=lambda sigma, at: abs(sigma - at.sigma) / at.sigma,
        peers=[
            Peer(
                name="torch",
                version=partial(version, "torch"),
                call="power iteration, linearize and vjp",
                run=_power,
                environment="kept",
            )
        ],
        rounds=2,
        long=True,
    )


CASES = [
    _product_case(512, rounds=20, peers=_PRODUCTS),  # first, so the null of all
    _product_case(128, rounds=20, peers=_PRODUCTS),
    _product_case(1024, rounds=6, peers=_PRODUCTS),
    _product_case(2048, rounds=2, peers=_PRODUCTS[:2]),
    _product_case(4096, rounds=2, peers=_PRODUCTS[2:]),
    *(_half_case(op, n, rounds=rounds) for op in ("jvp", "vjp") for n, rounds in ((512, 20), (128, 20), (2048, 2))),
    _sigma_case(512),
    _sigma_case(1024),
    _long_case(16384),
]
