"""Tangent kernels by their definition: every gradient in full, in float64, multiplied."""

import torch
from torch.func import functional_call, jacrev, vmap


def linear_gram(a1, g1, a2=None, g2=None, *, bias=False):
    """K[n, m, c, e] = <J[n, c], J[m, e]>, J[n, c] = sum_t g[n, c, t] a[n, t]^T."""
    a2, g2 = (a1, g1) if a2 is None else (a2, g2)
    j1, j2 = _jacobian(a1, g1, bias), _jacobian(a2, g2, bias)
    return torch.einsum("ncp,mep->nmce", j1, j2)


def _jacobian(a, g, bias):
    a, g = a.double(), g.double()
    if bias:
        a = torch.cat([a, torch.ones(*a.shape[:2], 1, dtype=a.dtype)], 2)
    return torch.einsum("ncto,nti->ncoi", g, a).flatten(2)


def empirical_ntk(model, x1, x2=None, params=None):
    """K[n, m, c, e] by torch.func's Jacobians of one sample at a time."""
    wanted = {
        name: p.detach()
        for name, p in model.named_parameters()
        if p.requires_grad and (params is None or name in params)
    }

    def one(w, x):
        return functional_call(model, w, x[None])[0]

    def jacobian(x):
        parts = vmap(jacrev(one), (None, 0))(wanted, x).values()
        return torch.cat([part.flatten(2) for part in parts], 2)

    j1 = jacobian(x1)
    return torch.einsum("ncp,mep->nmce", j1, j1 if x2 is None else jacobian(x2))


def empirical_ntk_by_loops(model, x):
    """The same by autograd, one sample and one output at a time: for modules that torch.func does not take."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for one in x:
        out = model(one[None])[0]
        for f in out:
            grads = torch.autograd.grad(f, wanted, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in grads]))
    j = torch.stack(rows).unflatten(0, (len(x), -1))
    return torch.einsum("ncp,mep->nmce", j, j)
