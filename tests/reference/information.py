"""Mutual information, written out: slow, in the words of the papers."""

import math

import numpy as np
import torch
from scipy.special import digamma


def pairwise_scores(x, y, w_x, w_y, b1, w2, b2, w3, b3):
    """The network on the concatenation of every pair."""
    n, m = len(x), len(y)
    pairs = torch.cat([x[:, None].expand(n, m, -1), y[None].expand(n, m, -1)], 2)
    h1 = torch.relu(pairs @ torch.cat([w_x, w_y]) + b1)
    return torch.relu(h1 @ w2 + b2) @ w3 + b3


def infonce(scores):
    """arXiv:1807.03748, plus log n."""
    n = len(scores)
    return (scores.diagonal() - scores.logsumexp(1)).mean() + torch.tensor(float(n), dtype=scores.dtype).log()


def bound(scores, kind, *, tau=math.inf, log_a=1.0):
    """The table of definitions: d joint, o marginal."""
    n = len(scores)
    d, o = scores.diagonal(), scores[~torch.eye(n, dtype=torch.bool)]
    if kind == "dv":
        return d.mean() - o.exp().mean().log()
    if kind == "nwj":
        return d.mean() - (o - 1).exp().mean()
    if kind == "tuba":
        return d.mean() - (o.exp().mean() / math.exp(log_a) + log_a - 1)
    if kind == "infonce":
        return infonce(scores)
    if kind == "jsd":
        return (-(1 + (-d).exp()).log()).mean() - (1 + o.exp()).log().mean()
    if kind == "smile":
        return d.mean() - o.clamp(-tau, tau).exp().mean().log()
    return d.mean() - scores.mean()


def ksg(x, y, k, algorithm=1):
    """Kraskov et al. 2004, equations of the two estimators, one row after the other."""
    n = len(x)
    dx = np.abs(x[:, None] - x[None]).max(2)
    dy = np.abs(y[:, None] - y[None]).max(2)
    total = 0.0
    for i in range(n):
        others = np.arange(n) != i
        joint = np.maximum(dx[i], dy[i])
        near = [j for j in np.argsort(joint, kind="stable") if j != i][:k]
        if algorithm == 1:
            eps = joint[near[-1]]
            total += digamma((dx[i][others] < eps).sum() + 1) + digamma((dy[i][others] < eps).sum() + 1)
        else:
            nx, ny = ((side[i][others] <= side[i][near].max()).sum() for side in (dx, dy))
            total += digamma(nx) + digamma(ny)
    return digamma(k) - (1 / k if algorithm == 2 else 0) + digamma(n) - total / n


def conditional_ksg(x, y, z, k):
    """Frenzel and Pompe 2007."""
    n = len(x)
    dx, dy, dz = (np.abs(t[:, None] - t[None]).max(2) for t in (x, y, z))
    total = 0.0
    for i in range(n):
        others = np.arange(n) != i
        eps = np.sort(np.maximum(np.maximum(dx[i], dy[i]), dz[i])[others])[k - 1]
        nz, nxz, nyz = ((d[i][others] < eps).sum() for d in (dz, np.maximum(dx, dz), np.maximum(dy, dz)))
        total += digamma(nz + 1) - digamma(nxz + 1) - digamma(nyz + 1)
    return digamma(k) + total / n
