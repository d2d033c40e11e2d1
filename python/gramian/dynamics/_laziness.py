"""How far a run has left the lazy regime."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["representation_alignment", "sign_similarity"]


def sign_similarity(first: nn.Module, second: nn.Module, x: Tensor) -> float:
    r"""Share of ReLUs that are on in both networks or off in both: 1 in a lazy run, less as features are learned.

    Args:
        first: a network with ``nn.ReLU`` modules (or their inputs' signs elsewhere do not count).
        second: another of the same structure, usually the first at another time.
        x: ``[n, ...]`` inputs of both.

    Returns:
        From 0 to 1, over all samples and all inputs of all ``nn.ReLU`` modules.

    Raises:
        ValueError: no ``nn.ReLU``, or different structures.

    Cost:
        A forward pass each.

    Accuracy:
        Exact counts.

    The networks stay as they were. Not differentiable.

    References:
        A measure of laziness in arXiv:2209.09658.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU())
        >>> sign_similarity(net, net, torch.randn(5, 3))
        1.0
    """
    signs = [_relu_signs(model, x) for model in (first, second)]
    shapes = [[tuple(s.shape) for s in of] for of in signs]
    if not signs[0] or shapes[0] != shapes[1]:
        raise ValueError(f"sign_similarity: first and second must have the same nn.ReLU modules, got inputs {shapes}")
    same = sum(int((a == b).sum()) for a, b in zip(*signs, strict=True))
    return same / sum(s.numel() for s in signs[0])


def _relu_signs(model: nn.Module, x: Tensor) -> list[Tensor]:
    signs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: signs.append(inputs[0] > 0))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return signs


def representation_alignment(first: Tensor, second: Tensor, *, centered: bool = False) -> Tensor:
    r"""Alignment of two representations of the same samples, :math:`|A^\top B|_F^2 / (|A^\top A|_F |B^\top B|_F)`.

    That is the kernel alignment of :math:`A A^\top` and :math:`B B^\top` (linear CKA if centred).

    Args:
        first: ``[n, p]`` floating.
        second: ``[n, q]`` of the same dtype.
        centered: subtract the means of the features first.

    Returns:
        Scalar tensor from 0 to 1.

    Raises:
        ValueError: shapes that do not fit.

    Cost:
        ``2 n (p^2 + p q + q^2)`` flops, or ``2 n^2 (p + q)`` where that is less.

    Accuracy:
        That of the products.

    Differentiable.

    References:
        Alignment of representations with the start in arXiv:2209.09658; Kornblith et al., arXiv:1905.00414 (linear CKA).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> representation_alignment(x, 3 * x)
        tensor(1.)
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(
            "representation_alignment: first and second must be [n, p] and [n, q], "
            f"got shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if centered:
        first, second = first - first.mean(0), second - second.mean(0)
    n, p, q = len(first), first.shape[1], second.shape[1]
    if n * (p + q) < p * p + p * q + q * q:
        a, b = first @ first.mT, second @ second.mT
        products: Tensor = (a * b).sum() / (a.norm() * b.norm())
        return products
    features: Tensor = (first.mT @ second).square().sum() / ((first.mT @ first).norm() * (second.mT @ second).norm())
    return features
