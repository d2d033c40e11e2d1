"""Attention's derivatives: probabilities in the widest float, and the magnitudes of all terms."""

import math

import numpy as np
import torch

from tests.checks import wide
from tests.oracles.registry import is_finite, op, worst


def _attention(draw, *, tangents):
    dtype = draw.dtype()
    batch, heads, n, m, d, dv = (draw.size(1, 3), draw.size(1, 3), *(draw.size(1, 17) for _ in range(4)))
    shapes = {"q": (n, d), "k": (m, d), "v": (m, dv), "g": (n, dv)}
    tensors = [draw.values(batch, heads, *shapes[name], dtype=dtype) for name in tangents]
    mask = draw.mask(*(draw.choice((1, size)) for size in (batch, heads, n, m))) if draw.chance(0.4) else None
    scale = draw.choice((None, None, 0.5, -1.0, 0.0, 8.0, 30.0))  # the last two: nearly one-hot
    return tensors, [mask, draw.chance(0.3), scale, draw.chance(0.3)]


def _jvp_arguments(draw):
    tensors, options = _attention(draw, tangents="qkvqkv")
    return (*tensors, *options)


def _linearize_arguments(draw):
    tensors, options = _attention(draw, tangents="qkv")
    return (*tensors, *options, draw.choice((None, True, False)))


def _vjp_arguments(draw):
    tensors, options = _attention(draw, tangents="qkvg")
    return (*tensors, *options)


def _jtj_arguments(draw):
    tensors, options = _attention(draw, tangents="qkvqkv")
    features = tensors[0].shape[1] * tensors[2].shape[3]
    mix = draw.values(features, features, dtype=tensors[0].dtype) if draw.chance(0.4) else None
    return (*tensors, mix, *options)


class _Softmax:
    """Probabilities in the widest float, magnitudes of scores, and by how much rounding may change a probability."""

    def __init__(self, q, k, mask, is_causal, scale, l2, eps):
        c = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)  # torch takes a tensor of one number too
        s = c * q @ k.swapaxes(-1, -2)
        size = abs(c) * np.abs(q) @ np.abs(k).swapaxes(-1, -2)
        if l2:
            square = (k**2).sum(-1)[..., None, :]
            s, size = 2 * s - c * square, 2 * size + abs(c) * square
        seen = np.ones(s.shape, dtype=bool)
        if mask is not None:
            seen &= np.asarray(mask)
        if is_causal:
            seen &= np.tri(*s.shape[-2:], dtype=bool)
        top = np.max(s, axis=-1, keepdims=True, initial=-np.inf, where=seen)
        e = np.where(seen, np.exp(np.where(seen, s - top, 0)), 0)
        total = e.sum(-1, keepdims=True)
        self.p = np.divide(e, total, out=np.zeros_like(e), where=total > 0)
        # exp turns an absolute error of a score into a relative one of a probability, and so does the sum below it
        self.error = 2 * (q.shape[-1] + 4) * eps * size.max(initial=0) + 8 * s.shape[-1] * eps
        self.c, self.l2, self.seen = c, l2, seen

    def scores_of(self, q, k, dq, dk):
        ds = self.c * (dq @ k.swapaxes(-1, -2) + q @ dk.swapaxes(-1, -2))
        return 2 * ds - 2 * self.c * (k * dk).sum(-1)[..., None, :] if self.l2 else ds

    def jvp(self, q, k, v, dq, dk, dv):
        ds = np.where(self.seen, self.scores_of(q, k, dq, dk), 0)
        return self.p @ dv + (self.p * (ds - (self.p * ds).sum(-1, keepdims=True))) @ v

    def vjp(self, q, k, v, g):
        dp = np.where(self.seen, g @ v.swapaxes(-1, -2), 0)
        ds = self.c * self.p * (dp - (self.p * dp).sum(-1, keepdims=True))
        gq, gk, gv = ds @ k, ds.swapaxes(-1, -2) @ q, self.p.swapaxes(-1, -2) @ g
        if self.l2:
            gq, gk = 2 * gq, 2 * gk - 2 * ds.sum(-2)[..., None] * k
        return gq, gk, gv


