"""What is read off a tangent kernel: centring, alignment with another kernel or with labels, spectrum."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

__all__ = [
    "alignment",
    "center",
    "effective_rank",
    "label_alignment",
    "label_energy",
    "label_kernel",
    "spectrum",
    "trace_ratio",
]


def _matrix(op: str, name: str, kernel: Tensor) -> Tensor:
    """Return ``[n, m]`` as it is and ``[n, m, c, c]`` as the matrix ``[n c, m c]``."""
    if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3]:
        return kernel.permute(0, 2, 1, 3).reshape(kernel.shape[0] * kernel.shape[2], -1)
    if kernel.ndim != 2:
        raise ValueError(f"{op}: {name} must be [n, m] or [n, m, c, c], got shape {tuple(kernel.shape)}")
    return kernel


def _square(op: str, name: str, kernel: Tensor) -> Tensor:
    matrix = _matrix(op, name, kernel)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{op}: {name} must be square, got shape {tuple(kernel.shape)}")
    return matrix


def center(K: Tensor) -> Tensor:  # noqa: N803
    r"""Centre a kernel, ``K_c = H K H`` with ``H = I - 11ᵀ/n``: the kernel of features whose mean over samples is zero.

    Args:
        K: ``[n, m]`` or ``[n, m, c, c]`` (each pair of outputs is centred by itself); floating, any strides.

    Returns:
        The centred kernel, shape, dtype, device and unit of ``K``; its rows and columns sum to zero over samples.

    Raises:
        ValueError: ``K`` is neither ``[n, m]`` nor ``[n, m, c, c]``.

    Cost:
        Row and column means: a few reads of ``K``; ``H`` is never formed. Extra memory: the result.

    Accuracy:
        A few ulp of the largest mean.

    Differentiable, works under ``torch.func`` and ``torch.compile``.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> center(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    _matrix("center", "K", K)
    over_rows, over_cols = K.mean(0, keepdim=True), K.mean(1, keepdim=True)
    return K - over_rows - over_cols + over_rows.mean(1, keepdim=True)


def alignment(K: Tensor, L: Tensor, *, centered: bool = True) -> Tensor:  # noqa: N803
    r"""Kernel alignment ``A(K, L) = ⟨K_c, L_c⟩ / (|K_c| |L_c|)`` in the Frobenius product (centred kernel alignment).

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]``; floating.
        L: a kernel of the same shape and dtype.
        centered: centre both first (`center`).

    Returns:
        Scalar tensor, dimensionless; in ``[0, 1]`` for positive semi-definite kernels, NaN when one of them is constant.

    Raises:
        ValueError: ``K`` is not square, or ``L`` has another shape.

    Cost:
        A few reads of both; extra memory: the centred copies.

    Accuracy:
        Relative error about ``eps sqrt(n)`` of a sum of products.

    Differentiable, works under ``torch.func`` and ``torch.compile``.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> alignment(torch.eye(3), 2 * torch.eye(3))
        tensor(1.)
    """
    _square("alignment", "K", K)
    if L.shape != K.shape:
        raise ValueError(f"alignment: L must have the shape of K {tuple(K.shape)}, got {tuple(L.shape)}")
    left, right = (center(K), center(L)) if centered else (K, L)
    return (left * right).sum() / (left.square().sum() * right.square().sum()).sqrt()


def _one_hot(op: str, y: Tensor, classes: int | None, dtype: torch.dtype) -> Tensor:
    if y.ndim == 2:
        return y.to(dtype)
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"{op}: y must be [n] class numbers or [n, c] targets, got shape {tuple(y.shape)} {y.dtype}")
    return torch.nn.functional.one_hot(y.long(), -1 if classes is None else classes).to(dtype)


