"""Attention and its Jacobian by the formulas, dense, in float64."""

import math

import torch


def attend(q, k, v, mask=None, is_causal=False, scale=None, kind="dot"):
    q, k, v = q.double(), k.double(), v.double()
    n, m = q.shape[-2], k.shape[-2]
    c = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    s = c * q @ k.mT if kind == "dot" else -c * ((q[..., :, None, :] - k[..., None, :, :]) ** 2).sum(-1)
    seen = torch.ones(n, m, dtype=torch.bool)
    if mask is not None:
        seen = seen & mask
    if is_causal:
        seen = seen & torch.ones(n, m, dtype=torch.bool).tril()
    seen = seen.expand(s.shape)
    blind = ~seen.any(-1, keepdim=True)
    p = s.masked_fill(~seen & ~blind, -math.inf).softmax(-1).masked_fill(blind, 0)
    return p @ v


def jvp(q, k, v, dq, dk, dv, **options):
    doubles = [x.double() for x in (q, k, v, dq, dk, dv)]
    return torch.func.jvp(lambda *x: attend(*x, **options), tuple(doubles[:3]), tuple(doubles[3:]))[1]


def vjp(q, k, v, g, **options):
    return torch.func.vjp(lambda *x: attend(*x, **options), q.double(), k.double(), v.double())[1](g.double())


def jtj(q, k, v, dq, dk, dv, mix=None, **options):
    out = jvp(q, k, v, dq, dk, dv, **options)
    if mix is not None:
        b, h, n, d = out.shape
        out = (out.transpose(1, 2).reshape(b, n, h * d) @ mix.double()).view(b, n, h, d).transpose(1, 2)
    return vjp(q, k, v, out, **options)


def layer(x, wq, wk, wv, wo=None, bq=None, bk=None, bv=None, *, num_heads, **options):
    """Attention of tokens x [n, D] through its projections, y = x W + b."""
    n = x.shape[-2]

    def split(w, b):
        y = x @ w + (0 if b is None else b)
        return y.view(n, num_heads, -1).transpose(0, 1)

    out = attend(split(wq, bq), split(wk, bk), split(wv, bv), **options).transpose(0, 1).reshape(n, -1)
    return out if wo is None else out @ wo
