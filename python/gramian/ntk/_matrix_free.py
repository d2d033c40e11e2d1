"""Tangent kernels that are too large to keep: products with vectors, top eigenpairs, diagonal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gramian._lanczos import Eigenpairs, lanczos

from ._empirical import samples_at_once
from ._recording import Factors, check, factors_of, record, selected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Eigenpairs", "ntk_diagonal", "ntk_top", "ntk_trace", "ntk_vp"]

_BLOCK = 1024  # rows of a streamed kernel, and most samples of a product, when nobody says
_KEPT_BYTES = 128 << 20  # for what a backward pass keeps of the forward one; a larger share was no faster


@contextmanager
def differentiable() -> Iterator[None]:
    """Keep torch from its fused attention and encoder layers, which have no forward derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def checked_block_size(op: str, block_size: int | None) -> int:
    if block_size is not None and block_size < 1:
        raise ValueError(f"{op}: block_size must be at least 1, got {block_size}")
    return _BLOCK if block_size is None else block_size


def most_products(op: str, k: int, size: int, max_iter: int | None) -> int:
    """Return how many steps Lanczos may take to k of so many eigenpairs."""
    if not 1 <= k <= size:
        raise ValueError(f"{op}: k must be from 1 to n c = {size}, got {k}")
    most = min(size, 10 * k + 100 if max_iter is None else max_iter)
    if most < k:
        raise ValueError(f"{op}: max_iter must be at least k = {k}, got {max_iter}")
    return most


