"""Exact spectra of piecewise linear networks along a segment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ._relu_network import CHUNK, Network, check_end, check_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pieces", "edge_factors", "pieces_fourier", "relu_line", "relu_line_spectrum"]

_MERGED = 4 * torch.finfo(torch.float64).eps  # knots nearer than this, of the segment, are one


class Pieces(NamedTuple):
    """A piecewise linear function on a segment, exact between knots.

    Attributes:
        t: ``[pieces + 1]`` float64 knots, ascending from 0 to 1.
        values: ``[pieces + 1, c]`` float64 at the knots.
    """

    t: Tensor
    values: Tensor


def _crossings(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Knots where a unit changes sign within a piece: piece, share of the piece, unit, and which knots are one."""
    negative, positive = z < 0, z > 0
    piece, unit = ((negative[:-1] & positive[1:]) | (positive[:-1] & negative[1:])).nonzero(as_tuple=True)
    before, after = z[piece, unit], z[piece + 1, unit]
    share = before / (before - after)
    order = share.argsort(stable=True)
    order = order[piece[order].argsort(stable=True)]
    piece, unit, share = piece[order], unit[order], share[order]
    at = t[piece] + share * (t[piece + 1] - t[piece])
    return piece, share, unit, at


class _Line:
    def __init__(self, op: str, max_pieces: int | None) -> None:
        self.op, self.max_pieces = op, max_pieces
        self.t = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")

    def split(self, z: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        flat = z.flatten(1)
        piece, share, unit, at = _crossings(self.t, flat)
        # A crossing at a knot (or at the one before it) within rounding is that knot: pieces of no length have no slope.
        low, high = self.t[piece], self.t[piece + 1]
        at_low, at_high = at - low <= _MERGED, high - at <= _MERGED
        inside = ~(at_low | at_high)
        flat = flat.clone()
        flat[piece[at_low], unit[at_low]] = 0
        flat[piece[at_high] + 1, unit[at_high]] = 0
        piece, share, unit, at = piece[inside], share[inside], unit[inside], at[inside]
        first = torch.ones_like(piece, dtype=torch.bool)
        first[1:] = (piece[1:] != piece[:-1]) | (at[1:] - at[:-1] > _MERGED)
        new = first.cumsum(0) - 1  # the new knot of each crossing
        old_piece, old_share = piece[first], share[first]
        total = len(self.t) + len(old_piece)
        if self.max_pieces is not None and total - 1 > self.max_pieces:
            raise ValueError(
                f"{self.op}: max_pieces must be at least {total - 1} for this model, got {self.max_pieces}"
            )
        # An old knot moves up by the new ones before it, a new one by the old ones up to its piece's beginning.
        new_at = old_piece + 1 + torch.arange(len(old_piece), device="cpu")
        old_at = torch.arange(len(self.t), device="cpu") + torch.searchsorted(
            old_piece, torch.arange(len(self.t), device="cpu")
        )

        def spread(value: Tensor) -> Tensor:
            out = value.new_empty((total, *value.shape[1:]))
            out[old_at] = value
            weight = old_share.view(-1, *(1,) * (value.dim() - 1))
            out[new_at] = value[old_piece] + weight * (value[old_piece + 1] - value[old_piece])
            return out

        t = torch.empty(total, dtype=torch.float64, device="cpu")
        t[old_at], t[new_at] = self.t, at[first]
        self.t = t
        grown = spread(flat)
        grown[new_at[new], unit] = 0
        return spread, grown.view(total, *z.shape[1:])

    @staticmethod
    def activate(z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        return activation(z)


def relu_line(model: nn.Module, start: Tensor, end: Tensor, *, max_pieces: int | None = None) -> Pieces:
    r"""Find every kink of a piecewise linear network along a segment, and its exact values: :math:`f(a + t (b - a))`.

    Args:
        model: any module that ``torch.fx`` can trace, of one tensor to one tensor ``[n, c]``: affine layers (linear,
            convolutions, average pooling, reshaping, sums, batch normalisation and dropout in eval mode) with ReLU, LeakyReLU,
            PReLU or ``abs`` between them; residual connections are fine. It is copied to float64.
        start: ``[...]`` input at ``t = 0``, of one sample, without a batch axis.
        end: same shape, input at ``t = 1``.
        max_pieces: refuse to make more pieces than this.

    Returns:
        Knots and values, float64. Knots nearer than 4 units in the last place are one.

    Raises:
        ValueError: an activation that is not piecewise linear (it is named), ends that are not finite or do not fit, too many
            pieces.

    Cost:
        One forward pass in float64 at all knots that the layers up to there have made; pieces grow about in proportion to the
        number of units for random networks. Memory: the widest layer at all knots.

    Accuracy:
        That of a forward pass in float64; a knot is as exact as its unit's slope allows.

    Not differentiable.

    References:
        Rahaman et al., On the Spectral Bias of Neural Networks, arXiv:1806.08734, section 2.1 (the pieces).

    Example:
        >>> relu_line(nn.ReLU(), torch.tensor([-1.0]), torch.tensor([3.0])).t
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    a, b = check_end("relu_line", "start", start), check_end("relu_line", "end", end)
    if a.shape != b.shape:
        raise ValueError(f"relu_line: end must have the shape of start {tuple(a.shape)}, got {tuple(b.shape)}")
    network, line = Network("relu_line", model), _Line("relu_line", max_pieces)
    values = network.run(torch.stack([a, b]), line)
    return Pieces(line.t, values.flatten(1))


def edge_factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """``sin x / x`` and ``(sin x - x cos x) / x^2``, by their series where the closed forms lose digits."""
    small = x.abs() < 0.05
    if not bool(small.any()):
        sine = x.sin()
        even = sine / x
        return even, (even - x.cos()) / x
    apart = torch.where(small, 1, x)
    sine, cosine = apart.sin(), apart.cos()
    even = sine / apart
    odd = (even - cosine) / apart
    square = x * x
    even_series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    odd_series = x / 3 * (1 - square / 10 * (1 - square / 28 * (1 - square / 54 * (1 - square / 88))))
    return torch.where(small, even_series, even), torch.where(small, odd_series, odd)


def pieces_fourier(pieces: Pieces, frequencies: Tensor, *, subtract_chord: bool = False) -> Tensor:
    r"""Give Fourier coefficients of a piecewise linear function in closed form, :math:`\int_0^1 f(t) e^{-2\pi i k t} dt`.

    Args:
        pieces: from `relu_line`.
        frequencies: ``[k]`` in cycles over the segment; need not be integers.
        subtract_chord: take the line from the first value to the last away first. Else the jump between the ends makes
            coefficients fall like 1/k at integers; without it, like 1/k².

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: frequencies of another shape.

    Cost:
        Two sines and two cosines a piece and frequency; memory for some 10⁵ of these at a time.

    Accuracy:
        Each piece is exact to rounding, however short; phases are reduced in turns, to an error of 2 π k times 1e-16.

    Not differentiable.

    References:
        arXiv:1806.08734 section 2.2 (the transform of a piecewise linear function), here with its end points.

    Example:
        >>> hat = Pieces(torch.tensor([0.0, 0.5, 1.0]).double(), torch.tensor([[0.0], [1.0], [0.0]]).double())
        >>> pieces_fourier(hat, torch.tensor([0.0, 1.0])).real.round(decimals=4).flatten()
        tensor([ 0.5000, -0.2026], dtype=torch.float64)
    """
    k = check_frequencies("pieces_fourier", frequencies, 1)
    t, values = pieces
    if subtract_chord:
        values = values - values[0] - t[:, None] * (values[-1] - values[0])
    length, middle = t.diff(), (t[1:] + t[:-1]) / 2
    mean = length[:, None] * (values[1:] + values[:-1]) / 2
    half = length[:, None] * values.diff(dim=0) / 2
    out = torch.empty(len(k), values.shape[1], dtype=torch.complex128, device="cpu")
    for begin in range(0, len(k), step := max(1, CHUNK // max(1, len(length)))):
        part = k[begin : begin + step, None]
        even, odd = edge_factors(math.pi * part * length)
        turns = part * middle
        angle = (turns - turns.round()) * (2 * math.pi)
        cosine, sine = angle.cos(), angle.sin()
        # e^{-i angle} (even mean - i odd half)
        real = (cosine * even) @ mean - (sine * odd) @ half
        imaginary = -((sine * even) @ mean) - (cosine * odd) @ half
        out[begin : begin + step] = torch.complex(real, imaginary)
    return out


def relu_line_spectrum(
    model: nn.Module, start: Tensor, end: Tensor, frequencies: Tensor, *, subtract_chord: bool = False
) -> Tensor:
    r"""Give the exact Fourier coefficients of a piecewise linear network along a segment.

    :math:`\int_0^1 f(a + t (b - a)) e^{-2\pi i k t} dt`, from the network's kinks: sampling and an FFT approach it
    like the number of samples (2¹⁶ of them: to 1e-5 of the largest coefficient for a network of 6 x 256 units).

    Args:
        model: see `relu_line`.
        start: see `relu_line`.
        end: see `relu_line`.
        frequencies: ``[k]`` in cycles over the segment.
        subtract_chord: see `pieces_fourier`.

    Returns:
        ``[k, c]`` complex128.

    Raises:
        ValueError: what `relu_line` and `pieces_fourier` refuse.

    Cost:
        That of `relu_line` and `pieces_fourier`.

    Accuracy:
        Float64 throughout: near 1e-14 of the largest value for networks of a few layers.

    Not differentiable.

    References:
        arXiv:1806.08734, sections 2.1 and 2.2.

    Example:
        >>> relu_line_spectrum(nn.ReLU(), torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([0.0])).real
        tensor([[0.2500]], dtype=torch.float64)
    """
    return pieces_fourier(relu_line(model, start, end), frequencies, subtract_chord=subtract_chord)
