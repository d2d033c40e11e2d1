"""The engine's plainest op."""

import numpy as np

from tests.checks import wide
from tests.oracles.registry import op, worst


def _two_matrices(draw):
    dtype, d = draw.dtype(halves=True), draw.size()
    return draw.values(draw.size(), d, dtype=dtype), draw.values(draw.size(), d, dtype=dtype)


@op(_two_matrices, "2 (d + 4) eps Σ (|x|ᵀ|y|)²")
def gram_square_sum(args, got):
    x, y = map(wide, args)
    with np.errstate(over="ignore", invalid="ignore"):
        peak = ((np.abs(x) @ np.abs(y).T) ** 2).sum()
        return worst(got[0], ((x @ y.T) ** 2).sum(), peak, 2 * (x.shape[1] + 4))
