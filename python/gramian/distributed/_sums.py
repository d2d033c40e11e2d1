"""Kernel sums, Fourier sums and accumulators over ranks."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gramian import spectra
from gramian.ensemble._decomposition import _FOLDED, _Set

from ._neighbors import pieces_of
from ._ranks import Ranks, digest, rows_of

if TYPE_CHECKING:
    import torch.distributed as dist

    from gramian.ensemble import BiasVariance
    from gramian.spectra._sums import Kernel

__all__ = ["kernel_sum", "merge", "ndft"]


def kernel_sum(
    x: Tensor,
    y: Tensor,
    values: Tensor,
    *,
    kernel: Kernel = "gaussian",
    bandwidth: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Sum of kernels, :math:`s_i = \sum_j \phi(|x_i - y_j| / h) \, v_j`, over rows that are spread over ranks.

    The rows ``y`` and their values travel round a ring, each piece of a shard on its way while the one before is summed.

    Args:
        x: ``[n_r, d]``, this rank's rows, float32 or float64; any number, also none. Or a DTensor sharded by rows.
        y: ``[m_r, d]``, this rank's rows of the other side, dtype of ``x``.
        values: ``[m_r]`` or ``[m_r, c]`` of those, dtype of ``x``.
        kernel: as for `gramian.spectra.kernel_sum`.
        bandwidth: :math:`h` in the units of the rows, positive.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``[n_r]`` or ``[n_r, c]`` of this rank's rows, a DTensor if ``x`` is one: `gramian.spectra.kernel_sum` over the rows of all ranks.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.spectra.kernel_sum` refuses, ranks that disagree.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        That of `gramian.spectra.kernel_sum` over the number of ranks; ``m (d + c)`` numbers sent. Memory: two shards of ``y``.

    Accuracy:
        That of `gramian.spectra.kernel_sum`; sums of shards are added in float64, from this rank's on.

    Not differentiable.

    References:
        The kernel of the eigenbasis experiment of arXiv:1806.08734 is the Gaussian.

    Example:
        >>> kernel_sum(torch.zeros(1, 1), torch.tensor([[0.0], [2.0]]), torch.ones(2), bandwidth=2.0)  # one rank
        tensor([1.6065])
    """
    op = "kernel_sum"
    given, base = rows_of(op, "x", x, group), rows_of(op, "y", y, group)
    own, other, v = given.local, base.local, rows_of(op, "values", values, group).local
    ranks = Ranks(op, given.group, own.device)
    problem = None
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1]:
        problem = f"y must be [m, d] with d of x {tuple(own.shape)}, got shape {tuple(other.shape)}"
    elif v.ndim not in (1, 2) or len(v) != len(other):
        problem = f"values must be [m] or [m, c] with m = {len(other)} like y, got shape {tuple(v.shape)}"
    elif own.dtype not in (torch.float32, torch.float64) or other.dtype != own.dtype or v.dtype != own.dtype:
        problem = f"x, y and values must be float32 or float64 alike, got {own.dtype}, {other.dtype} and {v.dtype}"
    elif kernel not in spectra._sums._KERNELS:
        problem = f"kernel must be one of {', '.join(spectra._sums._KERNELS)}, got {kernel!r}"
    elif not bandwidth > 0:
        problem = f"bandwidth must be positive, got {bandwidth}"
    everyone = ranks.agree(
        problem,
        d=own.shape[-1],
        dtype=own.dtype,
        columns=tuple(v.shape[1:]),
        kernel=kernel,
        bandwidth=bandwidth,
        y_=len(other),
    )
    sums = torch.zeros((len(own), *v.shape[1:]), dtype=torch.float64, device=own.device)
    rows = [facts["y_"] for facts in everyone]
    arriving = ranks.ring([other, v], rows, ranks.size - 1, pieces_of(rows))
    for part, weights in chain([(other, v)], (held for *_, held in arriving)):
        if len(own) and len(part):
            sums += spectra.kernel_sum(own, part, weights, kernel=kernel, bandwidth=bandwidth)
    ranks.finish()
    return given.wrap(sums.to(own.dtype))


