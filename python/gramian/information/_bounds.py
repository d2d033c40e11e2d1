"""Bounds on mutual information, read off the scores of all pairs."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gramian._warnings import NumericalWarning

__all__ = ["EmaDonskerVaradhan", "bound", "log_mean_exp", "log_mean_exp_ema", "pair_bound"]

Kind = Literal["dv", "nwj", "tuba", "infonce", "jsd", "smile", "club"]
KINDS = ("dv", "nwj", "tuba", "infonce", "jsd", "smile", "club")
_HEADROOM = 0.5  # nats below the ceiling log n at which InfoNCE counts as saturated


def log_mean_exp(t: Tensor, dim: int | None = None) -> Tensor:
    r"""Logarithm of a mean of exponentials, ``log mean exp(t)``, that never overflows.

    Args:
        t: any shape, floating.
        dim: axis to reduce; by default all.

    Returns:
        A scalar, or ``t`` without that axis, dtype of ``t``.

    Raises:
        ValueError: nothing to take the mean of.

    Cost:
        A pass over ``t``.

    Accuracy:
        That of ``torch.logsumexp``.

    Differentiable to every order, plain torch.

    References:
        Section 3 of docs/how-it-works/information.md.

    Example:
        >>> log_mean_exp(torch.tensor([600.0, 600.0]))
        tensor(600.)
    """
    count = t.numel() if dim is None else t.shape[dim]
    if count == 0:
        raise ValueError(f"log_mean_exp: t must have values to reduce, got shape {tuple(t.shape)}")
    total = torch.logsumexp(t.flatten(), 0) if dim is None else torch.logsumexp(t, dim)
    return total - math.log(count)


def log_mean_exp_ema(t: Tensor, log_ema: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
    r"""``log mean exp(t)`` whose gradient divides by a running mean of ``mean exp(t)`` instead of by the batch's.

    The gradient of a logarithm of a batch mean is biased; with the denominator averaged over batches the bias falls with
    ``rate``. The gradient by ``t_k`` is ``exp(t_k) / (n m)`` with ``m`` the running mean, this batch included. Its weights do
    not sum to one, and should not.

    Args:
        t: ``[n]`` scores of pairs drawn from the product of the marginals.
        log_ema: scalar, the logarithm of the running mean so far; None at the first batch.
        rate: weight of the new batch in the running mean, above 0, at most 1; 1 is `log_mean_exp`.

    Returns:
        The value, the batch's own, a scalar; and the new ``log_ema``, without a gradient.

    Raises:
        ValueError: a rate out of range, no scores.

    Cost:
        A few passes over ``t``.

    Accuracy:
        All in the logarithm: no score overflows.

    Differentiable once, as said above; higher derivatives treat the running mean as a constant.

    References:
        Belghazi et al., arXiv:1801.04062, section 3.2 (the bias and its correction).

    Example:
        >>> value, log_ema = log_mean_exp_ema(torch.zeros(4), None, 0.1)
        >>> value.item(), log_ema.item()
        (0.0, 0.0)
    """
    if not 0 < rate <= 1:
        raise ValueError(f"log_mean_exp_ema: rate must be above 0 and at most 1, got {rate}")
    value = log_mean_exp(t.detach())
    if log_ema is None:
        log_ema = value
    elif rate < 1:
        log_ema = torch.logaddexp(log_ema.detach() + math.log1p(-rate), value + math.log(rate))
    else:
        log_ema = value
    surrogate = (t - log_ema).exp().mean()  # its gradient is the wanted one; exp cannot overflow while rate is not tiny
    return value + (surrogate - surrogate.detach()), log_ema


class EmaDonskerVaradhan(nn.Module):
    """The Donsker-Varadhan bound with the corrected gradient of MINE; the running mean is part of ``state_dict``.

    ``module(joint, marginal)`` is ``mean joint - log mean exp marginal``, the batch's own value.

    Args:
        rate: weight of a new batch in the running mean, above 0, at most 1.
    """

    log_ema: Tensor
    batches: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"EmaDonskerVaradhan: rate must be above 0 and at most 1, got {rate}")
        self.rate = rate
        self.register_buffer("log_ema", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, joint: Tensor, marginal: Tensor) -> Tensor:
        """Return the bound; in training mode the running mean takes in this batch."""
        if not self.training:
            return joint.mean() - log_mean_exp(marginal)
        before = self.log_ema.to(marginal.dtype) if int(self.batches) else None
        value, log_ema = log_mean_exp_ema(marginal, before, self.rate)
        self.log_ema.copy_(log_ema)
        self.batches += 1
        return joint.mean() - value


def pair_bound(
    joint: Tensor, marginal: Tensor, kind: Kind = "dv", *, tau: float = math.inf, log_a: float = 1.0
) -> Tensor:
    r"""Bound from scores of pairs that were drawn together, and of pairs that were not.

    With ``d`` the joint scores and ``o`` the marginal ones: ``"dv"``, ``mean d - log mean exp o``; ``"nwj"``,
    ``mean d - mean exp(o - 1)``; ``"tuba"``, ``mean d - mean exp(o) / a - log a + 1``; ``"jsd"``,
    ``-mean softplus(-d) - mean softplus(o)``, to train with but no amount of information; ``"smile"``, ``"dv"`` with ``o``
    cut to ``[-tau, tau]``; ``"club"``, ``mean d - mean o``.

    Args:
        joint: ``[n]`` scores, floating.
        marginal: ``[m]`` scores.
        kind: which bound; ``"infonce"`` needs all pairs, see `bound`.
        tau: where ``"smile"`` cuts.
        log_a: logarithm of ``a`` in ``"tuba"``.

    Returns:
        A scalar, in nats; dtype of the scores.

    Raises:
        ValueError: no scores, an unknown kind, ``tau`` not positive.

    Cost:
        A pass over the scores.

    Accuracy:
        ``"dv"`` and ``"smile"`` never overflow. ``"nwj"`` and ``"tuba"`` are ``-inf`` where their value is: a score far above 0.

    Differentiable to every order, plain torch. A critic trained with ``"dv"`` or ``"smile"`` is known up to a constant, which
    ``"nwj"`` and ``"tuba"`` are not free of: take ``log mean exp`` of its marginal scores, less 1, off them first.

    References:
        Belghazi et al., arXiv:1801.04062 (dv, nwj); Poole et al., arXiv:1905.06922 (tuba); Song and Ermon,
        arXiv:1910.06222 (smile); Cheng et al., arXiv:2006.12013 (club).

    Example:
        >>> pair_bound(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]), "dv")
        tensor(2.)
    """
    if joint.numel() == 0 or marginal.numel() == 0:
        raise ValueError("pair_bound: joint and marginal must have scores, got none")
    if not tau > 0:
        raise ValueError(f"pair_bound: tau must be positive, got {tau}")
    mean = joint.mean()
    if kind == "dv":
        return mean - log_mean_exp(marginal)
    if kind == "nwj":
        return mean - (marginal - 1).exp().mean()
    if kind == "tuba":
        return mean - (marginal - log_a).exp().mean() - log_a + 1
    if kind == "jsd":
        return -softplus(-joint).mean() - softplus(marginal).mean()
    if kind == "smile":
        return mean - log_mean_exp(marginal.clamp(-tau, tau))
    if kind == "club":
        return mean - marginal.mean()
    raise ValueError(f"pair_bound: kind must be dv, nwj, tuba, jsd, smile or club, got {kind}")


def bound(
    scores: Tensor, kind: Kind = "dv", *, tau: float = math.inf, log_a: float = 1.0, shift: bool = False
) -> Tensor:
    r"""Bound on mutual information from the scores of all pairs, ``S[i, j] = T(x_i, y_j)``.

    Row ``i`` of ``x`` was drawn together with row ``i`` of ``y``: the diagonal ``d`` are joint scores, all others ``o`` are
    marginal ones, and `pair_bound` says what is made of them. ``"infonce"``,
    ``mean_i (S_ii - log Σ_j exp S_ij) + log n``, keeps the diagonal among its marginals. ``"club"`` takes
    ``S[i, j] = log q(y_j | x_i)`` and all pairs as marginals, and is an upper bound only if ``q`` is good.

    Args:
        scores: ``[n, n]``, floating, ``n`` at least 2.
        kind: ``"dv"``, ``"nwj"``, ``"tuba"``, ``"infonce"``, ``"jsd"``, ``"smile"`` or ``"club"``.
        tau: where ``"smile"`` cuts.
        log_a: logarithm of ``a`` in ``"tuba"``.
        shift: for ``"nwj"`` and ``"tuba"``: first fix the critic's free constant so that the bound is tight, which gives
            ``"dv"``. For a critic that was trained with ``"dv"`` or ``"smile"``.

    Returns:
        A scalar, in nats; dtype of the scores. A `NumericalWarning` says when ``"infonce"`` is within half a nat of its
        ceiling ``log n``.

    Raises:
        ValueError: scores that are not square, fewer than 2 rows, an unknown kind, ``tau`` not positive.

    Cost:
        A few passes over ``n²`` scores, small beside the critic that made them; one copy of them.

    Accuracy:
        That of `pair_bound`.

    Differentiable to every order, plain torch.

    References:
        As `pair_bound`; van den Oord et al., arXiv:1807.03748 (infonce).

    Example:
        >>> bound(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), "dv")
        tensor(2.)
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"bound: scores must be [n, n], got shape {tuple(scores.shape)}")
    n = scores.shape[0]
    if n < 2:
        raise ValueError(f"bound: scores must have at least 2 rows, for a pair that was not drawn together, got {n}")
    if kind not in KINDS:
        raise ValueError(f"bound: kind must be one of {', '.join(KINDS)}, got {kind}")
    joint = scores.diagonal()
    if kind == "infonce":
        value = (joint - scores.logsumexp(1)).mean() + math.log(n)
        if not torch.compiler.is_compiling() and not torch._C._functorch.peek_interpreter_stack():
            warn_if_saturated(value, n)
        return value
    if kind == "club":
        return joint.mean() - scores.mean()
    marginal = off_diagonal(scores)
    if shift and kind in {"nwj", "tuba"}:
        constant = (1.0 if kind == "nwj" else log_a) - log_mean_exp(marginal)
        joint, marginal = joint + constant, marginal + constant
    return pair_bound(joint, marginal, kind, tau=tau, log_a=log_a)


def off_diagonal(scores: Tensor) -> Tensor:
    """Return all but the diagonal of ``[n, n]`` as ``[n² - n]``."""
    n = scores.shape[0]
    return scores.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(-1)


def warn_if_saturated(value: Tensor, n: int) -> None:
    """Say that InfoNCE cannot see more than log n."""
    seen = float(value.detach())
    if seen > math.log(n) - _HEADROOM:
        warnings.warn(
            f"infonce: the bound {seen:.2f} is near its ceiling log n = {math.log(n):.2f}: the mutual information "
            "may be larger; take more rows",
            NumericalWarning,
            stacklevel=3,
        )
