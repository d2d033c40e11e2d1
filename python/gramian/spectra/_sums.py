"""Sums over all pairs of rows: kernel sums and Fourier sums in any dimension, the matrix of pairs never stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from gramian import _autograd, _fake
from gramian._lanczos import Eigenpairs, lanczos

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Kernel", "gaussian_eigenpairs", "kernel_sum", "ndft", "ndft_adjoint"]

Kernel = Literal["gaussian", "laplace", "matern32", "matern52", "inverse_multiquadric"]
Units = Literal["cycles", "angular"]
_KERNELS = get_args(Kernel)

_kernel_sum = torch.ops.gramian.spectra_kernel_sum.default
_ndft = torch.ops.gramian.spectra_ndft.default


# ---- Derivatives: of both ops made of the ops themselves, with the features among the values ----


def _with_features(values: Tensor, x: Tensor) -> Tensor:
    """``[m, c]`` and ``[m, d]`` to ``[m, c d]``."""
    return (values.unsqueeze(2) * x.unsqueeze(1)).reshape(x.shape[0], values.shape[1] * x.shape[1])


def _sum(x: Tensor, y: Tensor, values: Tensor, profile: int, slope: bool) -> Tensor:
    if profile == 0:  # the Gaussian is its own slope, to every order
        found: Tensor = _kernel_sum(x, y, values, profile, False)
        return found * -0.5 if slope else found
    sums: Tensor = _kernel_sum(x, y, values, profile, slope)
    return sums


def _slopes(x: Tensor, y: Tensor, values: Tensor, profile: int) -> tuple[Tensor, Tensor]:
    """``sum_j phi'(u) v_j`` as ``[n, c]`` and ``sum_j phi'(u) v_j y_j`` as ``[n, c, d]``."""
    c, d = values.shape[1], y.shape[1]
    sums = _sum(x, y, torch.cat([values, _with_features(values, y)], 1), profile, True)
    return sums.narrow(1, 0, c), sums.narrow(1, c, c * d).reshape(x.shape[0], c, d)


def _setup_sum(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    x, y, values, ctx.profile, ctx.slope = inputs
    ctx.save_for_backward(x, y, values)
    ctx.save_for_forward(x, y, values)


def _check_once(ctx: Any) -> None:
    if ctx.slope:
        raise NotImplementedError(f"kernel_sum: the {_KERNELS[ctx.profile]} kernel has one derivative in x and y")


def _backward_sum(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, values = ctx.saved_tensors
    by_x = by_y = by_values = None
    if ctx.needs_input_grad[0]:
        _check_once(ctx)
        plain, featured = _slopes(x, y, values, ctx.profile)
        by_x = 2 * (x * (grad * plain).sum(1, keepdim=True) - (grad.unsqueeze(2) * featured).sum(1))
    if ctx.needs_input_grad[1]:
        _check_once(ctx)
        plain, featured = _slopes(y, x, grad, ctx.profile)
        by_y = 2 * (y * (values * plain).sum(1, keepdim=True) - (values.unsqueeze(2) * featured).sum(1))
    if ctx.needs_input_grad[2]:
        by_values = _sum(y, x, grad, ctx.profile, ctx.slope)
    return by_x, by_y, by_values, None, None


def _jvp_sum(ctx: Any, dx: Tensor | None, dy: Tensor | None, dv: Tensor | None, *_: None) -> Tensor:
    x, y, values = ctx.saved_tensors
    moved: Tensor = x.new_zeros(x.shape[0], values.shape[1])
    if dv is not None:
        moved = moved + _sum(x, y, dv, ctx.profile, ctx.slope)
    if dx is not None:
        _check_once(ctx)
        plain, featured = _slopes(x, y, values, ctx.profile)
        moved = moved + 2 * ((x * dx).sum(1, keepdim=True) * plain - (dx.unsqueeze(1) * featured).sum(2))
    if dy is not None:
        _check_once(ctx)
        c, d = values.shape[1], y.shape[1]
        along = (y * dy).sum(1, keepdim=True) * values
        sums = _sum(x, y, torch.cat([along, _with_features(values, dy)], 1), ctx.profile, True)
        moved = moved + 2 * (
            sums.narrow(1, 0, c) - (x.unsqueeze(1) * sums.narrow(1, c, c * d).reshape(x.shape[0], c, d)).sum(2)
        )
    return moved


_autograd.register(_kernel_sum, setup_context=_setup_sum, backward=_backward_sum, jvp=_jvp_sum)


def _setup_ndft(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def _waves(k: Tensor, x: Tensor, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine sums of ``v_j`` times features of row ``j``, ``[n, c, d]`` each."""
    sums = _ndft(k, x, _with_features(values, features)).reshape(2, k.shape[0], values.shape[1], features.shape[1])
    return sums.select(0, 0), sums.select(0, 1)


