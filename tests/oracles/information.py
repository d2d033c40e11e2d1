"""Critics: their scores, their gradients, and the bound on mutual information of a separable one."""

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import is_finite, op, worst


def _infonce_arguments(draw):
    dtype, n, d = draw.dtype(), draw.size(2), draw.size()
    return draw.values(n, d, dtype=dtype), draw.values(n, d, dtype=dtype), draw.chance(0.6)


@op(_infonce_arguments, "δ Σ|terms|, δ = 4 (d + n + 8) eps max(1, |f||g|)")
def information_infonce(args, got):
    f, g = map(wide, args[:2])
    if not is_finite(args):
        if np.isfinite(float(got[0])):
            raise AssertionError("finite where the reference is not")
        return 0.0
    n, d = f.shape
    scores, size = f @ g.T, max(1, (np.abs(f) @ np.abs(g).T).max(initial=0))
    top = scores.max(1, keepdims=True)
    p = np.exp(scores - top)
    total = p.sum(1, keepdims=True)
    value = (scores.diagonal() - top[:, 0] - np.log(total[:, 0])).mean() + np.log(np.longdouble(n))
    units = 4 * (d + n + 8)
    if size * torch.finfo(args[0].dtype).eps * units > 0.25:
        return 0.0
    ratio = worst(got[0], value, size, units)
    if args[2]:
        p = p / total
        expected = ((g - p @ g) / n, (f - p.T @ f) / n)
        scales = ((np.abs(g) + p @ np.abs(g)) / n, (np.abs(f) + p.T @ np.abs(f)) / n)
        for got_side, e, s in zip(got[1:], expected, scales, strict=True):
            ratio = max(ratio, worst(got_side, e, s, units * float(size)))
    return ratio


def _critic_arguments(draw):
    dtype, n, m, h, h2 = draw.dtype(), draw.size(0, 17), draw.size(0, 17), draw.size(0, 17), draw.size(0, 17)
    shapes = ((n, h), (m, h), (h, h2), (h2,), (h2,))
    return tuple(draw.values(*shape, dtype=dtype) for shape in shapes)


@op(lambda draw: (*_critic_arguments(draw), draw.chance(0.5)), "2 (h + h2 + 8) eps Σ|w3| (|W2|ᵀ|h1| + |b2|)")
def information_pairwise_scores(args, got):
    a, b, w2, b2, w3 = map(wide, args[:5])
    if not is_finite(args):
        return 0.0
    h1, size = np.maximum(a[:, None] + b, 0), np.abs(a)[:, None] + np.abs(b)
    expected = np.maximum(h1 @ w2 + b2, 0) @ w3
    return worst(got[0], expected, (size @ np.abs(w2) + np.abs(b2)) @ np.abs(w3), 2 * (sum(w2.shape) + 8))


def _critic_backward_arguments(draw):
    critic = _critic_arguments(draw)
    n, m = len(critic[0]), len(critic[1])
    return draw.values(n, m, dtype=critic[0].dtype), *critic, torch.empty(n, 0, dtype=torch.int32)


@op(_critic_backward_arguments, "4 (n + m + h + h2 + 8) eps Σ|terms|, where no unit is within rounding of zero")
def information_pairwise_scores_backward(args, got):
    if not is_finite(args):
        return 0.0
    grad, a, b, w2, b2, w3 = map(wide, args[:6])
    h1, h1_size = a[:, None] + b, np.abs(a)[:, None] + np.abs(b)
    works, h1 = h1 > 0, np.maximum(h1, 0)
    z, z_size = h1 @ w2 + b2, h1_size @ np.abs(w2) + np.abs(b2)
    units = 4 * (sum(h1.shape) + w2.shape[1] + 8)
    eps = torch.finfo(args[0].dtype).eps
    if (np.abs(z) <= units * eps * z_size + 1e-30).any():
        return 0.0

    def gradients(grad, w2, b2, w3, h1, z):
        q = grad[..., None] * active
        back = (q * w3) @ w2.T * works
        g2 = np.einsum("ijk,iju->ku", h1, q) * w3
        return back.sum(1), back.sum(0), g2, q.sum((0, 1)) * w3, (q * z).sum((0, 1))

    active = z > 0
    expected = gradients(grad, w2, b2, w3, h1, z)
    scales = gradients(*map(np.abs, (grad, w2, b2, w3)), h1_size, z_size)
    peak = max((float(s.max(initial=0)) for s in scales), default=0) * max(1.0, float(np.abs(w2).max(initial=0)))
    if peak > float(torch.finfo(args[0].dtype).max) / 16:
        return 0.0
    floor = (
        float(torch.finfo(args[0].dtype).tiny)
        * units
        * (1 + float(z_size.max(initial=0)) + float(np.abs(w3).max(initial=0)))
    )
    return max(worst(g, e, s, units, floor=floor) for g, e, s in zip(got, expected, scales, strict=True))
