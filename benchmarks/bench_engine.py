"""engine: the bare Gram sweep, its result consumed by a sum."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.case import Case, Peer

Inputs = tuple[torch.Tensor, torch.Tensor]


def _case(n: int, d: int, dtype: torch.dtype) -> Case:
    def setup(seed: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, d, dtype=dtype, generator=generator), torch.randn(n, d, dtype=dtype, generator=generator)

    def error(result: torch.Tensor, inputs: Inputs) -> float:
        if result.dim() == 2:  # the peer stops at the product: less work, and what people write
            result = result.double().pow(2).sum()
        exact = (inputs[0].double() @ inputs[1].double().mT).pow(2).sum()
        return float((result.double() - exact).abs() / exact)

    size = torch.finfo(dtype).bits // 8
    return Case(
        op="engine.gram_square_sum",
        name=f"n=m={n} d={d}",
        dtype=str(dtype).removeprefix("torch."),
        setup=setup,
        ours=lambda xy: torch.ops.gramian.gram_square_sum.default(*xy),
        peers=[
            Peer(name="torch", version=lambda: torch.__version__, call="torch.mm(x, y.mT)", run=_product),
        ],
        flops=2.0 * n * n * d,
        bytes=2.0 * n * d * size,
        error=error,
    )


def _product(xy: Any) -> torch.Tensor:
    return torch.mm(xy[0], xy[1].mT)


CASES = [
    _case(n, d, dtype) for dtype in (torch.float32, torch.float64) for n, d in ((4096, 128), (4096, 512), (4096, 784))
]
CASES += [_case(64, 64, torch.float32), _case(1021, 127, torch.float32)]
