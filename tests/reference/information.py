"""Mutual information, written out: slow, in the words of the papers."""

import torch


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
