"""Nearest neighbours in plain float64: every distance, in the difference form."""

import numpy as np
import torch


def distance_table(x, y=None, *, metric="euclidean", exclude_self=False, causal=False):
    """[n, m]: lower is nearer (so minus the inner product), inf where a pair is not allowed."""
    x = x.double()
    y = x if y is None else y.double()
    if metric == "ip":
        table = -(x @ y.T)
    else:
        if metric == "cosine":
            x, y = (torch.nan_to_num(t / t.norm(dim=1, keepdim=True), nan=0.0) for t in (x, y))
        table = x.new_empty(len(x), len(y))
        for i, row in enumerate(x.numpy()):  # NumPy: no thread pool to wake for each row
            apart = row - y.numpy()
            if metric == "chebyshev":
                table[i] = torch.from_numpy(np.abs(apart).max(1, initial=0))
            else:
                table[i] = torch.from_numpy(np.square(apart).sum(1))
        if metric == "euclidean":
            table = table.sqrt()
        elif metric == "cosine":
            table /= 2
            table[~x.any(1)] = table[:, ~y.any(1)] = 1
    i, j = torch.arange(len(x)).unsqueeze(1), torch.arange(len(y))
    if causal:
        table = table.masked_fill(j >= i, torch.inf)
    if exclude_self:
        table = table.masked_fill(j == i, torch.inf)
    return table
