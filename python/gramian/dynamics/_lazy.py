"""Networks that learn lazily: linearised in their parameters, or with outputs scaled up."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gramian.ntk._matrix_free import differentiable
from gramian.ntk._recording import check

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Linearized", "Scaled", "linearize", "scale_output"]


class Linearized(nn.Module):
    """A network's first-order expansion in its parameters: a linear model of its tangent features."""

    def __init__(self, model: nn.Module) -> None:
        """Expand around the parameters of `model`, which is copied and left alone."""
        super().__init__()
        check(model)
        self._model = [copy.deepcopy(model).requires_grad_(False)]  # in a list: its parameters are not this module's
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.change = nn.ParameterList(torch.zeros_like(p) for p in model.parameters() if p.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``f_0(x) + J_0(x) (w - w_0)``."""
        frozen = self._model[0]
        at = {name: p for name, p in frozen.named_parameters() if name in self._names}

        def outputs(weights: dict[str, Tensor]) -> Any:
            return torch.func.functional_call(frozen, weights, (x,))

        with differentiable():
            out, change, *_ = torch.func.jvp(outputs, (at,), (dict(zip(self._names, self.change, strict=True)),))
        result: Tensor = out + change
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linearized:
        self._model[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]  # .to(device) moves the copy too
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def linearize(model: nn.Module) -> Linearized:
    r"""Linearise a network in its parameters, :math:`f_\mathrm{lin}(x) = f_0(x) + J_0(x) (w - w_0)`.

    Args:
        model: any module of one tensor; copied as it is, in its mode.

    Returns:
        A module to train like the network: its parameters ``change`` are :math:`w - w_0`, zero at first, one for each
        parameter of the network that requires a gradient, in their order.

    Raises:
        ValueError: batch normalisation or dropout in training mode.

    Cost:
        About two forward passes, and a backward pass of twice the network's.

    Accuracy:
        The network's own.

    Differentiable in the parameters and in ``x``.

    References:
        George, Lajoie and Baratin, Lazy vs hasty, arXiv:2209.09658 (linearised training).

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> linear, x = linearize(model), torch.ones(1, 2)
        >>> torch.equal(linear(x), model(x))
        True
    """
    return Linearized(model)


class Scaled(nn.Module):
    """A network's change since the start, times a factor."""

    def __init__(self, model: nn.Module, alpha: float, *, keep_start: bool) -> None:
        """Train `model` itself; its start is copied."""
        super().__init__()
        self.model, self.alpha, self.keep_start = model, alpha, keep_start
        self._start = [copy.deepcopy(model).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``alpha (f_w(x) - f_0(x))``, plus ``f_0(x)`` if the start is kept."""
        start: Tensor = self._start[0](x)
        change: Tensor = self.alpha * (self.model(x) - start)
        return change + start if self.keep_start else change

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scaled:
        self._start[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def scale_output(model: nn.Module, alpha: float, *, keep_start: bool = False) -> Scaled:
    r"""Scale what a network learns: :math:`f_\alpha = \alpha (f_w - f_{w_0})`.

    Train it with a loss (or a learning rate) divided by :math:`\alpha^2`: the start and the first rate of change of the
    function then do not depend on :math:`\alpha`. Large :math:`\alpha` is the lazy regime, in which the network stays
    near its linearisation; around 1 features are learned.

    Args:
        model: any module of one tensor; it is the one that is trained. Its start is copied.
        alpha: positive.
        keep_start: add :math:`f_{w_0}`: runs of different ``alpha`` then fork from one network.

    Returns:
        A module around ``model``, with its parameters.

    Raises:
        ValueError: ``alpha`` not positive.

    Cost:
        Two forward passes.

    Accuracy:
        The difference cancels: relative error ``eps |f| / |f - f_0|``.

    Differentiable like the network.

    References:
        George, Lajoie and Baratin, arXiv:2209.09658; Chizat, Oyallon and Bach, arXiv:1812.07956.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> scale_output(model, 10.0)(torch.ones(1, 2)).item()
        0.0
    """
    if not alpha > 0:
        raise ValueError(f"scale_output: alpha must be positive, got {alpha}")
    return Scaled(model, alpha, keep_start=keep_start)
