"""What networks are given to learn: sums of sinusoids, curves that carry them, waves as noise of labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["amplitudes_at", "numbers", "petal", "sinusoids", "wave_noise"]


def numbers(op: str, name: str, given: Tensor | Sequence[float] | float, count: int | None = None) -> Tensor:
    """Return numbers as float64 ``[k]``; one number stands for `count` of them."""
    t = torch.as_tensor(given, dtype=torch.float64)
    t = t.expand(count) if t.dim() == 0 and count is not None else t
    if t.dim() != 1 or (count is not None and len(t) != count):
        wanted = "[k]" if count is None else f"[{count}], one for each frequency,"
        raise ValueError(f"{op}: {name} must be {wanted} got shape {tuple(t.shape)}")
    return t


def sinusoids(
    z: Tensor,
    frequencies: Tensor | Sequence[float],
    *,
    amplitudes: Tensor | Sequence[float] | float = 1.0,
    phases: Tensor | Sequence[float] | float = 0.0,
) -> Tensor:
    r"""Sum sinusoids, :math:`\lambda(z) = \sum_i A_i \sin(2\pi k_i z + \varphi_i)`.

    Args:
        z: any shape, float32 or float64.
        frequencies: ``[k]`` in cycles a unit of ``z``.
        amplitudes: ``[k]``, or one for all.
        phases: ``[k]`` in radians, or one for all.

    Returns:
        Shape and dtype of ``z``.

    Raises:
        ValueError: numbers of another length.

    Cost:
        One sine an entry and frequency.

    Accuracy:
        Computed in float64.

    Not differentiable in anything but ``z``.

    References:
        Rahaman et al., On the Spectral Bias of Neural Networks, arXiv:1806.08734.

    Example:
        >>> sinusoids(torch.tensor([0.0, 0.25]), [1.0, 2.0], amplitudes=[3.0, 1.0])
        tensor([0., 3.])
    """
    k = numbers("sinusoids", "frequencies", frequencies)
    a, p = (numbers("sinusoids", n, t, len(k)) for n, t in (("amplitudes", amplitudes), ("phases", phases)))
    turns = z.double()[..., None] * k
    return ((2 * math.pi * (turns - turns.detach().round()) + p).sin() @ a).to(z.dtype)


def amplitudes_at(values: Tensor, z: Tensor, frequencies: Tensor | Sequence[float]) -> Tensor:
    r"""Read the amplitude of a few frequencies off samples, :math:`2 |\frac{1}{n}\sum_j f(z_j) e^{-2\pi i k z_j}|`.

    Args:
        values: ``[..., n]``, real.
        z: ``[n]`` where they were sampled. On ``j / n`` with integer frequencies these are exact bins of the DFT, and a sinusoid
            of amplitude 1 reads 1; else they leak into each other.
        frequencies: ``[k]`` in cycles a unit of ``z``. At 0 the mean's modulus is returned, not its double.

    Returns:
        ``[..., k]`` float64.

    Raises:
        ValueError: sizes that do not fit.

    Cost:
        ``4 n k`` flops each, in float64.

    Accuracy:
        Float64; phases are reduced in turns.

    Differentiable in ``values``.

    References:
        arXiv:1806.08734: the magnitude at k over A.

    Example:
        >>> z = torch.arange(8) / 8
        >>> amplitudes_at(sinusoids(z, [2.0]), z, [1.0, 2.0]).round(decimals=6)
        tensor([0., 1.], dtype=torch.float64)
    """
    k = numbers("amplitudes_at", "frequencies", frequencies)
    if z.dim() != 1 or values.shape[-1:] != z.shape or len(z) == 0:
        raise ValueError(
            f"amplitudes_at: values must be [..., n] for z [n], got shapes {tuple(values.shape)} and {tuple(z.shape)}"
        )
    turns = z.double()[:, None] * k
    angle = 2 * math.pi * (turns - turns.round())
    wide = values.double()
    real, imaginary = wide @ angle.cos(), wide @ angle.sin()
    fold = torch.where(k == 0, 1.0, 2.0).double() / len(z)
    return fold * torch.hypot(real, imaginary)


def petal(z: Tensor, petals: int, *, depth: float = 0.5) -> Tensor:
    r"""Wind the unit interval to a flower, :math:`\gamma_L(z) = R_L(z) (\cos 2\pi z, \sin 2\pi z)`.

    Its radius is :math:`R_L(z) = 1 + \frac12 \sin 2\pi L z`.
    A function of low frequency along the curve may be of high frequency in the plane, and the other way round.

    Args:
        z: ``[n]`` in [0, 1].
        petals: ``L``, 0 for a circle.
        depth: of the petals, instead of 1/2.

    Returns:
        ``[n, 2]`` in the dtype of ``z``.

    Raises:
        ValueError: ``z`` of another shape.

    Cost:
        Three sines an entry.

    Accuracy:
        The dtype's.

    Differentiable in ``z``.

    References:
        arXiv:1806.08734 (data on curves).

    Example:
        >>> petal(torch.tensor([0.0, 0.125]), 2).round(decimals=4)
        tensor([[1.0000, 0.0000],
                [1.0607, 1.0607]])
    """
    if z.dim() != 1:
        raise ValueError(f"petal: z must be [n], got shape {tuple(z.shape)}")
    turn = 2 * math.pi * z
    radius = 1 + depth * (petals * turn).sin()
    return radius[:, None] * torch.stack([turn.cos(), turn.sin()], 1)


def wave_noise(
    x: Tensor,
    frequency: float,
    *,
    form: Literal["radial", "directions"] = "radial",
    units: Literal["angular", "cycles"] = "angular",
    directions: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Make label noise of one frequency on data in any dimension: :math:`\psi(x) = \sin(k |x|)`, or waves along directions.

    Args:
        x: ``[n, ...]`` samples, e.g. images.
        frequency: ``k``.
        form: ``"radial"``: of the Euclidean norm. ``"directions"``: the mean of the sines along random unit vectors of
            non-negative entries, scaled to variance 1/2.
        units: of ``k``: radians a unit of distance, as in the paper, or cycles, as in its code.
        directions: number of random directions.
        generator: of the directions; torch's own by default.

    Returns:
        ``[n]`` in the dtype of ``x``, of mean square about 1/2.

    Raises:
        ValueError: an unknown form or unit.

    Cost:
        Reads ``x`` once; for directions a product with as many vectors.

    Accuracy:
        Computed in float64.

    Not differentiable.

    References:
        arXiv:1806.08734, equation 10.

    Example:
        >>> wave_noise(torch.tensor([[3.0, 4.0]]), 0.1)
        tensor([0.4794])
    """
    if form not in ("radial", "directions"):
        raise ValueError(f"wave_noise: form must be radial or directions, got {form}")
    if units not in ("angular", "cycles"):
        raise ValueError(f"wave_noise: units must be angular or cycles, got {units}")
    flat = x.detach().flatten(1).double()
    k = frequency * (2 * math.pi if units == "cycles" else 1)
    if form == "radial":
        radial: Tensor = (k * flat.norm(dim=1)).sin()
        return radial.to(x.dtype)
    chosen = torch.rand(flat.shape[1], directions, generator=generator, dtype=torch.float64, device="cpu")
    waves = (k * flat @ (chosen / chosen.norm(dim=0))).sin().mean(1)
    scaled: Tensor = waves * (0.5 / waves.square().mean().clamp_min(1e-300)).sqrt()
    return scaled.to(x.dtype)