class _Magnitudes(_Softmax):
    """The same with every term's magnitude in the place of its value, so that no sum cancels."""

    def __init__(self, of, limits):
        self.c, self.l2, self.seen, self.error = abs(of.c), of.l2, of.seen, of.error
        self.p = of.p + limits.tiny / limits.eps  # a probability below the normal range may be zero
        self.peak = 0.0  # of what is computed on the way

    def scores_of(self, q, k, dq, dk):
        ds = self.c * (dq @ k.swapaxes(-1, -2) + q @ dk.swapaxes(-1, -2))
        return 2 * ds + 2 * self.c * (k * dk).sum(-1)[..., None, :] if self.l2 else ds

    def jvp(self, q, k, v, dq, dk, dv):
        ds = self.scores_of(q, k, dq, dk)
        self.peak = max(self.peak, float(ds.max() * max(1, np.abs(v).max())))
        return self.p @ dv + (self.p * (ds + (self.p * ds).sum(-1, keepdims=True))) @ v

    def vjp(self, q, k, v, g):
        dp = g @ v.swapaxes(-1, -2)
        self.peak = max(self.peak, float(dp.max()) * max(1, self.c))
        ds = self.c * self.p * (dp + (self.p * dp).sum(-1, keepdims=True))
        gq, gk, gv = ds @ k, ds.swapaxes(-1, -2) @ q, self.p.swapaxes(-1, -2) @ g
        if self.l2:
            gq, gk = 2 * gq, 2 * gk + 2 * ds.sum(-2)[..., None] * k
        return gq, gk, gv


def _mixed(out, mix):
    if mix is None:
        return out
    b, h, n, d = out.shape
    return (out.swapaxes(1, 2).reshape(b, n, h * d) @ mix).reshape(b, n, h, d).swapaxes(1, 2)


def _attention_ratio(args, got, count, derivative):
    tensors, options = args[:count], args[count:]
    if not is_finite(args):
        return 0.0  # who sees a NaN is a matter of the mask; shapes are checked
    x = [wide(t) for t in tensors]
    limits = torch.finfo(tensors[0].dtype)
    softmax = _Softmax(x[0], x[1], *options, limits.eps)
    if softmax.error > 0.25:
        return 0.0  # scores so large that their rounding decides
    sizes = _Magnitudes(softmax, limits)
    expected = derivative(softmax, x, lambda t: t)
    scales = derivative(sizes, [np.abs(t) for t in x], np.abs)
    if sizes.peak > limits.max / 64:
        return 0.0
    relative = 4 * softmax.error / limits.eps + 4 * (sum(x[0].shape[-2:]) + sum(x[2].shape[-2:]))
    return max(worst(g, e, s, relative) for g, e, s in zip(got, expected, scales, strict=True))


_ATTENTION_BOUND = "δ Σ|terms|, δ = 8 (d + 4) eps max|scores| + 4 (n + m + d + dv + 8 m) eps"


@op(_jvp_arguments, _ATTENTION_BOUND)
def attention_jvp(args, got):
    return _attention_ratio(args, got, 6, lambda softmax, x, _: [softmax.jvp(*x)])


@op(_vjp_arguments, _ATTENTION_BOUND)
def attention_vjp(args, got):
    return _attention_ratio(args, got, 4, lambda softmax, x, _: softmax.vjp(*x))


@op(_jtj_arguments, _ATTENTION_BOUND)
def attention_jtj(args, got):
    mix = None if args[6] is None else wide(args[6])

    def derivative(softmax, x, size):
        out = _mixed(softmax.jvp(*x), None if mix is None else size(mix))
        return softmax.vjp(*x[:3], out)

    if mix is not None and not np.isfinite(mix).all():
        return 0.0
    return _attention_ratio((*args[:6], *args[7:]), got, 6, derivative) / (1 if mix is None else 1 + mix.shape[0] / 8)


def _direction(x):
    """A direction of the shape of a tensor: its values the other way round."""
    return x.flip(-1)


@op(_linearize_arguments, _ATTENTION_BOUND)
def attention_linearize(args, got):
    q, k, v, *options = args[:-1]  # a state is known by what is made of it
    out = torch.ops.gramian.attention_jvp(q, k, v, _direction(q), _direction(k), _direction(v), *options, got[0])
    return _attention_ratio(
        (q, k, v, _direction(q), _direction(k), _direction(v), *options),
        [out],
        6,
        lambda softmax, x, _: [softmax.jvp(*x)],
    )
