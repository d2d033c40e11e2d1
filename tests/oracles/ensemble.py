"""Sums over models."""

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import is_finite, op, worst


def _accumulate_arguments(draw):
    dtype, m, n, c = draw.dtype(), draw.size(0, 17), draw.size(), draw.size(0, 17)
    target = draw.values(n, c, dtype=dtype) if draw.chance(0.6) else None
    squares = None if target is None else draw.values(n).abs()
    return draw.values(m, n, c, dtype=dtype), target, draw.values(n, c), squares


@op(_accumulate_arguments, "4 (m + 1) eps Σ|deviations|, in the dtype of the predictions", mutates=(2, 3))
def ensemble_accumulate_(args, got):
    predictions, target, sums, squares = args
    if not is_finite(args):
        return 0.0
    x = wide(predictions) - (0 if target is None else wide(target))
    size = np.abs(wide(predictions)) + (0 if target is None else np.abs(wide(target)))
    factor = torch.finfo(predictions.dtype).eps / torch.finfo(torch.float64).eps
    units = 4 * (len(x) + 1) * factor
    if size.size and size.max() ** 2 * size.size > float(torch.finfo(predictions.dtype).max):
        return 0.0
    ratio = worst(got[0], wide(sums) + x.sum(0), np.abs(wide(sums)) + size.sum(0), units)
    if squares is not None:
        expected, scale = wide(squares) + (x**2).sum((0, 2)), wide(squares) + (size**2).sum((0, 2))
        tiny = float(torch.finfo(predictions.dtype).tiny) * size.size
        ratio = max(ratio, worst(got[1], expected, scale, units * (x.shape[2] + 1), floor=tiny))
    return ratio
