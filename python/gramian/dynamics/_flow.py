"""Closed forms of learning: of a fixed kernel, and of a two-layer diagonal linear network."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["diagonal_flow", "flow"]


def flow(
    K: Tensor,  # noqa: N803
    y: Tensor,
    f0: Tensor,
    t: Tensor,
    *,
    rate: float = 1.0,
    discrete: bool = False,
    K_test: Tensor | None = None,  # noqa: N803
    f0_test: Tensor | None = None,
) -> Tensor:
    r"""Outputs of a linear(ised) model under gradient flow of the loss :math:`\frac12 |f - y|^2`, in closed form.

    :math:`f_t = y + e^{-\eta K t} (f_0 - y)`, mode by mode in the eigenbasis of the kernel; of other samples
    :math:`f_t = f_0 + K_\mathrm{test} K^{-1} (1 - e^{-\eta K t}) (y - f_0)`.

    Args:
        K: ``[n, n]``, one kernel for all outputs, or ``[n, n, c, c]``; symmetric, float32 or float64.
        y: ``[n, c]`` targets.
        f0: ``[n, c]`` outputs at the start.
        t: ``[s]`` times, not negative; numbers of steps if ``discrete``.
        rate: :math:`\eta`.
        discrete: gradient descent of that step instead of flow: :math:`(1 - \eta \lambda)^t`.
        K_test: ``[m, n]`` or ``[m, n, c, c]`` between other samples and these.
        f0_test: ``[m, c]``, given with ``K_test``.

    Returns:
        ``[s, n, c]``, or ``[s, m, c]`` of the other samples, in the dtype of ``K``.

    Raises:
        ValueError: shapes that do not fit, negative times, one of ``K_test`` and ``f0_test`` alone.

    Cost:
        An eigendecomposition, ``O((n c)^3)``, or ``O(n^3)`` for ``[n, n]``; then ``s`` products.

    Accuracy:
        That of the eigendecomposition; directions of no eigenvalue are handled by their limit, :math:`\eta t`.

    Differentiable where eigenvalues are distinct.

    References:
        Linearised dynamics as in arXiv:2209.09658; the closed form is the solution of a linear differential equation.

    Example:
        >>> K, y, f0 = torch.eye(2), torch.ones(2, 1), torch.zeros(2, 1)
        >>> flow(K, y, f0, torch.tensor([0.0, 0.6931472]))[:, 0, 0]
        tensor([0.0000, 0.5000])
    """
    op = "flow"
    full = K.ndim == 4
    if y.ndim != 2 or f0.shape != y.shape:
        raise ValueError(f"{op}: y and f0 must be [n, c], got shapes {tuple(y.shape)} and {tuple(f0.shape)}")
    n, c = y.shape
    if K.shape != ((n, n, c, c) if full else (n, n)):
        raise ValueError(f"{op}: K must be [n, n] or [n, n, c, c] with n, c = {n}, {c}, got shape {tuple(K.shape)}")
    if t.ndim != 1 or (t < 0).any():
        raise ValueError(f"{op}: t must be [s] and not negative, got {t.tolist()}")
    if (K_test is None) != (f0_test is None):
        raise ValueError(f"{op}: K_test and f0_test must be given together, got one")
    values, modes = torch.linalg.eigh(_matrix(K))
    values = values.clamp(min=0)
    residual = (y - f0).to(K.dtype)
    parts = modes.mT @ (residual.reshape(n * c, 1) if full else residual)
    times = rate * t.to(K.dtype)[:, None]
    # What is left of each mode, minus one: no digits are lost while it is small.
    gone = torch.expm1(-times * values) if not discrete else (1 - rate * values) ** t.to(K.dtype)[:, None] - 1
    if K_test is None or f0_test is None:
        moved: Tensor = (modes @ (-gone[..., None] * parts)).reshape(len(t), n, c)
        return moved + f0.to(K.dtype)
    m = len(f0_test)
    if K_test.shape != ((m, n, c, c) if full else (m, n)) or f0_test.shape != (m, c):
        raise ValueError(
            f"{op}: K_test and f0_test must be like K and f0 for m = {m} samples, "
            f"got shapes {tuple(K_test.shape)} and {tuple(f0_test.shape)}"
        )
    tiny = torch.finfo(K.dtype).eps * values.max()
    weight = torch.where(values > tiny, -gone / values.clamp(min=tiny), times.expand_as(gone))
    moved = (_matrix(K_test) @ (modes @ (weight[..., None] * parts))).reshape(len(t), m, c)
    return moved + f0_test.to(K.dtype)


def _matrix(kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:
        return kernel
    n, m, c, _ = kernel.shape
    return kernel.permute(0, 2, 1, 3).reshape(n * c, m * c)


def diagonal_flow(target: Tensor, start: Tensor, t: Tensor, *, rate: float = 1.0) -> Tensor:
    r"""Gradient flow of a two-layer diagonal linear network, :math:`\beta = u \odot v`, in closed form.

    With :math:`u = v` at the start and orthonormal inputs every mode is logistic,
    :math:`\beta(t) = \beta^* / (1 + (\beta^* / \beta_0 - 1) e^{-2 \eta \beta^* t})`: strong modes are learned first, and the
    smaller the start, the more so. In the linear regime all would be learned at once.

    Args:
        target: ``[d]`` :math:`\beta^*`, positive.
        start: ``[d]`` :math:`\beta_0 = u_0^2`, positive.
        t: ``[s]`` times.
        rate: :math:`\eta`.

    Returns:
        ``[s, d]``: :math:`\beta(t)`.

    Raises:
        ValueError: shapes that differ, values that are not positive.

    Cost:
        ``s d`` exponentials.

    Accuracy:
        A few ulp.

    Differentiable.

    References:
        The exactly solvable model of arXiv:2209.09658's argument; the solution is that of the logistic equation.

    Example:
        >>> diagonal_flow(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.0]))
        tensor([[0.5000]])
    """
    if target.ndim != 1 or start.shape != target.shape or t.ndim != 1:
        shapes = [tuple(v.shape) for v in (target, start, t)]
        raise ValueError(f"diagonal_flow: target and start must be [d] and t [s], got shapes {shapes}")
    if not ((target > 0).all() and (start > 0).all()):
        raise ValueError("diagonal_flow: target and start must be positive, got values that are not")
    behind: Tensor = (target / start - 1) * torch.exp(-2 * rate * target * t[:, None])
    return target / (1 + behind)