def ndft(
    points: Tensor,
    frequencies: Tensor,
    values: Tensor,
    *,
    units: spectra._sums.Units = "cycles",
    sign: Literal[-1, 1] = -1,
    norm: Literal["none", "mean"] = "none",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Fourier sum :math:`\hat f(k) = \sum_j v_j e^{\mp 2 \pi i \, k \cdot x_j}` over points that are spread over ranks.

    Args:
        points: ``[n_r, d]``, this rank's points, float32 or float64; any number, also none. Or a DTensor sharded by rows.
        frequencies: ``[k, d]``, dtype of ``points``, the same on every rank.
        values: ``[n_r]`` or ``[n_r, c]`` of this rank's points, of that dtype or complex of that precision.
        units: as for `gramian.spectra.ndft`.
        sign: of the exponent.
        norm: ``"mean"`` divides by the points of all ranks.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        Complex ``[k]`` or ``[k, c]``, the sum over all ranks, the same bits on every rank.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.spectra.ndft` refuses, ranks that disagree.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        That of `gramian.spectra.ndft` over the number of ranks; about ``64 k c`` bytes sent and received.

    Accuracy:
        That of `gramian.spectra.ndft`; sums of ranks are added in float64, in the order of the ranks.

    Not differentiable.

    References:
        Rahaman et al., arXiv:1806.08734, which samples spectra of networks.

    Example:
        >>> x = torch.arange(4.0)[:, None] / 4  # one rank
        >>> ndft(x, torch.tensor([[0.0], [1.0]]), torch.cos(2 * torch.pi * x[:, 0])).abs().round(decimals=4)
        tensor([0., 2.])
    """
    op = "ndft"
    given = rows_of(op, "points", points, group)
    own, v = given.local, rows_of(op, "values", values, group).local
    ranks = Ranks(op, given.group, own.device)
    problem = None
    if v.ndim not in (1, 2) or len(v) != len(own):
        problem = f"values must be [n] or [n, c] with n = {len(own)} like points, got shape {tuple(v.shape)}"
    elif norm not in ("none", "mean"):
        problem = f"norm must be 'none' or 'mean', got {norm!r}"
    part = None
    if problem is None:
        try:
            part = spectra.ndft(own, frequencies, v, units=units, sign=sign)
        except ValueError as error:
            problem = str(error).split(": ", 1)[-1]
    everyone = ranks.agree(
        problem,
        frequencies=digest(frequencies)[:16],
        dtype=own.dtype,
        columns=tuple(v.shape[1:]),
        units=units,
        sign=sign,
        norm=norm,
        rows_=len(own),
    )
    assert part is not None  # noqa: S101 - else there was a problem
    total = torch.view_as_complex(ranks.sum(torch.view_as_real(part.to(torch.complex128)).contiguous()))
    if norm == "mean":
        total = total / sum(facts["rows_"] for facts in everyone)
    return total.to(part.dtype)


def merge(parts: BiasVariance, *, group: dist.ProcessGroup | None = None) -> None:
    r"""Add up the accumulators of all ranks: each then holds what all have seen.

    Args:
        parts: this rank's `gramian.ensemble.BiasVariance`, of the same target and loss on every rank; changed in place. Ranks may have
            seen models of the same set, unless one of them has closed it.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        Nothing.

    Raises:
        ValueError: on every rank, before work: ranks that disagree on the target or loss; a set that one rank has closed and another
            has, too.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        ``16 n (c + 1)`` bytes sent and received for each set that is open, and for the closed ones together. Memory: one such set.

    Accuracy:
        Sums are float64, added in the order of the ranks: the same bits on every rank.

    Not differentiable.

    References:
        The decomposition is that of Neal et al., arXiv:1810.08591.

    Example:
        >>> from gramian.ensemble import BiasVariance
        >>> parts = BiasVariance(torch.zeros(2, 1))
        >>> parts.update(torch.ones(3, 2, 1), 0)
        >>> merge(parts)  # one rank: nothing to add
        >>> parts.seeds
        {0: 3}
    """
    op = "merge"
    ranks = Ranks(op, group, parts.target.device)
    everyone = ranks.agree(
        None,
        loss=parts.loss,
        target=digest(parts.target.double())[:16],
        open_={key: one.seeds for key, one in parts._sets.items()},
        closed_=parts._closed,
    )
    owners: dict[int, int] = {}
    for rank, facts in enumerate(everyone):
        for key in facts["closed_"]:
            others = [
                r for r, theirs in enumerate(everyone) if r != rank and key in theirs["closed_"] | theirs["open_"]
            ]
            if others:
                raise ValueError(
                    f"{op}: parts must not have a set that a rank has closed, got {key} on ranks {rank} and {others[0]}"
                )
            owners[key] = facts["closed_"][key]
    n, c = parts.target.shape
    for key in sorted({key for facts in everyone for key in facts["open_"]}):
        one = parts._sets.get(key) or _Set(n, c, device=parts.target.device)
        both = ranks.sum(torch.cat([one.sums, one.squares[:, None]], 1))
        one.sums, one.squares = both[:, :c].contiguous(), both[:, c].contiguous()
        one.seeds = sum(facts["open_"].get(key, 0) for facts in everyone)
        parts._sets[key] = one
    if owners:
        zeros = {
            name: torch.zeros(n, *([c] if name == "deviation" else []), dtype=torch.float64, device=parts.target.device)
            for name in _FOLDED
        }
        mine = parts._folded or zeros
        parts._folded = {name: ranks.sum(mine[name]) for name in _FOLDED}
        parts._closed = owners
