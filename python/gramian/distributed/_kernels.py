"""Tangent kernels over ranks: blocks of rows by a ring, alignment and eigenpairs without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from gramian import ntk
from gramian._lanczos import Eigenpairs, lanczos
from gramian._safetensors import load, save
from gramian.ntk._matrix_free import _Operator, checked_block_size, most_products
from gramian.ntk._recording import selected
from gramian.ntk._streamed import KernelSums, aligned, check_labels

from ._neighbors import starts_of
from ._ranks import Ranks, digest, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist

__all__ = ["empirical_ntk", "ntk_top", "streamed_label_alignment"]

T = TypeVar("T")


def _weights_of(model: nn.Module) -> str:
    return digest(*(t for _, t in sorted(model.state_dict().items())))[:16]


def _tried(call: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return what a call gives, or why it refuses: all ranks then raise, not the one alone."""
    try:
        return call(), None
    except ValueError as error:
        return None, str(error).split(": ", 1)[-1]


def _rows_of_each(op: str, everyone: Sequence[dict[str, Any]]) -> list[int]:
    rows = [facts["rows_"] for facts in everyone]
    if sum(rows) == 0:
        raise ValueError(f"{op}: x must have at least one sample on some rank, got 0 on all")
    return rows


def empirical_ntk(
    model: nn.Module,
    x: Tensor,
    *,
    outputs: Literal["full", "trace", "sum"] | int = "full",
    params: Sequence[str] | None = None,
    folder: str | Path | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""This rank's rows of the tangent kernel ``K[n, m, c, e] = ⟨∂f_c(x_n)/∂w, ∂f_e(x_m)/∂w⟩`` of samples over ranks.

    Samples travel round a ring, and each pair of shards makes its block of the kernel on one rank, which sends it to the other.

    Args:
        model: as for `gramian.ntk.empirical_ntk`, with the same parameters on every rank.
        x: ``[n_r, ...]``, this rank's inputs; any number, also none, and not none on all. Or a DTensor sharded by rows.
        outputs: ``"full"``, ``"trace"``, ``"sum"`` or the number of an output, as for `gramian.ntk.empirical_ntk`.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        folder: where ranks keep blocks, as safetensors files, as they are done; each must see its own. Called again with the same
            arguments and ranks after an interruption, what is there is read, not computed.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``[n_r, n, c, c]`` (a view of contiguous ``[n_r, c, n, c]``) or ``[n_r, n]``: this rank's rows of the kernel of all ranks' samples
        in their order; a DTensor if ``x`` is one. The whole is symmetric to the bit.

    Raises:
        ValueError: on every rank, before blocks are exchanged, if one has a reason: what `gramian.ntk.empirical_ntk` refuses, ranks that
            disagree or have other parameters, a folder that holds another run.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        That of `gramian.ntk.empirical_ntk` over the number of ranks; half of the inputs and of the kernel sent. Memory: this
        rank's rows of the kernel, two shards of inputs, and two blocks. `ntk_cost` says how long that takes.

    Accuracy:
        That of `gramian.ntk.empirical_ntk`: entries agree with those of one rank to rounding, as blocks of other sizes add in another order.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> empirical_ntk(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), outputs="trace")  # one rank
        tensor([[1., 1.],
                [1., 2.]])
    """
    op = "empirical_ntk"
    given = rows_of(op, "x", x, group)
    own = given.local
    ranks = Ranks(op, given.group, own.device)
    here = ranks.rank
    asked = {
        "outputs": outputs,
        "params": None if params is None else list(params),
        "sample": list(own.shape[1:]),
        "dtype": str(own.dtype),
        "parameters": _weights_of(model),
        "folder": "given" if folder is not None else "not given",
    }
    data = digest(own) if folder is not None else ""
    everyone = ranks.agree(None, **asked, rows_=len(own), data_=data)
    rows = _rows_of_each(op, everyone)
    blocks, problem = _tried(
        lambda: _Blocks(
            None if folder is None else Path(folder), here, {**asked, "data": [f["data_"] for f in everyone]}
        )
    )
    ranks.agree(problem)

    def block(at: Sequence[int], x1: Tensor, x2: Tensor | None) -> Tensor:
        assert blocks is not None  # noqa: S101 - else there was a problem
        return blocks.get(at, lambda: ntk.empirical_ntk(model, x1, x2, outputs=outputs, params=params))

    alone, problem = _tried(lambda: block([here, here], own, None) if len(own) else None)
    kinds = ranks.agree(problem, kind_=None if alone is None else (alone.shape[2:], alone.dtype))
    tail, dtype = next(facts["kind_"] for facts in kinds if facts["kind_"] is not None)
    full = len(tail) > 0
    outs = tail[0] if full else 1
    starts = starts_of(rows)
    kernel = torch.empty(len(own), outs, sum(rows), outs, dtype=dtype, device=own.device)

    def put(mine: slice, start: int, part: Tensor) -> None:
        """Write a block ``[rows, c, cols, c]`` to its place."""
        kernel[mine, :, start : start + part.shape[2]] = part

    def plain(part: Tensor) -> Tensor:
        return part.permute(0, 2, 1, 3) if full else part[:, None, :, None]

    if alone is not None:
        put(slice(0, len(own)), starts[here], plain(alone))
    for met in ranks.meetings([own], rows):
        sizes = (met.mine.stop - met.mine.start, len(met.held[0]))
        give = []
        if min(sizes) > 0:
            at = [here, met.owner, met.mine.start, met.theirs.start]
            part = plain(block(at, own[met.mine], met.held[0]))
            put(met.mine, starts[met.owner] + met.theirs.start, part)
            give = [part.permute(2, 3, 0, 1).contiguous()]
        take = [kernel.new_empty((met.given.stop - met.given.start, outs, met.by.stop - met.by.start, outs))]
        ranks.wait(ranks.exchange(give, met.owner, take, met.giver), met.owner, met.giver)
        put(met.given, starts[met.giver] + met.by.start, take[0])
    ranks.finish()
    return given.wrap(kernel.permute(0, 2, 1, 3) if full else kernel[:, 0, :, 0])


class _Blocks:
    """Blocks of a kernel, kept in a folder if there is one."""

    def __init__(self, folder: Path | None, rank: int, about: dict[str, Any]) -> None:
        """Refuse a folder in which this rank has blocks of another run."""
        self.folder, self.about = folder, json.dumps(about)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"block-{rank}-*.safetensors"):
            if load(path)[1].get("run") != self.about:
                raise ValueError(
                    f"empirical_ntk: folder must hold a run of the same arguments, got another in {path.name}"
                )

    def get(self, at: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        if self.folder is None:
            return make()
        path = self.folder / f"block-{'-'.join(map(str, at))}.safetensors"
        if path.exists():
            return load(path)[0]["block"]
        made = make()
        save(path, {"block": made}, {"run": self.about})
        return made


def ntk_top(
    model: nn.Module,
    x: Tensor,
    k: int,
    *,
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    tol: float = 1e-5,
    max_iter: int | None = None,
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> Eigenpairs:
    r"""Largest eigenvalues of the tangent kernel of samples that are spread over ranks, and their vectors, by Lanczos.

    A product with the kernel is :math:`J (J^\top v)`: each rank pulls its part of ``v`` back to the parameters, these are added over
    the ranks, and each pushes the sum forward. Nothing of size ``n^2`` is formed, and vectors stay spread over the ranks.

    Args:
        model: as for `gramian.ntk.ntk_top`, with the same parameters on every rank.
        x: ``[n_r, ...]``, this rank's inputs; any number, also none, and not none on all. Or a DTensor sharded by rows.
        k: eigenpairs, from 1 to ``n c``.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time, as in `ntk.ntk_top`.
        tol: stop when all residuals are below this share of the largest eigenvalue.
        max_iter: most products; ``10 k + 100`` by default, never more than ``n c``.
        generator: of the random start; that of the first rank rules, torch's own without it.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        ``Eigenpairs(values, vectors, residuals, converged)`` as of `gramian.ntk.ntk_top`: values and residuals the same bits on every rank,
        vectors ``[n_r, c, k]`` of this rank's samples, a DTensor if ``x`` is one.

    Raises:
        ValueError: on every rank, before work, if one has a reason: what `gramian.ntk.ntk_top` refuses, ranks that disagree.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        The products of `gramian.ntk.ntk_top` over the number of ranks; for each, twice the parameters sent and received. Memory:
        ``max_iter`` vectors of this rank's samples.

    Accuracy:
        That of `gramian.ntk.ntk_top`; the start does not depend on the number of ranks, the rounding does.

    The model stays as it was. The result carries no gradient.

    References:
        Lanczos, Journal of Research of the National Bureau of Standards 45, 1950.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> ntk_top(model, torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1).values.round(decimals=4)  # one rank
        tensor([9.], dtype=torch.float64)
    """
    op = "ntk_top"
    given = rows_of(op, "x", x, group)
    own = given.local
    ranks = Ranks(op, given.group, own.device)
    operator, problem = _tried(lambda: _Operator(op, model, own, params, block_size) if len(own) else None)
    everyone = ranks.agree(
        problem,
        k=k,
        sample=list(own.shape[1:]),
        dtype=str(own.dtype),
        parameters=_weights_of(model),
        params=params,
        max_iter=max_iter,
        tol=tol,
        rows_=len(own),
        kind_=None if operator is None else (operator.shape[1], operator.dtype),
        seed_=int(torch.randint(1 << 62, (), generator=generator)),
    )
    rows = _rows_of_each(op, everyone)
    outs, dtype = next(facts["kind_"] for facts in everyone if facts["kind_"] is not None)
    size = sum(rows) * outs
    most = most_products(op, k, size, max_iter)
    wanted = selected(model, params).values()
    empty = {name: torch.zeros_like(p) for name, p in model.named_parameters() if name in wanted}

    def product(q: Tensor) -> Tensor:
        pulled = empty if operator is None else operator.pull(q.to(dtype).view(len(own), outs))
        flat = ranks.sum(torch.cat([g.reshape(-1) for g in pulled.values()]))
        pieces = torch.split(flat, [g.numel() for g in pulled.values()])
        added = {name: piece.view_as(g) for (name, g), piece in zip(pulled.items(), pieces, strict=True)}
        return q if operator is None else operator.push(added).flatten().double()

    begin = starts_of(rows)[ranks.rank] * outs
    found = lanczos(
        product,
        size,
        k,
        eps=torch.finfo(dtype).eps,
        tol=tol,
        most=most,
        device=own.device,
        generator=torch.Generator().manual_seed(everyone[0]["seed_"]),
        progress=False,
        part=slice(begin, begin + len(own) * outs),
        total=ranks.sum,
    )
    return found._replace(vectors=given.wrap(found.vectors.to(dtype).view(len(own), outs, k)))


def streamed_label_alignment(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    centered: bool = True,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Alignment of the trace kernel with the labels, :math:`A(K, Y Y^\top)`, of samples that are spread over ranks.

    Blocks of the kernel are made as by `empirical_ntk`, summed up and forgotten; only sums over their rows are sent.

    Args:
        model: as for `gramian.ntk.empirical_ntk`, with the same parameters on every rank.
        x: ``[n_r, ...]``, this rank's inputs; any number, also none, and not none on all. Or a DTensor sharded by rows.
        labels: ``[n_r]`` integer classes of this rank's samples, not negative.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: rows of the kernel at a time, 1024 by default.
        centered: centre both kernels first.
        group: the ranks; all by default. Without torch.distributed, one.

    Returns:
        Scalar tensor, float64: `gramian.ntk.streamed_label_alignment` of all ranks' samples, to rounding; the same bits on every rank.

    Raises:
        ValueError: on every rank, before work, if one has a reason: labels that are not ``[n_r]`` integers, what
            `gramian.ntk.empirical_ntk` refuses, ranks that disagree.
        RankError: a rank died or was silent for longer than the group's timeout.

    Cost:
        The whole kernel's work over the number of ranks; half of the inputs sent. Memory: one block of the kernel.

    Accuracy:
        That of `gramian.ntk.streamed_label_alignment`.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> x, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> round(streamed_label_alignment(torch.nn.Linear(2, 1), x, labels).item(), 6)  # one rank
        1.0
    """
    op = "streamed_label_alignment"
    given = rows_of(op, "x", x, group)
    own, marks = given.local, rows_of(op, "labels", labels, group).local
    ranks = Ranks(op, given.group, own.device)

    def own_sums() -> tuple[KernelSums, int]:
        check_labels(op, marks, len(own))
        if len(marks) and int(marks.min()) < 0:
            raise ValueError(f"{op}: labels must not be negative, got {int(marks.min())}")
        size = checked_block_size(op, block_size)
        return KernelSums.of(model, own, marks, None, params, size), size

    found, problem = _tried(own_sums)
    everyone = ranks.agree(
        problem,
        sample=list(own.shape[1:]),
        dtype=str(own.dtype),
        parameters=_weights_of(model),
        params=params,
        centered=centered,
        rows_=len(own),
        classes_=int(marks.max()) + 1 if len(marks) else 0,
    )
    rows = _rows_of_each(op, everyone)
    assert found is not None  # noqa: S101 - else there was a problem
    sums, size = found
    for met in ranks.meetings([own, marks], rows):
        part = KernelSums.of(model, own[met.mine], marks[met.mine], (met.held[0], met.held[1]), params, size)
        take = [sums.over_cols.new_empty(met.given.stop - met.given.start)]
        ranks.wait(ranks.exchange([part.over_rows], met.owner, take, met.giver), met.owner, met.giver)
        sums.over_cols[met.mine] += part.over_cols
        sums.over_cols[met.given] += take[0]
        sums = sums._replace(square=sums.square + 2 * part.square, product=sums.product + 2 * part.product)
    classes = max(facts["classes_"] for facts in everyone)
    counts = ranks.sum(torch.bincount(marks, minlength=classes).double())
    return aligned(sums, counts[marks], sum(rows), centered=centered, total=ranks.sum)
