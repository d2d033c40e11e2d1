"""Descent that re-weights its features."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SuperNat"]


class SuperNat:
    r"""Gradient descent on a linear model whose features are re-weighted at every step to keep its complexity low.

    The complexity of a run is bounded by :math:`\sum_t |\delta w_t|_2 |\Phi_t|_F / n`. Of all weights of the modes of
    :math:`\Phi = \sum_j \sqrt{\lambda_j} u_j v_j^\top`, the same step of the function costs least where mode j has
    :math:`\lambda_j |u_j^\top \nabla_f L|` for :math:`\lambda_j`: modes along the residual are kept, the rest is damped.
    (By Cauchy and Schwarz: the step needs :math:`|\delta w|^2 = \eta^2 \sum_j \lambda_j^2 g_j^2 / s_j^2` with features of
    squared singular values :math:`s_j^2`, of norm :math:`\sum_j s_j^2`; the product is least at that choice.)

    Baratin et al., arXiv:2008.00938.

    Attributes:
        weights: ``[p, c]`` of the model ``features @ weights`` in the features as given.
        bound: the sum so far.
    """

    def __init__(self, features: Tensor, outputs: int = 1, *, rate: float = 1.0, reweight: bool = True) -> None:
        """Take ``[n, p]`` features; without re-weighting this is gradient descent of the given rate."""
        if features.ndim != 2:
            raise ValueError(f"SuperNat: features must be [n, p], got shape {tuple(features.shape)}")
        self._u, self._scale, self._v = torch.linalg.svd(features, full_matrices=False)
        self._spectrum = self._scale.square()
        self._total = self._spectrum.sum()
        self.rate, self.reweight = rate, reweight
        self.weights = features.new_zeros(features.shape[1], outputs)
        self.bound = 0.0

    def step(self, gradient: Tensor) -> None:
        """Move along minus ``gradient`` ``[n, c]`` of the loss by the outputs, in the features as they are now weighted."""
        along = self._u.mT @ gradient
        size = along.norm(dim=1)
        if self.reweight and size.max() > 0:
            weighted = self._spectrum * size
            if weighted.sum() > 0:
                self._spectrum = weighted * (self._total / weighted.sum())  # what changes is the shape, not the size
        move = self.rate * (self._spectrum * size.square()).sum().sqrt()
        norm = self._spectrum.sum().sqrt()
        share = torch.where(self._scale > 0, self._spectrum / self._scale.where(self._scale > 0, 1), 0)
        self.weights = self.weights - self.rate * self._v.mT @ (share[:, None] * along)
        self.bound += float(move * norm) / len(gradient)
