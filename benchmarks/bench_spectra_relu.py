"""Exact spectra of piecewise linear networks against sampling and an FFT."""

from __future__ import annotations

import copy
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.case import Case, Peer
from gramian import spectra

if TYPE_CHECKING:
    from collections.abc import Callable

_SAMPLES, _INPUTS = 1 << 16, 10


def _torch_version() -> str:
    return torch.__version__


def _setup(width: int, depth: int, frequencies: int) -> Callable[[int], list[Any]]:
    def setup(seed: int) -> list[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [_INPUTS, *(width,) * depth, 1]
            layers: list[nn.Module] = []
            for inputs, outputs in itertools.pairwise(sizes):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
                nn.init.kaiming_normal_(layers[-2].weight)
                nn.init.normal_(layers[-2].bias, std=0.1)
            ends = [2 * torch.randn(_INPUTS) for _ in range(2)]
        return [nn.Sequential(*layers[:-1]).requires_grad_(False), *ends, torch.arange(float(frequencies))]

    return setup


def _ours(inputs: list[Any]) -> Tensor:
    return spectra.relu_line_spectrum(*inputs)[:, 0]


def _sampled(dtype: torch.dtype) -> Callable[[list[Any]], Tensor]:
    def run(inputs: list[Any]) -> Tensor:
        model, a, b, k = inputs
        t = torch.arange(_SAMPLES, dtype=dtype) / _SAMPLES
        model = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        values = model(a.to(dtype) + t[:, None] * (b.to(dtype) - a.to(dtype)))[:, 0]
        return torch.fft.rfft(values)[: len(k)] / _SAMPLES

    return run


def _quadrature(inputs: list[Any], points: int = 24) -> Tensor:
    """Gauss's rule between the kinks, on the network itself."""
    model, a, b, k = inputs
    knots = spectra.relu_line(model, a, b).t
    j = torch.arange(1, points, dtype=torch.float64)
    beside = j / (4 * j * j - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    # At most half a cycle a piece, or the rule would not converge.
    parts = (2 * float(k.max()) * knots.diff()).ceil().clamp_min(1).long()
    fine = torch.cat(
        [
            x + (y - x) * torch.arange(int(n), dtype=torch.float64) / int(n)
            for x, y, n in zip(knots, knots[1:], parts, strict=False)
        ]
    )
    fine = torch.cat([fine, knots[-1:]])
    t = (fine[:-1, None] + (nodes + 1) / 2 * fine.diff()[:, None]).flatten()
    weights = (vectors[0].square() * fine.diff()[:, None]).flatten()
    wide = copy.deepcopy(model).double()
    values = wide(a.double() + t[:, None] * (b.double() - a.double()))[:, 0] * weights
    waves = (torch.exp(-2j * math.pi * part[:, None] * t) for part in torch.split(k.double(), 50))
    return torch.cat([wave @ values.to(torch.complex128) for wave in waves])


def _error(result: Tensor, inputs: list[Any]) -> float:
    expected = _quadrature(inputs)
    return float((result - expected).abs().max() / expected.abs().max())


def _case(width: int, depth: int, frequencies: int = 1000, rounds: int = 4) -> Case:
    units, weights = width * depth, width * width * depth
    peers = [
        Peer(name="torch", version=_torch_version, call=f"{_SAMPLES} samples in {name}, fft.rfft", run=_sampled(dtype))
        for name, dtype in {"float32": torch.float32, "float64": torch.float64}.items()
    ]
    return Case(
        op="spectra.relu_line_spectrum",
        name=f"{depth}x{width} k={frequencies}",
        dtype="float64",
        setup=_setup(width, depth, frequencies),
        ours=_ours,
        peers=peers,
        # About as many pieces as half the units; four sines and cosines of 20 flops for each and each frequency.
        flops=units / 2 * (weights + 80.0 * frequencies),
        bytes=8.0 * weights,
        error=_error,
        rounds=rounds,
    )


CASES = [_case(256, 6), _case(64, 2), _case(16, 1, 10, 10)]
