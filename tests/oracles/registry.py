"""How arguments of an op are drawn, how its result is measured against the plain reference, and the list of all ops."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tests.checks import wide

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 32, 33)
LARGE = (63, 64, 65, 97, 128, 129, 193, 256, 257, 300)  # over the blocks that tasks take
HALVES = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64)


@functools.cache
def _sizes(least, most):
    return [s for s in SIZES if least <= s <= most]


class Draw:
    """Arguments from a seed. A tame draw has no NaN, no infinity and no extreme magnitude, and every second one of them a large size.

    At most one size of a draw is large, so that the plain reference stays cheap.
    """

    def __init__(self, seed: int, *, tame: bool = False) -> None:
        self.rng = np.random.default_rng(
            seed
        )  # of tensors; a single number costs it a hundred times what it costs `own`
        self.own = random.Random(seed)
        self.tame = tame
        self.large = self.chance(0.5 if tame else 0.02)

    def choice(self, options):
        return options[int(self.own.random() * len(options))]

    def shuffled(self, options):
        return self.own.sample(tuple(options), len(options))

    def number(self, low, high):
        return low + int(self.own.random() * (high - low))

    def chance(self, probability):
        return self.own.random() < probability

    def size(self, least=0, most=33):
        if self.large and most >= 17 and self.chance(0.4):
            self.large = False
            return self.choice(LARGE)
        return self.choice(_sizes(least, 8) if most > 8 and least <= 8 and self.chance(0.5) else _sizes(least, most))

    def dtype(self, halves=False):
        return self.choice((*FLOATS, *FLOATS, *HALVES) if halves else FLOATS)

    def values(self, *shape, dtype=torch.float64):
        """A tensor whose kind of values is drawn too: integers tie, clusters cancel, scales overflow."""
        kind = self.number(0, 4 if self.tame else 10)
        normal = self.rng.standard_normal(shape)
        most = 3 if dtype is torch.float16 else 12
        if kind == 1:
            normal = np.round(2 * normal)
        elif kind == 2:
            normal = 10.0 ** self.number(0, most // 2 + 1) + normal / 64
        elif kind == 4:
            normal *= 10.0 ** self.number(-most, most)
        elif kind == 5:
            normal *= 10.0 ** self.rng.integers(-most, most, size=(*shape[:-1], 1) if shape else ())
        elif kind == 6:
            normal = np.zeros(shape)
        elif kind == 7:
            normal *= float(torch.finfo(dtype).tiny)
        elif kind == 8 and normal.size and self.chance(0.5):
            normal.flat[self.number(0, normal.size)] = self.choice((np.nan, np.inf, -np.inf))
        elif kind == 9 and normal.size:  # rows of which one entry outweighs the rest
            normal.reshape(-1)[:: self.number(1, 9)] *= 10.0 ** self.number(1, 4)
        return torch.from_numpy(np.asarray(normal)).to(dtype)

    def integers(self, low, high, *shape):
        return torch.from_numpy(np.asarray(self.rng.integers(low, high, size=shape)))

    def mask(self, *shape):
        return torch.from_numpy(self.rng.random(shape) < self.choice((0.1, 0.5, 0.9)))


def worst(got, expected, scale, units, *, floor=0.0):
    """The largest of |got - expected| / (units eps scale + floor), where ``scale`` does not come near an overflow.

    What is not finite in the reference must not be finite in the result; where the sum of magnitudes overflows, anything may
    be.
    """
    limits = torch.finfo(got.dtype)
    got, expected, scale = wide(got), wide(expected), wide(scale)
    if got.shape != expected.shape:
        raise AssertionError(f"shape {got.shape} instead of {expected.shape}")
    if got.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        known = np.isfinite(expected) & np.isfinite(scale) & (scale < limits.max / 16)
        if not np.isfinite(got[known]).all():
            raise AssertionError("not finite where the reference is")
        if np.isfinite(got[~np.isfinite(expected)]).any():
            raise AssertionError("finite where the reference is not")
        allowed = units * limits.eps * scale + floor + 64 * units * limits.tiny
        return float((np.abs(got - expected) / allowed)[known].max(initial=0))


@dataclass(frozen=True)
class Op:
    name: str
    draw: Callable[[Draw], tuple]
    ratio: Callable[[tuple, tuple], float]
    bound: str  # what ``ratio`` is relative to
    finite: bool = False  # a NaN or an infinity is refused
    dense: bool = False  # what is not contiguous is refused
    mutates: tuple[int, ...] = ()  # arguments that are written to

    @functools.cached_property
    def call(self):
        return getattr(torch.ops.gramian, self.name)


OPS: dict[str, Op] = {}


def op(draw, bound, **options):
    """Registers the function that follows, ``ratio(args, result)``, under its own name."""

    def register(ratio):
        OPS[ratio.__name__] = Op(ratio.__name__, draw, ratio, bound, **options)
        return ratio

    return register


def is_finite(args):
    return all(torch.isfinite(a).all() for a in args if isinstance(a, torch.Tensor) and a.is_floating_point())