def label_kernel(y: Tensor, classes: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Kernel of the labels, ``Y Yᵀ`` with one-hot rows ``Y [n, c]``: 1 where two samples share their class, else 0.

    Args:
        y: ``[n]`` class numbers from 0, or ``[n, c]`` targets that take the place of ``Y``.
        classes: number of classes; by default one more than the largest number.
        dtype: of the result.

    Returns:
        ``[n, n]``, dimensionless, symmetric.

    Raises:
        ValueError: ``y`` is neither of the two forms.

    Cost:
        ``2 n² c`` flops; extra memory ``n c``.

    Accuracy:
        Exact for class numbers.

    Differentiable in real targets.

    References:
        Baratin et al., arXiv:2008.00938 (alignment with the labels).

    Example:
        >>> label_kernel(torch.tensor([0, 1, 0]))
        tensor([[1., 0., 1.],
                [0., 1., 0.],
                [1., 0., 1.]])
    """
    one_hot = _one_hot("label_kernel", y, classes, dtype)
    return one_hot @ one_hot.mT


def label_alignment(
    K: Tensor,  # noqa: N803
    y: Tensor,
    *,
    labels: Literal["kernel", "vector"] = "kernel",
) -> Tensor:
    r"""Alignment of a tangent kernel with the labels, in one of the two forms in use.

    ``"kernel"`` is ``A(Σ_c K_cc, Y Yᵀ)`` over pairs of samples. ``"vector"`` is ``yᵀ K_c y / (|K_c| |y|²)``, where ``y``
    holds all ``n c`` centred one-hot labels and ``K`` is the full kernel: it asks that output ``c`` of a sample aligns
    with label ``c`` too. The two differ when there is more than one output.

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]``; ``"vector"`` needs the latter.
        y: ``[n]`` class numbers, or ``[n, c]`` targets.
        labels: the form.

    Returns:
        Scalar tensor, dimensionless, in ``[0, 1]`` for a positive semi-definite kernel.

    Raises:
        ValueError: ``K`` is not square or does not fit the form, ``y`` does not fit ``K``, ``labels`` is unknown.

    Cost:
        A few reads of ``K``; extra memory: a centred copy.

    Accuracy:
        Relative error about ``eps sqrt(n)`` of a sum of products.

    Differentiable in ``K``.

    References:
        Baratin et al., arXiv:2008.00938; ``"vector"`` is the form of the authors' code.

    Example:
        >>> y = torch.tensor([0, 1, 0])
        >>> label_alignment(label_kernel(y), y)
        tensor(1.)
    """
    _square("label_alignment", "K", K)
    full = K.ndim == 4
    if labels not in ("kernel", "vector"):
        raise ValueError(f"label_alignment: labels must be 'kernel' or 'vector', got {labels!r}")
    if labels == "vector" and not full:
        raise ValueError(f"label_alignment: K must be [n, n, c, c] for labels='vector', got shape {tuple(K.shape)}")
    one_hot = _one_hot("label_alignment", y, K.shape[-1] if full else None, K.dtype)
    if one_hot.shape[0] != K.shape[0] or (labels == "vector" and one_hot.shape[1] != K.shape[-1]):
        raise ValueError(
            f"label_alignment: y must have a label for each sample of K {tuple(K.shape)}, got {tuple(y.shape)}"
        )
    if labels == "kernel":
        return alignment(torch.einsum("nmcc->nm", K) if full else K, one_hot @ one_hot.mT)
    vector = (one_hot - one_hot.mean(0)).reshape(-1)
    matrix = _matrix("label_alignment", "K", center(K))
    return torch.dot(vector, matrix @ vector) / (matrix.square().sum().sqrt() * vector.square().sum())


def label_energy(K: Tensor, y: Tensor) -> Tensor:  # noqa: N803
    r"""Share of the labels that each mode of a centred kernel holds, :math:`\|u_j^\top y\|^2 / \|y\|^2`, the top mode first.

    Args:
        K: ``[n, n]``, or ``[n, n, c, c]``, whose modes are over pairs of sample and output; symmetric, float32 or float64.
        y: ``[n]`` class numbers, or ``[n, c]`` targets; centred over the samples.

    Returns:
        ``[n]`` or ``[n c]``, in the order of ``spectrum(center(K))``, dimensionless; it sums to 1.

    Raises:
        ValueError: ``K`` is not square, ``y`` does not fit ``K``.

    Cost:
        ``9 n³`` flops (LAPACK); extra memory: a centred copy and the eigenvectors.

    Accuracy:
        That of the eigenvectors: where eigenvalues are close only the sum over them is determined.

    Differentiable where eigenvalues are distinct.

    References:
        Baratin et al., arXiv:2008.00938 (the top modes align with the labels).

    Example:
        >>> label_energy(label_kernel(torch.tensor([0, 1, 0, 1])), torch.tensor([0, 1, 0, 1]))[0].round(decimals=4)
        tensor(1.)
    """
    _square("label_energy", "K", K)
    full = K.ndim == 4
    one_hot = _one_hot("label_energy", y, K.shape[-1] if full else None, K.dtype)
    if one_hot.shape[0] != K.shape[0] or (full and one_hot.shape[1] != K.shape[-1]):
        raise ValueError(
            f"label_energy: y must have a label for each sample of K {tuple(K.shape)}, got {tuple(y.shape)}"
        )
    targets = one_hot - one_hot.mean(0)
    modes = torch.linalg.eigh(_matrix("label_energy", "K", center(K))).eigenvectors.flip(1)
    along = modes.mT @ (targets.reshape(-1, 1) if full else targets)
    return cast("Tensor", along.square().sum(1) / targets.square().sum())


def spectrum(K: Tensor, k: int | None = None) -> Tensor:  # noqa: N803
    """Eigenvalues of a kernel, largest first.

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]`` (the spectrum of the matrix ``[n c, n c]``), symmetric; float32 or float64.
        k: only the ``k`` largest.

    Returns:
        ``[k]`` or ``[n]`` or ``[n c]``, in the unit of ``K``, descending.

    Raises:
        ValueError: ``K`` is not square, or ``k`` is not between 1 and the number of rows.

    Cost:
        ``4/3 n³`` flops (LAPACK); extra memory: a copy of ``K``.

    Accuracy:
        Absolute error about ``eps`` times the largest eigenvalue.

    Differentiable.

    References:
        Baratin et al., arXiv:2008.00938 (spectrum of the tangent kernel).

    Example:
        >>> spectrum(torch.diag(torch.tensor([1.0, 3.0])))
        tensor([3., 1.])
    """
    matrix = _square("spectrum", "K", K)
    if k is not None and not 1 <= k <= matrix.shape[0]:
        raise ValueError(f"spectrum: k must be between 1 and {matrix.shape[0]}, got {k}")
    return cast("Tensor", torch.linalg.eigvalsh(matrix)).flip(0)[:k]


def _eigenvalues(op: str, kernel_or_values: Tensor) -> Tensor:
    if kernel_or_values.ndim == 1:
        return kernel_or_values
    return cast("Tensor", torch.linalg.eigvalsh(_square(op, "K", kernel_or_values))).flip(0)


def effective_rank(K: Tensor) -> Tensor:  # noqa: N803
    r"""Effective rank ``exp(-Σ p log p)`` with ``p = λ / Σ λ``: how many directions the spectrum is spread over.

    Args:
        K: a kernel as for `spectrum`, or its eigenvalues ``[n]``. Negative eigenvalues, which rounding makes, count as 0.

    Returns:
        Scalar tensor between 1 and the number of eigenvalues; NaN for a zero kernel.

    Raises:
        ValueError: ``K`` is neither a square kernel nor a vector.

    Cost:
        That of `spectrum` for a kernel, ``n`` for eigenvalues.

    Accuracy:
        That of the eigenvalues.

    Differentiable.

    References:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.

    Example:
        >>> effective_rank(torch.eye(4))
        tensor(4.)
    """
    values = _eigenvalues("effective_rank", K).clamp(min=0)
    p = values / values.sum()
    return cast("Tensor", torch.special.entr(p)).sum().exp()


def trace_ratio(K: Tensor, k: int) -> Tensor:  # noqa: N803
    """Share ``Σ_{j<k} λ_j / Σ_j λ_j`` of the ``k`` largest eigenvalues in the trace.

    Args:
        K: a kernel as for `spectrum`, or its eigenvalues ``[n]``, largest first.
        k: how many, from 1 to the number of eigenvalues.

    Returns:
        Scalar tensor in ``[0, 1]``, dimensionless.

    Raises:
        ValueError: ``K`` is neither a square kernel nor a vector, or ``k`` is out of range.

    Cost:
        That of `spectrum` for a kernel, ``n`` for eigenvalues.

    Accuracy:
        That of the eigenvalues.

    Differentiable.

    References:
        Baratin et al., arXiv:2008.00938 (trace ratios).

    Example:
        >>> trace_ratio(torch.diag(torch.tensor([1.0, 3.0])), 1)
        tensor(0.7500)
    """
    values = _eigenvalues("trace_ratio", K)
    if not 1 <= k <= len(values):
        raise ValueError(f"trace_ratio: k must be between 1 and {len(values)}, got {k}")
    return values[:k].sum().div(values.sum())