def _backward_ndft(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    k, x, values = ctx.saved_tensors
    by_cos, by_sin = grad.select(0, 0), grad.select(0, 1)
    c = values.shape[1]
    by_k = by_x = by_values = None
    if ctx.needs_input_grad[0]:
        cos, sin = _waves(k, x, values, x)
        by_k = 2 * math.pi * (by_sin.unsqueeze(2) * cos - by_cos.unsqueeze(2) * sin).sum(1)
    if ctx.needs_input_grad[1]:
        cos, _ = _waves(x, k, by_sin, k)
        _, sin = _waves(x, k, by_cos, k)
        by_x = 2 * math.pi * (values.unsqueeze(2) * (cos - sin)).sum(1)
    if ctx.needs_input_grad[2]:
        sums = _ndft(x, k, torch.cat([by_cos, by_sin], 1))
        by_values = sums.select(0, 0).narrow(1, 0, c) + sums.select(0, 1).narrow(1, c, c)
    return by_k, by_x, by_values


def _jvp_ndft(ctx: Any, dk: Tensor | None, dx: Tensor | None, dv: Tensor | None) -> Tensor:
    k, x, values = ctx.saved_tensors
    moved: Tensor = k.new_zeros(2, k.shape[0], values.shape[1])
    if dv is not None:
        moved = moved + _ndft(k, x, dv)
    for side, features, tangent in ((dk, x, dk), (dx, dx, k)):
        if side is not None and features is not None and tangent is not None:
            cos, sin = _waves(k, x, values, features)
            both = torch.stack([-(tangent.unsqueeze(1) * sin).sum(2), (tangent.unsqueeze(1) * cos).sum(2)])
            moved = moved + 2 * math.pi * both
    return moved


_autograd.register(_ndft, setup_context=_setup_ndft, backward=_backward_ndft, jvp=_jvp_ndft)


@_fake.register("spectra_kernel_sum")
def _(x: Tensor, _y: Tensor, values: Tensor, _profile: int, _slope: bool = False) -> Tensor:
    return x.new_empty(x.shape[0], values.shape[1])


@_fake.register("spectra_ndft")
def _(frequencies: Tensor, _points: Tensor, values: Tensor) -> Tensor:
    return frequencies.new_empty(2, frequencies.shape[0], values.shape[1])


def _one_by_one(op: Any) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        tensors, rest = given[:3], given[3:]
        calls = [
            op(*(x if dim is None else x.select(dim, b) for x, dim in zip(tensors, in_dims, strict=False)), *rest)
            for b in range(info.batch_size)
        ]
        return torch.stack(calls), 0

    return rule


torch.library.register_vmap("gramian::spectra_kernel_sum", _one_by_one(_kernel_sum))
torch.library.register_vmap("gramian::spectra_ndft", _one_by_one(_ndft))


# ---- The functions ----


def kernel_sum(
    x: Tensor, y: Tensor, values: Tensor, *, kernel: Kernel = "gaussian", bandwidth: float | Tensor = 1.0
) -> Tensor:
    r"""Sum of kernels, :math:`s_i = \sum_j \phi(|x_i - y_j| / h) \, v_j`, without the matrix of kernels.

    With :math:`r = |x - y| / h`: ``"gaussian"`` is :math:`e^{-r^2/2}`, ``"laplace"`` :math:`e^{-r}`, ``"matern32"``
    :math:`(1 + \sqrt3 r) e^{-\sqrt3 r}`, ``"matern52"`` :math:`(1 + \sqrt5 r + \frac53 r^2) e^{-\sqrt5 r}`,
    ``"inverse_multiquadric"`` :math:`(1 + r^2)^{-1/2}`.

    Args:
        x: ``[n, d]`` rows, float32 or float64, any strides.
        y: ``[m, d]`` rows, dtype of ``x``.
        values: ``[m]`` or ``[m, c]``, dtype of ``x``.
        kernel: one of the five.
        bandwidth: :math:`h` in the units of the rows, positive; a tensor of one value may carry a gradient.

    Returns:
        ``[n]`` or ``[n, c]`` in the dtype of ``x`` and the units of ``values``.

    Raises:
        ValueError: shapes that do not fit, dtypes that differ or are neither float32 nor float64, ``bandwidth`` not positive,
            an unknown ``kernel``.
        NotImplementedError: a second derivative in ``x`` or ``y`` of any kernel but the Gaussian.

    Cost:
        ``2 n m d`` flops for the distances, an exponential and ``2 c`` flops a pair. Extra memory: copies of the rows and of the
        values; no ``n m``. A derivative in the rows sums ``c (d + 1)`` columns.

    Accuracy:
        Distances come from ``|x|² + |y|² - 2 x.y`` about the mean of ``y``: the square has an error of about ``eps`` times the squared
        distance from that mean, over ``h²``. Sums run in lanes over at most 4224 rows, then in float64.

    Differentiable in all tensors (Laplace with slope zero where rows coincide), works under ``torch.func`` and
    ``torch.compile``. Propagates NaN. The same bits for every number of threads.

    References:
        The kernel of the eigenbasis experiment of arXiv:1806.08734 is the Gaussian.

    Example:
        >>> kernel_sum(torch.zeros(1, 1), torch.tensor([[0.0], [2.0]]), torch.ones(2), bandwidth=2.0)
        tensor([1.6065])
    """
    if kernel not in _KERNELS:
        raise ValueError(f"kernel_sum: kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
    if not isinstance(bandwidth, Tensor) and not bandwidth > 0:
        raise ValueError(f"kernel_sum: bandwidth must be positive, got {bandwidth}")
    columns = values[:, None] if values.ndim == 1 else values
    if x.ndim == 2 and y.ndim == 2 and len(y) > 0 and x.shape[1] == y.shape[1]:  # else the op refuses
        centre = y.detach().mean(0)
        x, y = x - centre, y - centre
        if isinstance(bandwidth, Tensor):
            x, y = x / bandwidth, y / bandwidth
        elif bandwidth != 1:
            x, y = x.div_(bandwidth), y.div_(bandwidth)  # in the copies
    sums = _sum(x, y, columns, _KERNELS.index(kernel), False)
    return sums[:, 0] if values.ndim == 1 else sums


def gaussian_eigenpairs(
    x: Tensor,
    k: int,
    *,
    bandwidth: float = 1.0,
    tol: float = 1e-6,
    max_iter: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Eigenpairs:
    r"""Largest eigenpairs of the Gaussian kernel matrix :math:`e^{-|x_i - x_j|^2 / 2 h^2}`, without the matrix, by Lanczos.

    The coefficients of a function in that basis are ``pairs.vectors.T @ f``.

    Args:
        x: ``[n, d]`` rows, float32 or float64.
        k: eigenpairs, from 1 to ``n``.
        bandwidth: :math:`h`, positive.
        tol: stop when all residuals are below this share of the largest eigenvalue.
        max_iter: most products with the matrix; ``10 k + 100`` by default, never more than ``n``.
        generator: of the random start; torch's own without it.
        progress: show a bar over the products (with tqdm installed).

    Returns:
        ``Eigenpairs(values, vectors, residuals, converged)``: ``[k]`` float64, falling; ``[n, k]`` in the dtype of ``x``, of length one,
        their signs as they come; ``[k]`` estimates of the residuals.

    Raises:
        ValueError: ``k`` or ``max_iter`` out of range, and what `kernel_sum` refuses.

    Cost:
        A few times ``k`` products of `kernel_sum`, at most ``max_iter``, and as many vectors of length ``n`` in float64.

    Accuracy:
        That of the products: residuals below the rounding of ``x``'s dtype are not reached.

    The result carries no gradient.

    References:
        The eigenbasis experiment of Rahaman et al., arXiv:1806.08734, with the usual Gaussian, ``exp(-r²/2h²)``.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [100.0]], dtype=torch.float64)
        >>> gaussian_eigenpairs(x, 2).values.round(decimals=4)
        tensor([2., 1.], dtype=torch.float64)
    """
    n = len(x)
    if not 1 <= k <= n:
        raise ValueError(f"gaussian_eigenpairs: k must be from 1 to n = {n}, got {k}")
    most = min(n, 10 * k + 100 if max_iter is None else max_iter)
    if most < k:
        raise ValueError(f"gaussian_eigenpairs: max_iter must be at least k = {k}, got {max_iter}")
    rows = x.detach()

    def multiply(q: Tensor) -> Tensor:
        return kernel_sum(rows, rows, q.to(rows.dtype), bandwidth=bandwidth).double()

    eps = torch.finfo(rows.dtype).eps
    found = lanczos(
        multiply, n, k, eps=eps, tol=tol, most=most, device=rows.device, generator=generator, progress=progress
    )
    return found._replace(vectors=found.vectors.to(rows.dtype))


def ndft(
    points: Tensor,
    frequencies: Tensor,
    values: Tensor,
    *,
    units: Units = "cycles",
    sign: Literal[-1, 1] = -1,
    norm: Literal["none", "mean"] = "none",
    phase_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Fourier sum :math:`\hat f(k) = \sum_j v_j e^{\mp 2 \pi i \, k \cdot x_j}` at any frequencies and points.

    Args:
        points: ``[n, d]``, float32 or float64, any strides.
        frequencies: ``[k, d]``, dtype of ``points``.
        values: ``[n]`` or ``[n, c]``, of that dtype or complex of that precision.
        units: of the frequencies: ``"cycles"``, or ``"angular"``, radians, which leaves the factor 2 pi out.
        sign: of the exponent.
        norm: ``"mean"`` divides by ``n``.
        phase_dtype: ``torch.float64`` to compute in it and return the dtype of ``points``; for phases beyond some hundred turns.

    Returns:
        Complex ``[k]`` or ``[k, c]``, in the units of ``values``.

    Raises:
        ValueError: shapes that do not fit, dtypes that differ or are neither float32 nor float64, an unknown option.

    Cost:
        ``2 n k d`` flops for the phases, one sine and cosine and ``4 c`` flops a pair, twice that for complex values. Extra memory:
        a copy of the points and of the values; no ``n k``. In up to three dimensions and beyond 10⁷ pairs a nonuniform
        FFT (finufft) does less work; in more dimensions there is none.

    Accuracy:
        Phases are in turns and reduced by an exact subtraction. A phase of ``t`` turns has an error of about ``2 pi t eps`` radians from
        its product; sums run in lanes over at most 4224 points, then in float64.

    Differentiable in all tensors, to every order; works under ``torch.func`` and ``torch.compile``. Propagates NaN. The same bits for
    every number of threads.

    References:
        Rahaman et al., arXiv:1806.08734, which samples spectra of networks; cycles instead of its angular frequencies by default.

    Example:
        >>> x = torch.arange(4.0)[:, None] / 4
        >>> ndft(x, torch.tensor([[0.0], [1.0]]), torch.cos(2 * torch.pi * x[:, 0])).abs().round(decimals=4)
        tensor([0., 2.])
    """
    if units not in get_args(Units):
        raise ValueError(f"ndft: units must be 'cycles' or 'angular', got {units!r}")
    if sign not in (-1, 1):
        raise ValueError(f"ndft: sign must be -1 or 1, got {sign!r}")
    if norm not in ("none", "mean"):
        raise ValueError(f"ndft: norm must be 'none' or 'mean', got {norm!r}")
    if phase_dtype is not None and phase_dtype not in (torch.float32, torch.float64):
        raise ValueError(f"ndft: phase_dtype must be torch.float32 or torch.float64, got {phase_dtype}")
    dtype = points.dtype
    columns = values[:, None] if values.ndim == 1 else values
    if values.is_complex():
        columns = torch.cat([columns.real, columns.imag], 1)
    if units == "angular":
        frequencies = (frequencies.double() / (2 * math.pi)).to(
            frequencies.dtype if phase_dtype is None else phase_dtype
        )
    if phase_dtype is not None:
        points, frequencies, columns = points.to(phase_dtype), frequencies.to(phase_dtype), columns.to(phase_dtype)
    cos, sin = _ndft(frequencies, points, columns).to(dtype).unbind(0)
    if values.is_complex():
        half = columns.shape[1] // 2
        real = cos[:, :half] - sign * sin[:, half:]
        imaginary = cos[:, half:] + sign * sin[:, :half]
    else:
        real, imaginary = cos, sign * sin
    out = torch.complex(real, imaginary)
    if norm == "mean":
        out = out / len(points)
    return out[:, 0] if values.ndim == 1 else out


def ndft_adjoint(
    points: Tensor,
    frequencies: Tensor,
    coefficients: Tensor,
    *,
    units: Units = "cycles",
    sign: Literal[-1, 1] = -1,
    phase_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Adjoint of `ndft`, :math:`f(x_j) = \sum_k c_k e^{\pm 2 \pi i \, k \cdot x_j}`: a function from its coefficients.

    Args:
        points: ``[n, d]``, float32 or float64, any strides.
        frequencies: ``[k, d]``, dtype of ``points``.
        coefficients: ``[k]`` or ``[k, c]``, of that dtype or complex of that precision.
        units: of the frequencies, as in `ndft`.
        sign: that of the `ndft` whose adjoint it is: the exponent here has the other one.
        phase_dtype: as in `ndft`.

    Returns:
        Complex ``[n]`` or ``[n, c]``.

    Raises:
        ValueError: as `ndft`.

    Cost:
        That of `ndft`.

    Accuracy:
        That of `ndft`.

    Differentiable in all tensors, to every order.

    References:
        As `ndft`: its conjugate transpose.

    Example:
        >>> x, k = torch.rand(5, 2), torch.rand(3, 2)
        >>> v, c = torch.randn(5), torch.randn(3)
        >>> bool((torch.vdot(c + 0j, ndft(x, k, v)) - torch.vdot(ndft_adjoint(x, k, c), v + 0j)).abs() < 1e-4)
        True
    """
    if frequencies.ndim == 2 and units == "angular":
        frequencies, units = (frequencies.double() / (2 * math.pi)).to(phase_dtype or frequencies.dtype), "cycles"
        points = points if phase_dtype is None else points.to(phase_dtype)
    back: Literal[-1, 1] = 1 if sign == -1 else -1
    return ndft(frequencies, points, coefficients, units=units, sign=back, phase_dtype=phase_dtype)
