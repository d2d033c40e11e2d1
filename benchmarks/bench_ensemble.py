"""Bias and variance of ensembles, all at once and one model at a time, against plain torch and a running mean by Welford."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.case import Case, Peer
from gramian import ensemble

if TYPE_CHECKING:
    from collections.abc import Callable


def _torch_version() -> str:
    return torch.__version__


def _setup(sets: int, seeds: int, n: int, c: int) -> Callable[[int], list[Tensor]]:
    def setup(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        common = torch.randn(sets, 1, n, c, generator=generator)
        return [common + torch.randn(sets, seeds, n, c, generator=generator), torch.randn(n, c, generator=generator)]

    return setup


def _ours(inputs: list[Tensor]) -> Tensor:
    return torch.stack(ensemble.bias_variance(*inputs)[:5])


def _parts(error: Tensor, bias: Tensor, within: Tensor, between: Tensor, sets: int, seeds: int) -> Tensor:
    """Unbiased parts of the plain ones."""
    apart, optimisation = between * sets / (sets - 1), within * seeds / (seeds - 1)
    sampling = apart - optimisation / seeds
    return torch.stack([error, bias - apart / sets, optimisation + sampling, optimisation, sampling]).double()


def _plain(inputs: list[Tensor]) -> Tensor:
    p, y = inputs
    of_set = p.mean(1)
    center = of_set.mean(0)
    return _parts(
        (p - y).square().sum(3).mean(),
        (center - y).square().sum(1).mean(),
        p.var(1, correction=0).sum(2).mean(),
        of_set.var(0, correction=0).sum(1).mean(),
        p.shape[0],
        p.shape[1],
    )


def _welford(inputs: list[Tensor]) -> Tensor:
    p, y = inputs
    error, within, means = torch.zeros(()), torch.zeros(()), []
    for of_set in p:
        mean, square = torch.zeros_like(y), torch.zeros_like(y)
        for count, h in enumerate(of_set, start=1):
            delta = h - mean
            mean = mean + delta / count
            square = square + delta * (h - mean)
            error = error + (h - y).square().sum(1).mean()
        means.append(mean)
        within = within + square.sum(1).mean() / len(of_set)
    of_set = torch.stack(means)
    center, sets, seeds = of_set.mean(0), len(p), p.shape[1]
    between = of_set.var(0, correction=0).sum(1).mean()
    bias = (center - y).square().sum(1).mean()
    return _parts(error / (sets * seeds), bias, within / sets, between, sets, seeds)


def _error(result: Any, inputs: list[Tensor]) -> float:
    expected = _plain([t.double() for t in inputs])
    return float(((result - expected).abs() / expected.abs().max()).max())


def _case(sets: int, seeds: int, n: int, c: int, rounds: int = 6) -> Case:
    peers = [
        Peer(name="torch", version=_torch_version, call="mean, var and squared error of the whole", run=_plain),
        Peer(name="torch", version=_torch_version, call="Welford, one model at a time", run=_welford),
    ]
    return Case(
        op="ensemble.bias_variance",
        name=f"sets={sets} seeds={seeds} n={n} c={c}",
        dtype="float32",
        setup=_setup(sets, seeds, n, c),
        ours=_ours,
        peers=peers,
        flops=3.0 * sets * seeds * n * c,
        bytes=4.0 * sets * seeds * n * c,
        error=_error,
        rounds=rounds,
        memory=True,
    )


def _streamed(seeds: int, together: int, n: int, c: int, rounds: int = 6) -> Case:
    """The accumulator alone, fed one set some models at a time: the sums are read and written in each call."""

    def ours(inputs: list[Tensor]) -> Tensor:
        p, y = inputs
        parts = ensemble.BiasVariance(y)
        for models in torch.split(p[0], together):
            parts.update(models, 0)
        one = parts._sets[0]
        return (one.squares.sum() - one.sums.square().sum() / seeds) / (n * (seeds - 1))

    def plain(inputs: list[Tensor]) -> Tensor:
        return inputs[0][0].var(0).sum(1).mean()

    def error(result: Any, inputs: list[Tensor]) -> float:
        expected = plain([t.double() for t in inputs])
        return float((result - expected).abs() / expected)

    return Case(
        op="ensemble.BiasVariance",
        name=f"one set, seeds={seeds} by {together} n={n} c={c}",
        dtype="float32",
        setup=_setup(1, seeds, n, c),
        ours=ours,
        peers=[Peer(name="torch", version=_torch_version, call="var of the whole", run=plain)],
        flops=3.0 * seeds * n * c,
        bytes=(4.0 + 20.0 / together) * seeds * n * c,
        error=error,
        rounds=rounds,
        memory=True,
    )


def _mlxtend(inputs: list[Any]) -> Tensor:
    from mlxtend.evaluate import bias_variance_decomp

    x, y = (t.numpy() for t in inputs)
    found = bias_variance_decomp(_Nearest(), x, y, x, y, loss="mse", num_rounds=50, random_seed=0)
    return torch.tensor(found)


class _Nearest:
    """Predicts the target of the nearest sample: fitting costs nothing, so that what is timed is the decomposition."""

    def fit(self, x: Any, y: Any) -> _Nearest:
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        return self

    def predict(self, x: Any) -> Any:
        return self.y[torch.cdist(torch.from_numpy(x), self.x).argmin(1)].numpy()


def _resampled(inputs: list[Any]) -> Tensor:
    x, y = inputs
    parts = ensemble.BiasVariance(y)
    for rows in ensemble.draw_sets(len(x), 50, len(x), generator=torch.Generator().manual_seed(0)):
        fitted = _Nearest().fit(x[rows].numpy(), y[rows].numpy())
        parts.update(torch.from_numpy(fitted.predict(x.numpy()))[:, None], 0)
    one = parts._sets[0]
    error = one.squares.mean() / one.seeds
    bias = (one.sums / one.seeds).square().mean()
    return torch.stack([error, bias, error - bias])


def _against_mlxtend(n: int) -> Case:
    def setup(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 4, generator=generator)
        return [x, x[:, 0].sin() + 0.1 * torch.randn(n, generator=generator)]

    return Case(
        op="ensemble.BiasVariance",
        name=f"nearest neighbour, 50 bootstrap sets n={n}",
        dtype="float32",
        setup=setup,
        ours=_resampled,
        peers=[Peer(name="mlxtend", version=lambda: version("mlxtend"), call="bias_variance_decomp", run=_mlxtend)],
        flops=50.0 * n * n * 8,
        bytes=50.0 * n * 4,
        error="each side draws its own bootstrap samples",
        rounds=4,
    )


CASES = [
    _case(10, 20, 10_000, 10),
    _case(20, 50, 10_000, 10, 4),
    _case(10, 10, 1797, 10, 10),
    _case(3, 2, 80, 1, 10),
    _case(7, 13, 9973, 3),
    _streamed(100, 20, 50_000, 10, 4),
    _streamed(400, 20, 50_000, 10, 4),
    _against_mlxtend(500),
]