def _one_sample(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Return the output, and the bytes that a backward pass would need beside the parameters."""
    kept: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        kept[saved.data_ptr()] = saved.numel() * saved.element_size()
        return saved

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = model(x)
    for p in model.parameters():
        kept.pop(p.data_ptr(), None)
    return out.detach(), sum(kept.values())


class _Operator:
    """v -> K v by a backward and a forward derivative of the network, a block of samples at a time."""

    def __init__(
        self, op: str, model: nn.Module, x: Tensor, params: Sequence[str] | None, block_size: int | None
    ) -> None:
        most = checked_block_size(op, block_size)
        if len(x) == 0:
            raise ValueError(f"{op}: x must have at least one sample, got 0")
        check(model)
        wanted = set(selected(model, params).values())
        self.model = model
        everything = {name: p.detach() for name, p in model.named_parameters()}
        self.weights = {name: p for name, p in everything.items() if name in wanted}
        self.fixed = {name: p for name, p in everything.items() if name not in wanted}
        out, kept = _one_sample(model, x[:1])
        self.blocks = torch.split(x, block_size or max(1, min(most, _KEPT_BYTES // max(1, kept))))
        if out.ndim not in (1, 2) or len(out) != 1:
            raise ValueError(f"{op}: model must give [n, c] or [n] for n samples, got shape {tuple(out.shape)} for one")
        self.shape = (len(x), 1 if out.ndim == 1 else out.shape[1])
        self.dtype, self.device = out.dtype, out.device

    def _function(self, block: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
        def outputs(weights: dict[str, Tensor]) -> Tensor:
            out: Tensor = torch.func.functional_call(self.model, {**self.fixed, **weights}, (block,))
            return out.reshape(len(block), -1)

        return outputs

    def __call__(self, v: Tensor) -> Tensor:
        """Return ``K v`` for ``[n, c]``."""
        return self.push(self.pull(v))

    def pull(self, v: Tensor) -> dict[str, Tensor]:
        """Return ``Jᵀ v``, by parameter."""
        gradient = {name: torch.zeros_like(p) for name, p in self.weights.items()}
        with differentiable():
            for block, part in zip(self.blocks, torch.split(v, [len(b) for b in self.blocks]), strict=True):
                pull = torch.func.vjp(self._function(block), self.weights)[1]
                for name, g in pull(part)[0].items():
                    gradient[name] += g
        return gradient

    def push(self, gradient: dict[str, Tensor]) -> Tensor:
        """Return ``J g``, ``[n, c]``."""
        with differentiable():
            products = [torch.func.jvp(self._function(b), (self.weights,), (gradient,))[1] for b in self.blocks]
        return torch.cat(products)


def ntk_vp(
    model: nn.Module, x: Tensor, v: Tensor, *, params: Sequence[str] | None = None, block_size: int | None = None
) -> Tensor:
    r"""Product of the tangent kernel of a network with vectors, :math:`K v = J (J^\top v)`, without the kernel.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample.
        x: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        v: ``[n, c]``, or ``[n, c, k]``: ``k`` vectors; in the dtype of the outputs.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as a backward pass keeps 128 MiB of,
            at most 1024.

    Returns:
        The product, shape and dtype of ``v``.

    Raises:
        ValueError: batch normalisation or dropout in training mode, a ``v`` that does not fit, an unknown name in
            ``params``, an output that is not ``[n, c]``, no samples, ``block_size`` below 1.

    Cost:
        For each vector one forward and one backward pass, and one pass forward with tangents: about five forward passes.
        Memory: that of a backward pass over a block, and a gradient.

    Accuracy:
        That of the network's derivatives in its dtype.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> ntk_vp(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0], [0.0]]))
        tensor([[1.],
                [1.]])
    """
    operator = _Operator("ntk_vp", model, x, params, block_size)
    if v.shape[:2] != operator.shape or v.ndim not in (2, 3):
        raise ValueError(f"ntk_vp: v must be [n, c] = {operator.shape} or [n, c, k], got shape {tuple(v.shape)}")
    if v.dtype != operator.dtype:
        raise ValueError(f"ntk_vp: v must be {operator.dtype} like the outputs, got {v.dtype}")
    if v.ndim == 2:
        return operator(v.detach())
    return torch.stack([operator(column) for column in v.detach().unbind(2)], 2) if v.shape[2] else v.clone()


def ntk_top(
    model: nn.Module,
    x: Tensor,
    k: int,
    *,
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    tol: float = 1e-5,
    max_iter: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Eigenpairs:
    r"""Largest eigenvalues of the tangent kernel of a network and their vectors, without the kernel, by Lanczos.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample.
        x: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        k: eigenpairs, from 1 to ``n c``.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as a backward pass keeps 128 MiB of,
            at most 1024.
        tol: stop when all residuals are below this share of the largest eigenvalue.
        max_iter: most products with the kernel; ``10 k + 100`` by default, never more than ``n c``.
        generator: of the random start; torch's own without it.
        progress: show a bar over the products (with tqdm installed).

    Returns:
        ``Eigenpairs(values, vectors, residuals, converged)``: ``[k]`` float64, ``[n, c, k]`` in the dtype of the outputs, of
        length one, their signs as they come; ``[k]`` estimates of the residuals. Where ``max_iter`` comes first,
        ``converged`` is False and the values are lower bounds.

    Raises:
        ValueError: ``k`` out of range, and what `ntk_vp` refuses.

    Cost:
        A few times ``k`` products (`ntk_vp`), at most ``max_iter``. Memory: as many vectors of length ``n c`` in float64.

    Accuracy:
        Every vector is made orthogonal to all before it, twice, in float64; the products have the network's dtype, so
        residuals below its rounding are not reached.

    The model stays as it was. The result carries no gradient.

    References:
        Lanczos, Journal of Research of the National Bureau of Standards 45, 1950. The spectrum of the tangent kernel:
        Baratin et al., arXiv:2008.00938.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> ntk_top(model, torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1).values.round(decimals=4)
        tensor([9.], dtype=torch.float64)
    """
    op = "ntk_top"
    operator = _Operator(op, model, x, params, block_size)
    size = operator.shape[0] * operator.shape[1]
    most = most_products(op, k, size, max_iter)

    def product(q: Tensor) -> Tensor:
        return operator(q.to(operator.dtype).view(operator.shape)).flatten().double()

    found = lanczos(
        product,
        size,
        k,
        eps=torch.finfo(operator.dtype).eps,
        tol=tol,
        most=most,
        device=operator.device,
        generator=generator,
        progress=progress,
    )
    return found._replace(vectors=found.vectors.to(operator.dtype).view(*operator.shape, k))


def ntk_diagonal(
    model: nn.Module, x: Tensor, *, params: Sequence[str] | None = None, block_size: int | None = None
) -> Tensor:
    r"""Diagonal of the tangent kernel, :math:`K[n, c, n, c] = |\partial f_c(x_n) / \partial w|^2`.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample.
        x: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as keep the layers' inputs and gradients
            within 128 MiB.

    Returns:
        ``[n, c]``, float64 for a float64 model, else float32.

    Raises:
        ValueError: what `empirical_ntk` refuses.

    Cost:
        One forward pass, one backward pass with all outputs as a batch, and for each layer the smaller of
        ``n T (T (d_in + c d_out))`` and ``n c T d_in d_out`` multiply-adds.

    Accuracy:
        That of the backward pass; sums in the dtype of the model.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> ntk_diagonal(torch.nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
        tensor([[6.],
                [1.]])
    """
    most = checked_block_size("ntk_diagonal", block_size)
    if len(x) == 0:
        raise ValueError("ntk_diagonal: x must have at least one sample, got 0")
    size = min(most, samples_at_once(model, x, "full", params, block_size, _KEPT_BYTES))
    blocks = [
        torch.stack([_squares(f) for f in factors_of(record(model, block, "full", params))]).sum(0)
        for block in torch.split(x, size)
    ]
    return torch.cat(blocks)


def _squares(f: Factors) -> Tensor:
    """``|J[n, c]|²`` of one layer by the cheaper route."""
    a, g = f.flat, f.g
    gram: Tensor
    if f.equal:  # an embedding: the activation Gram is an equality test
        gram = (a == a.mT).to(g.dtype) + int(f.bias)
    elif a.shape[1] * (a.shape[2] + g.shape[1] * g.shape[3]) <= g.shape[1] * a.shape[2] * g.shape[3]:
        gram = a @ a.mT + int(f.bias)
    else:
        jacobian = g.mT @ a.unsqueeze(1)
        bias = g.sum(2).square().sum(-1) if f.bias else 0
        return jacobian.square().sum((-2, -1)) + bias
    pairs: Tensor = (g @ g.mT) * gram.unsqueeze(1)
    return pairs.sum((-2, -1))


def ntk_trace(
    model: nn.Module, x: Tensor, *, params: Sequence[str] | None = None, block_size: int | None = None
) -> Tensor:
    r"""Trace of the tangent kernel, :math:`\sum_{n, c} |\partial f_c(x_n) / \partial w|^2`.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample.
        x: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as keep the layers' inputs and gradients
            within 128 MiB.

    Returns:
        Scalar tensor, float64.

    Raises:
        ValueError: what `empirical_ntk` refuses.

    Cost:
        That of `ntk_diagonal`.

    Accuracy:
        The entries of `ntk_diagonal`, added in float64.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> ntk_trace(torch.nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
        tensor(7., dtype=torch.float64)
    """
    return ntk_diagonal(model, x, params=params, block_size=block_size).double().sum()
