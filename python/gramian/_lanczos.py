"""The largest eigenpairs of a symmetric matrix of which only products are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Eigenpairs", "lanczos"]


class Eigenpairs(NamedTuple):
    """The largest eigenvalues, falling, their vectors ``[..., k]``, and ``|K u - lambda u|`` for each."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool


def lanczos(
    multiply: Callable[[Tensor], Tensor],
    size: int,
    k: int,
    *,
    eps: float,
    tol: float,
    most: int,
    device: torch.device,
    generator: torch.Generator | None,
    progress: bool,
    part: slice = slice(None),
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> Eigenpairs:
    """Lanczos' method, every vector made orthogonal to all before it, twice, in float64.

    ``multiply`` maps float64 ``[size]`` to float64 with relative rounding ``eps``; ``most`` limits its calls, at least ``k``. Where
    vectors are spread over processes, each holds its ``part`` of them, and ``total`` adds up what the parts give.
    """

    def norm(q: Tensor) -> Tensor:
        return total(q @ q).sqrt()

    def fresh(basis: Tensor) -> Tensor:
        q: Tensor = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")[part].to(device)
        for _ in range(2):
            q = q - basis @ total(basis.mT @ q)
        return q.div(norm(q))

    own = len(range(size)[part])
    basis = torch.zeros(own, most, dtype=torch.float64, device=device)
    tridiagonal = torch.zeros(most, most, dtype=torch.float64, device=device)
    basis[:, 0] = fresh(basis[:, :0])
    for step in progress_bar(range(most), "products", shown=progress):
        product = multiply(basis[:, step])
        scale = norm(product)
        tridiagonal[step, step] = total(basis[:, step] @ product)
        seen = basis[:, : step + 1]
        for _ in range(2):
            product = product - seen @ total(seen.mT @ product)
        beyond = norm(product)
        done = step + 1
        if done >= k and (done % 4 == 0 or done == most or beyond <= eps * scale):
            values, modes = torch.linalg.eigh(tridiagonal[:done, :done])
            residuals = beyond * modes[-1, -k:].abs()
            if (residuals <= tol * values[-1].clamp(min=0)).all():
                break
        if done < most:
            closed = beyond <= eps * scale  # what was seen is mapped into itself: look elsewhere
            basis[:, done] = fresh(seen) if closed else product / beyond
            if not closed:
                tridiagonal[step, done] = tridiagonal[done, step] = beyond
    values, modes = torch.linalg.eigh(tridiagonal[:done, :done])
    residuals = (beyond * modes[-1, -k:].abs()).flip(0)
    top = values[-k:].flip(0)
    converged = bool((residuals <= tol * top[0].clamp(min=0)).all()) or done == size
    return Eigenpairs(top, seen @ modes[:, -k:].flip(1), residuals, converged)
