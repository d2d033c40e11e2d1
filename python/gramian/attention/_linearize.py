"""Attention at one input, prepared for many products with its Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._ops import Gradients, Kind, _jtj, _jvp, _linearize, _vjp, four, is_l2

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Linearized:
    """Attention at ``(q, k, v)``, as `linearize` leaves it: its products with directions are those of `jvp`, `vjp` and `jtj`."""

    inputs: tuple[Tensor, Tensor, Tensor]
    options: tuple[Tensor | None, bool, float | None, bool]
    state: Tensor | None

    def jvp(self, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
        """The derivative along ``(dq, dk, dv)``, see `attention.jvp`."""
        q, _, v = self.inputs
        out: Tensor = _jvp(*self._four(), *map(four, (dq, dk, dv)), *self.options, self.state)
        return out.view(*q.shape[:-1], v.shape[-1])

    def vjp(self, g: Tensor) -> Gradients:
        """The gradients for ``g`` at the output, see `attention.vjp`."""
        return self._like(_vjp(*self._four(), four(g), *self.options, self.state))

    def jtj(self, dq: Tensor, dk: Tensor, dv: Tensor, *, mix: Tensor | None = None) -> Gradients:
        """Both, one after the other, see `attention.jtj`."""
        return self._like(_jtj(*self._four(), *map(four, (dq, dk, dv)), mix, *self.options, self.state))

    def _four(self) -> list[Tensor]:
        return [four(x) for x in self.inputs]

    def _like(self, parts: Sequence[Tensor]) -> Gradients:
        return Gradients(*(part.view(x.shape) for part, x in zip(parts, self.inputs, strict=True)))


def linearize(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    kind: Kind = "dot",
    keep: bool | None = None,
) -> Linearized:
    r"""Attention at ``(q, k, v)``, prepared for many products with its Jacobian :math:`\partial O / \partial (q, k, v)`.

    Packed inputs, outputs, and the probabilities, or from which to recompute each: the largest score of its row and the sum.

    Args:
        q: ``[batch, heads, n, d]`` float32 or float64, any strides; leading axes may be left out, here and below.
        k: ``[batch, heads, m, d]``.
        v: ``[batch, heads, m, dv]``.
        mask: bool, broadcast to ``[batch, heads, n, m]``, True where a query may look. None: everywhere.
        is_causal: query ``i`` looks at keys ``j <= i`` only.
        scale: ``c``; None: ``1 / sqrt(d)``.
        kind: the score, ``"dot"`` or ``"l2"``.
        keep: whether to keep the probabilities. None: if all that is kept fits into 1 GiB; reading one takes less time than
            ``2 d`` flops and an exponential. On CUDA they are always recomputed.

    Returns:
        `Linearized`, with methods ``jvp(dq, dk, dv)``, ``vjp(g)`` and ``jtj(dq, dk, dv, mix=None)``, of the units of `jvp` and `vjp`. It
        refers to ``q``, ``k`` and ``v``: do not change them.

    Raises:
        ValueError: wrong shape, dtype or device; nothing to attend to; a mask that is not bool; an unknown kind.

    Cost:
        ``4 n m d`` flops a head here; then ``8 n m d`` for ``jvp`` and for ``vjp`` and 16 for ``jtj``, each 2 more for probabilities that
        are recomputed. Memory: ``O((n + m) d)``, and ``n m`` values a head that are kept.

    Accuracy:
        As `jvp`. The same bits whether probabilities are kept or not.

    Not differentiable; products are, as those of `jvp` are. On devices without the op nothing is prepared. The same bits for every number of threads.

    References:
        The Jacobian of attention: arXiv:2102.05628; the formula is derived in docs/how-it-works/attention.md.

    Example:
        >>> x, zero = torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1)
        >>> linearize(x, x, x).jvp(zero, zero, torch.tensor([[1.0], [3.0]]))
        tensor([[2.],
                [2.]])
    """
    options = (None if mask is None else four(mask), is_causal, scale, is_l2("attention.linearize", kind))
    state = None
    if q.device.type in ("cpu", "cuda"):
        with torch.no_grad():
            state = _linearize(*(four(x) for x in (q, k, v)), *options, keep)
    return Linearized((q, k, v), options, state)
