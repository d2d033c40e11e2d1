"""The largest singular values of operators of which only products are known: Lanczos, Golub-Kahan and power iteration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Method = Literal["lanczos", "power"]
Product: TypeAlias = "Callable[[Tensor], Tensor]"

_FAILURE = 1e-3  # probability that the probable bound does not hold
_STEPS_AHEAD = 8  # that a GPU is given before the host waits for it
_LARGEST_GAP = 0.99  # a probable bound of more than ten times the value says nothing


class SingularValues(NamedTuple):
    """The largest singular values of Jacobians. Every value is a lower bound on the one it stands for, up to rounding.

    Within ``residual`` of a value there is some singular value: that is no upper bound on the largest. ``probable`` is one, with
    probability 0.999 over the random start; infinite where the iterations were too few to say. ``left`` and ``right`` are
    singular vectors of the shapes of the output and of the input, None where they were not asked for.
    """

    sigma: Tensor
    residual: Tensor
    probable: Tensor
    iterations: Tensor
    converged: Tensor
    left: Tensor | None
    right: Tensor | None


def _wide_dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products ``[batch, 1]`` in float64."""
    products: Tensor = (x * y).sum(1, keepdim=True, dtype=torch.float64)
    return products


def _wide_norm(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return size


def _unit(x: Tensor, size: Tensor) -> Tensor:
    """``x`` over its size; zero where there is nothing left of it: an invariant subspace is complete."""
    return x / torch.where(size == 0, math.inf, size).to(x.dtype)


class _Basis:
    """Orthonormal vectors ``[batch, count, size]`` in memory that doubles when it is full."""

    def __init__(self, like: Tensor) -> None:
        self.memory, self.count = like.new_empty(like.shape[0], 8, like.shape[1]), 0

    @property
    def rows(self) -> Tensor:
        return self.memory[:, : self.count]

    def append(self, x: Tensor) -> None:
        if self.count == self.memory.shape[1]:
            full = self.memory
            self.memory = full.new_empty(full.shape[0], 2 * self.count, full.shape[2])
            self.memory[:, : self.count] = full
        self.memory[:, self.count] = x
        self.count += 1

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` without its part in the span, and its size; once more where much went, whose rounding is left. Twice is enough."""
        size = _wide_norm(x)
        for _ in range(2):
            before = size
            x = torch.baddbmm(x[:, None], (self.rows @ x[..., None]).mT, self.rows, alpha=-1)[:, 0]
            size = _wide_norm(x)
            if x.device.type == "cpu" and (size > before / 2).all():  # elsewhere to ask would be to wait
                break
        return x, size[:, None]


def _probable(search: _Search, size: int) -> Tensor:
    r"""Factor by which the largest singular value may exceed the one found, but for starts of probability `_FAILURE`.

    A value below :math:`(1 - \epsilon)^{1/2} \sigma_1` needs a start whose part along the first singular vector is less than
    :math:`((1 - \epsilon) / \epsilon)^{1/2} / q`, with ``q`` a polynomial of what was multiplied: see docs/how-it-works/attention.md.
    """
    power = (search.iterations - 1).double()
    low, high = torch.full_like(power, 1e-16), torch.ones_like(power)
    for _ in range(60):
        eps = (low * high).sqrt()
        root = eps.sqrt()
        if search.method == "lanczos":
            log_q = power * ((1 + root) / (1 - root)).log() - math.log(2)  # of Chebyshev's, from below
        else:
            log_q = -power * (1 - eps).log()
        odds = (2 * size / math.pi * (1 - eps) / eps).sqrt() * (-log_q).exp()
        low, high = torch.where(odds > _FAILURE, eps, low), torch.where(odds > _FAILURE, high, eps)
    return torch.where(high < _LARGEST_GAP, (1 - high).rsqrt(), math.inf)


class _Search:
    """Singular values of a batch of operators; each stops on its own, all are multiplied until the last has."""

    def __init__(self, batch: int, top: int, tol: float, dtype: torch.dtype, method: str) -> None:
        self.method, self.top, self.tol, self.floor = method, top, tol, 8 * torch.finfo(dtype).eps
        self.sigma = torch.zeros(batch, top, dtype=torch.float64)
        self.residual = torch.full((batch, top), math.inf, dtype=torch.float64)
        self.iterations = torch.zeros(batch, dtype=torch.int64)
        self.converged = torch.zeros(batch, dtype=torch.bool)

    def update(self, step: int, sigma: Tensor, residual: Tensor, complete: Tensor) -> bool:
        """Take the values of a step; True when every operator is done. What is not finite never converges."""
        found = min(self.top, sigma.shape[1])
        self.sigma[:, :found] = sigma[:, :found]
        self.residual[:, :found] = torch.maximum(residual[:, :found], self.floor * sigma[:, :found])
        self.iterations[~self.converged] = step
        finite = self.sigma.isfinite().all(-1)
        self.converged |= (self.residual <= max(self.tol, self.floor) * self.sigma).all(-1) & finite
        self.converged |= complete & finite
        self.residual[complete & finite] = torch.minimum(self.residual, self.floor * self.sigma)[complete & finite]
        return bool((self.converged | ~finite).all())


def _is_looked_at(step: int, last: int, device: torch.device) -> bool:
    """Whether the host asks after ``step`` if the search is done: it costs nothing on the CPU, and elsewhere a wait."""
    return device.type == "cpu" or step % _STEPS_AHEAD == 0 or step == last


def _lanczos(square: Product, start: Tensor, search: _Search, max_iter: int) -> Tensor:
    """Tridiagonalisation of ``JᵀJ``; returns the right singular vector ``[batch, 1, size]``.

    It is the square of what Golub and Kahan's steps find, ``T = BᵀB``, by one product instead of two. Rounding is relative to the
    square of the largest value: nothing for the largest, too much for small ones.
    """
    batch, eps = start.shape[0], torch.finfo(start.dtype).eps
    right = _Basis(start)
    right.append(_unit(start, _wide_norm(start)[:, None]))
    diagonal, beyond = (start.new_empty(batch, max_iter, dtype=torch.float64) for _ in range(2))
    largest = start.new_zeros(batch, 1, dtype=torch.float64)
    modes = torch.zeros(batch, 1, 1, dtype=torch.float64, device="cpu")
    for step in range(max_iter):
        v = right.rows[:, -1]
        w = square(v)
        largest = torch.maximum(largest, _wide_norm(w)[:, None])
        along = _wide_dot(v, w)
        w, beta = right.apart(torch.addcmul(w, along.to(w), v, value=-1))
        beta = torch.where(beta <= 8 * eps * largest, 0, beta)
        diagonal[:, step], beyond[:, step] = along[:, 0], beta[:, 0]
        if _is_looked_at(step + 1, max_iter, start.device):
            a, b = torch.stack([diagonal[:, : step + 1], beyond[:, : step + 1]]).cpu()
            finite = (a + b).isfinite().all(1, keepdim=True)
            off = b[:, :-1].diag_embed(1)
            matrix = a.diag_embed() + off + off.mT
            squares, modes = torch.linalg.eigh(torch.where(matrix.isfinite(), matrix, 0))
            sigma = torch.where(finite, squares[:, -1:].clamp(min=0).sqrt(), math.nan)
            apart = torch.where(sigma == 0, 0, b[:, -1:] * modes[:, -1, -1:].abs() / sigma)
            if search.update(step + 1, sigma, apart, b[:, -1] == 0):
                break
        if step + 1 < max_iter:
            right.append(_unit(w, beta))
    return modes[:, :, -1:].mT.to(start) @ right.rows


def _golub_kahan(forward: Product, transpose: Product, start: Tensor, search: _Search, max_iter: int) -> Tensor:
    """Golub-Kahan bidiagonalisation; returns right singular vectors ``[batch, top, size]``.

    The right basis is kept orthogonal by hand, and with it the left one as far as it counts: of ``J V = U B`` the part in which
    ``U`` would fail is weighed by a small row of ``B``. So no more than the last left vector is kept.
    """
    batch, eps = start.shape[0], torch.finfo(start.dtype).eps
    right = _Basis(start)
    right.append(_unit(start, _wide_norm(start)[:, None]))
    # What the steps find stays on their device; the host looks at it, and waits for it, at some of them.
    alphas, betas = (start.new_empty(batch, max_iter, dtype=torch.float64) for _ in range(2))
    largest = left = beta = start.new_zeros(batch, 1, dtype=torch.float64)
    q = torch.zeros(batch, 1, 1, dtype=torch.float64, device="cpu")
    for step in range(max_iter):
        u = forward(right.rows[:, -1])
        largest = torch.maximum(largest, _wide_norm(u)[:, None])
        u = torch.addcmul(u, beta.to(u), left.to(u), value=-1)
        alpha = _wide_norm(u)[:, None]
        alpha = torch.where(alpha <= 8 * eps * largest, 0, alpha)
        left = _unit(u, alpha)
        w = torch.addcmul(transpose(left), alpha.to(u), right.rows[:, -1], value=-1)
        w, beta = right.apart(w)
        beta = torch.where(beta <= 8 * eps * largest, 0, beta)
        alphas[:, step], betas[:, step] = alpha[:, 0], beta[:, 0]
        if _is_looked_at(step + 1, max_iter, start.device):
            a, b = torch.stack([alphas[:, : step + 1], betas[:, : step + 1]]).cpu()
            finite = (a + b).isfinite().all(1, keepdim=True)
            matrix = a.diag_embed() + b[:, :-1].diag_embed(1)
            p, sigma, q = torch.linalg.svd(torch.where(matrix.isfinite(), matrix, 0))
            sigma = torch.where(finite, sigma, math.nan)
            if search.update(step + 1, sigma, b[:, -1:] * p[:, -1].abs(), b[:, -1] == 0):
                break
        if step + 1 < max_iter:
            right.append(_unit(w, beta))
    return q[:, : search.top].to(start) @ right.rows


def _power(square: Product, start: Tensor, search: _Search, max_iter: int) -> Tensor:
    """Power iteration on ``JᵀJ``; residuals from that product, over sigma."""
    right = _unit(start, _wide_norm(start)[:, None])
    for step in range(max_iter):
        w = square(right)
        along = _wide_dot(right, w)
        apart = _wide_norm(torch.addcmul(w, along.to(w), right, value=-1))[:, None]
        if _is_looked_at(step + 1, max_iter, start.device):
            found, residual = torch.stack([along, apart]).cpu()
            found = found.clamp(min=0).sqrt()
            residual = torch.where(found == 0, 0, residual / found)
            if search.update(step + 1, found, residual, (found == 0)[:, 0]) or step + 1 == max_iter:
                break
        size = _wide_norm(w)[:, None]
        right = torch.where(size > 0, _unit(w, size), right)
    return right[:, None]


def solve(
    op: str,
    square: Product,
    start: Tensor,
    *,
    halves: tuple[Product, Product] | None = None,
    method: str = "lanczos",
    top: int = 1,
    tol: float,
    max_iter: int,
) -> tuple[_Search, Tensor]:
    """The search when it is over, and right singular vectors ``[batch, top, size]``.

    ``square`` multiplies directions ``[batch, size]`` with ``JᵀJ``; for ``top > 1``, ``halves`` do with ``J`` and ``Jᵀ``.
    """
    if method not in ("lanczos", "power"):
        raise ValueError(f"{op}: method must be 'lanczos' or 'power', got {method!r}")
    if top < 1 or (method == "power" and top != 1):
        wanted = "1 with method='power'" if method == "power" else "1 or more"
        raise ValueError(f"{op}: top must be {wanted}, got {top}")
    if top > start.shape[1]:
        raise ValueError(f"{op}: top must be at most the size of the input, {start.shape[1]}, got {top}")
    if max_iter < top:
        raise ValueError(f"{op}: max_iter must be at least top = {top}, got {max_iter}")
    if not tol >= 0:
        raise ValueError(f"{op}: tol must be 0 or more, got {tol}")
    search = _Search(start.shape[0], top, tol, start.dtype, method)
    steps = min(max_iter, start.shape[1]) if method == "lanczos" else max_iter
    if top > 1 and halves is not None:
        return search, _golub_kahan(*halves, start, search, steps)
    return search, (_lanczos if method == "lanczos" else _power)(square, start, search, steps)


def left_vectors(forward: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Left singular vectors ``[batch, top, size]`` that belong to right ones."""
    products = torch.stack([forward(x) for x in right.unbind(1)], 1)
    return _unit(products, _wide_norm(products)[..., None])


def random_start(batch: int, size: int, like: Tensor, seed: int) -> Tensor:
    """The same direction for every element, drawn in float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, generator=generator, dtype=torch.float64)
    return drawn.to(like).expand(batch, size)


def result(
    search: _Search, left: Tensor | None, right: Tensor | None, like: Tensor, batch: tuple[int, ...], size: int
) -> SingularValues:
    one = search.top == 1
    largest = search.sigma[:, 0]
    factor = _probable(search, size)
    probable = torch.where(largest == 0, torch.where(search.converged, 0, math.inf), largest * factor)

    def shaped(x: Tensor) -> Tensor:
        return x.view(batch) if one else x.view((*batch, search.top))

    def joined(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.reshape(*batch, *(x.shape[2:] if one else x.shape[1:]))

    return SingularValues(
        shaped(search.sigma.to(like)),
        shaped(search.residual.to(like)),
        probable.to(like).view(batch),
        search.iterations.view(batch).to(like.device),
        search.converged.view(batch).to(like.device),
        joined(left),
        joined(right),
    )
