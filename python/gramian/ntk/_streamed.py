"""Alignment of a tangent kernel with labels, from blocks of its rows that are forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gramian._progress import progress_bar

from ._empirical import empirical_ntk
from ._matrix_free import checked_block_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["KernelSums", "aligned", "check_labels", "streamed_label_alignment"]


def check_labels(op: str, labels: Tensor, n: int) -> None:
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{op}: labels must be [n] integers with n = {n} like x, got shape {tuple(labels.shape)} {labels.dtype}"
        )


def streamed_label_alignment(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    centered: bool = True,
    progress: bool = False,
) -> Tensor:
    r"""Alignment of the trace kernel with the labels, :math:`A(K, Y Y^\top)`, from blocks of rows that are forgotten.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample.
        x: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        labels: ``[n]`` integer classes.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: rows of the kernel at a time, 1024 by default.
        centered: centre both kernels first, as `center` does.
        progress: show a bar over the blocks (with tqdm installed).

    Returns:
        Scalar tensor, float64: ``label_alignment(empirical_ntk(model, x, outputs="trace"), labels)`` to rounding.

    Raises:
        ValueError: labels that are not ``[n]`` integers, and what `empirical_ntk` refuses.

    Cost:
        The whole kernel's work: each block of rows against the rows from it on, which go through the network once more for
        every block, so ``n / block_size / 2`` times each. Memory: one block of rows, ``block_size n``, in float64. Sums of the
        kernel, its square and its product with the labels' kernel are all that is kept.

    Accuracy:
        The entries of `empirical_ntk`; the centred sums lose the digits that the centred kernel is smaller by.

    The model stays as it was. The result carries no gradient.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> x, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
        >>> round(streamed_label_alignment(torch.nn.Linear(2, 1), x, labels).item(), 6)
        1.0
    """
    op = "streamed_label_alignment"
    n = len(x)
    check_labels(op, labels, n)
    size = checked_block_size(op, block_size)
    sums = KernelSums.of(model, x, labels, None, params, size, progress=progress)
    counts = torch.bincount(labels - labels.min()).double()
    return aligned(sums, counts[labels - labels.min()], n, centered=centered)


class KernelSums(NamedTuple):
    """Of a block of a trace kernel: sums of its squares, of its entries of equal labels, and over each of its two axes."""

    square: Tensor
    product: Tensor
    over_cols: Tensor
    over_rows: Tensor

    @staticmethod
    def of(
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        other: tuple[Tensor, Tensor] | None,
        params: Sequence[str] | None,
        size: int,
        *,
        progress: bool = False,
    ) -> KernelSums:
        """Sum up the kernel of ``x`` with other samples and their labels, or with itself, a piece at a time."""
        y, y_labels = (x, labels) if other is None else other
        over_cols, over_rows = (torch.zeros(len(t), dtype=torch.float64, device=labels.device) for t in (x, y))
        square = product = torch.zeros((), dtype=torch.float64, device=labels.device)
        for i in progress_bar(range(0, len(x), size), "alignment", shown=progress):
            rows, later = slice(i, i + size), slice(0 if other else i + size, len(y))
            for cols in ([] if other else [rows]) + ([later] if later.start < later.stop else []):
                alone = cols == rows and not other
                block = empirical_ntk(model, x[rows], None if alone else y[cols], outputs="trace", params=params)
                block = block.to(labels.device).double()
                twice = 1 if other or alone else 2
                square = square + twice * block.square().sum()
                product = product + twice * (block * (labels[rows, None] == y_labels[cols])).sum()
                over_cols[rows] += block.sum(1)
                if not alone:
                    (over_rows if other else over_cols)[cols] += block.sum(0)
        return KernelSums(square, product, over_cols, over_rows)


def aligned(
    sums: KernelSums,
    label_rows: Tensor,
    n: int,
    *,
    centered: bool,
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor:
    """Alignment of a kernel and the labels' from sums over their entries and rows; ``total`` adds those of several processes."""
    rows = sums.over_cols
    parts = [sums.square, sums.product, rows.square().sum(), rows.sum(), rows @ label_rows]
    parts += [label_rows.square().sum(), label_rows.sum()]
    square, product, rows_square, rows_sum, rows_product, label_rows_square, label_sum = total(torch.stack(parts))
    label_square = label_sum  # entries are 0 or 1
    if centered:
        square = square - 2 / n * rows_square + (rows_sum / n) ** 2
        product = product - 2 / n * rows_product + rows_sum * label_sum / n**2
        label_square = label_square - 2 / n * label_rows_square + (label_sum / n) ** 2
    result: Tensor = product / (square * label_square).sqrt()
    return result
