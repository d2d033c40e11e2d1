"""Figures of kernels and of how they change along a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ._axes import make_axes, named, numbers, say_if_empty, styled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

    from gramian.dynamics import GroupProgress
    from gramian.ntk import AlignmentRecord, Eigenpairs


def eigenvalues(values: Tensor | Eigenpairs | Mapping[str, Tensor], *, axes: Axes | None = None) -> Axes:
    """Draw the spectrum of a kernel: eigenvalues over their rank, both logarithmic.

    Args:
        values: ``[k]`` eigenvalues as of `ntk.spectrum`, the result of `ntk.ntk_top`, or several by name. Those that are not
            positive have no logarithm and are left out.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, ranks from 1 on the first, eigenvalues in the kernel's own units on the second.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: values that are not ``[k]``.

    Example:
        >>> eigenvalues(torch.tensor([4.0, 2.0, 1.0])).get_xlabel()
        'rank of the eigenvalue'
    """
    axes = make_axes(axes, "rank of the eigenvalue", "eigenvalue (units of the kernel)", "Spectrum of the kernel")
    several: dict[str, Tensor | Eigenpairs] = named(values)
    for name, found, style in styled(several):
        line = found if isinstance(found, torch.Tensor) else found.values
        if line.ndim != 1:
            raise ValueError(f"eigenvalues: values must be [k], got shape {tuple(line.shape)}")
        rank = torch.arange(1, len(line) + 1, device=line.device)[line > 0]
        if len(rank):
            axes.loglog(numbers(rank), numbers(line[line > 0]), label=name or None, **style)
        if name:
            axes.legend(frameon=False)
    say_if_empty(axes)
    return axes


def kernel(K: Tensor, *, order: Tensor | None = None, axes: Axes | None = None) -> Axes:  # noqa: N803
    """Draw a kernel as a picture, one pixel a pair of samples.

    Args:
        K: ``[n, m]``.
        order: ``[n]`` of a square kernel: class numbers; samples of a class stand side by side.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, with a colour bar in the kernel's own units; a kernel with entries of both signs has white at 0.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: ``K`` is not ``[n, m]``, or ``order`` does not fit.

    Example:
        >>> kernel(torch.eye(3)).get_title("left")
        'Kernel'
    """
    if K.ndim != 2:
        raise ValueError(f"kernel: K must be [n, m], got shape {tuple(K.shape)}")
    if order is not None:
        if order.shape != K.shape[:1] or K.shape[0] != K.shape[1]:
            raise ValueError(f"kernel: order must be [n] of a square kernel, got shape {tuple(order.shape)}")
        place = order.argsort(stable=True)
        K = K[place][:, place]  # noqa: N806
    axes = make_axes(axes, "sample", "sample", "Kernel")
    signed = bool((K < 0).any())
    most = float(K.abs().max()) if K.numel() else 1.0
    low, high = (-most, most) if signed else (None, None)
    image = axes.imshow(
        numbers(K), cmap="RdBu_r" if signed else "cividis", interpolation="nearest", vmin=low, vmax=high
    )
    axes.figure.colorbar(image, ax=axes, label="entry (units of the kernel)")
    return axes


def alignment(
    records: Sequence[AlignmentRecord],
    *,
    what: Literal["alignment", "effective_rank", "top_share", "trace", "complexity"] = "alignment",
    axes: Axes | None = None,
) -> Axes:
    """Draw what a recorder saw of each of its sets along a training.

    Args:
        records: of `ntk.AlignmentRecorder`.
        what: which number.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, the loop's steps on the first, the number on the second.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.ntk import AlignmentRecord
        >>> alignment([AlignmentRecord(0, "train", 0.1, 3.0, 0.5, 1.0, 0.0, 0.0)]).get_ylabel()
        'alignment with the labels'
    """
    units = {
        "alignment": "alignment with the labels",
        "effective_rank": "effective rank",
        "top_share": "share of the trace in the largest modes",
        "trace": "trace (units of the kernel)",
        "complexity": "complexity so far",
    }
    axes = make_axes(axes, "step", units[what], "Tangent kernel along training")
    sets: dict[str, list[AlignmentRecord]] = {}
    for record in records:
        sets.setdefault(record.name, []).append(record)
    for name, found, style in styled(sets):
        axes.plot([r.step for r in found], [getattr(r, what) for r in found], label=name, **style)
    if sets:
        axes.legend(frameon=False)
    say_if_empty(axes)
    return axes


def progress(
    result: GroupProgress, *, measure: Literal["accuracy", "loss"] = "accuracy", axes: Axes | None = None
) -> Axes:
    """Draw groups of samples against all samples together: who is learned first.

    Args:
        result: with at least one record.
        measure: accuracy from 0 to 1, or the mean loss in nats.
        axes: where to draw; a new figure without it.

    Returns:
        The axes, the measure of all samples on the first, that of each group on the second; the thin line is equal progress.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from gramian.dynamics import GroupProgress
        >>> found = GroupProgress({"first": torch.tensor([0])})
        >>> found.record(torch.eye(2), torch.tensor([0, 1]))
        >>> progress(found).get_ylabel()
        'accuracy of the group'
    """
    unit = " (nats)" if measure == "loss" else ""
    axes = make_axes(
        axes, f"{measure} of all samples{unit}", f"{measure} of the group{unit}", "Groups at equal progress"
    )
    everyone, groups = result.curves(measure)
    for name, curve, style in styled(dict(zip(result.names, groups.unbind(1), strict=True))):
        axes.plot(numbers(everyone), numbers(curve), label=name, **style)
    axes.axline((0, 0), slope=1, color="#999999", lw=0.8)
    axes.legend(frameon=False)
    return axes
