"""Tangent kernels of whole networks, a block of samples at a time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gramian._progress import progress_bar

from ._linear_gram import LayerCost, layer_cost
from ._recording import Factors, factors_of, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

__all__ = ["empirical_ntk", "samples_at_once"]

_layers_gram = torch.ops.gramian.ntk_layers_gram_.default


def _explain(factors: Sequence[Factors], costs: Sequence[LayerCost], *, header: bool) -> str:
    head = f"{'parameters':<36} {'t':>6} {'d_in':>6} {'d_out':>6} {'hadamard':>10} {'materialise':>11}  route"
    lines = [head] if header else []
    for f, cost in zip(factors, costs, strict=True):
        sizes = f"{f.pieces[0].shape[2]:>6} {f.d_in:>6} {f.pieces[0].shape[3]:>6}"
        lines.append(f"{f.name:<36} {sizes} {cost.hadamard:>10.2e} {cost.materialise:>11.2e}  {cost.route}")
    return "\n".join(lines)


_WRITTEN_BYTES = 128 << 20  # factors that are written out at a time


def samples_at_once(
    model: nn.Module,
    x: Tensor,
    outputs: str | int | Tensor,
    params: Sequence[str] | None,
    wanted: int | None,
    memory_bytes: int,
) -> int:
    """Samples that go through the network at a time: as wanted, or as many as memory holds the factors of."""
    if wanted is not None:
        if wanted < 1:
            raise ValueError(f"empirical_ntk: block_size must be at least 1, got {wanted}")
        return wanted
    if len(x) <= 32:
        return len(x)
    recording = record(model, x[:1], outputs, params)
    inputs, gradients = recording.bytes
    together = 1 if isinstance(outputs, str) and outputs == "trace" else len(recording.seeds)
    return max(1, min(len(x), memory_bytes // max(1, inputs + together * gradients)))


def _passes(left: Iterable[Factors], right: Iterable[Factors] | None) -> Iterator[list[tuple[Factors, Factors | None]]]:
    """Layers whose factors are written out together: the more, the less often the kernel is read and written."""
    some: list[tuple[Factors, Factors | None]] = []
    held = 0
    for pair in zip(left, itertools.repeat(None)) if right is None else zip(left, right, strict=True):
        some.append(pair)
        held += sum(f.bytes for f in pair if f is not None)
        if held > _WRITTEN_BYTES:
            yield some
            some, held = [], 0
    if some:
        yield some


def _add(
    kernel: Tensor,
    layers: list[tuple[Factors, Factors | None]],
    *,
    trace: bool,
    accumulate: bool,
    at: tuple[int, int],
    mirror: bool,
    explain: bool,
) -> None:
    costs = [_cost(f, f2, trace=trace) for f, f2 in layers]
    if explain:
        print(_explain([f for f, _ in layers], costs, header=not accumulate))
    a1: list[Tensor] = []
    g1: list[Tensor] = []
    a2: list[Tensor] = []
    g2: list[Tensor] = []
    flags: list[int] = []
    routes: list[int] = []
    for (f, f2), cost in zip(layers, costs, strict=True):
        materialised = cost.route == "materialise"
        # A trace is a sum over outputs: where gradients are formed, outputs that are apart may be layers of their own.
        one = trace and materialised
        pieces = f.pieces if one else [f.g]
        a1 += [f.a] * len(pieces)
        g1 += pieces
        if f2 is not None:
            a2 += [f2.a] * len(pieces)
            g2 += f2.pieces if one else [f2.g]
        flags += [int(f.bias) + 2 * f.equal] * len(pieces)
        routes += [int(materialised)] * len(pieces)
    _layers_gram(kernel, a1, g1, a2, g2, flags, routes, trace, accumulate, *at, mirror)


def _cost(f: Factors, f2: Factors | None, *, trace: bool) -> LayerCost:
    cost = layer_cost(
        len(f.a),
        len(f.a if f2 is None else f2.a),
        outputs=sum(piece.shape[1] for piece in f.pieces),
        positions=f.pieces[0].shape[2],
        d_in=f.d_in,
        d_out=f.pieces[0].shape[3],
        symmetric=f2 is None,
        trace=trace,
    )
    return cost._replace(route="hadamard") if f.equal else cost


def empirical_ntk(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Literal["full", "trace", "sum"] | int | Tensor = "full",
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    memory_bytes: int = 1 << 30,
    explain: bool = False,
    progress: bool = False,
) -> Tensor:
    r"""Empirical tangent kernel ``K[n, m, c, e] = ⟨∂f_c(x_n)/∂w, ∂f_e(x_m)/∂w⟩`` of a network.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample, with the samples on
            the first axis of every layer. Linear layers, convolutions, embeddings, multi-head attention and norms (of
            statistics that are fixed) have rules; any other module with parameters is differentiated by itself with torch.func, which writes out its
            gradients, ``[n, c, p]``; so is the whole model by a parameter that is used outside its layer. Layers may be
            used more than once and share parameters.
        x1: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        x2: ``[m, ...]`` further inputs; left out, the kernel of ``x1`` with itself.
        outputs: ``"full"`` keeps all pairs of outputs; ``"trace"`` is the sum over equal ones (not their mean);
            ``"sum"`` is the kernel of ``Σ_c f_c``; a number is the kernel of that output alone; a tensor ``[c, r]`` is the
            full kernel of the ``r`` projections ``f(x) @ outputs``.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as keep the layers' inputs and
            gradients of a block within ``memory_bytes``. The result is the same to rounding for every size.
        memory_bytes: that budget; a trace keeps within it by taking fewer outputs at a time, before fewer samples.
        explain: print the layers, what either route costs for each in the first block, and the choice.
        progress: show a bar over the blocks (with tqdm installed).

    Returns:
        ``[n, m, c, c]`` (``"full"``; a view of contiguous ``[n, c, m, c]``, so that the matrix
        ``K.permute(0, 2, 1, 3).reshape(n * c, m * c)`` costs nothing; with a projection ``[n, m, r, r]``), else ``[n, m]``. Units of the outputs squared over
        those of the parameters squared. float64 for a float64 model, else float32. Without ``x2`` symmetric to the bit,
        and positive semi-definite to rounding. It carries no gradient.

    Raises:
        ValueError: batch normalisation or dropout in training mode, a model that draws random numbers of torch's (others it
            cannot see), an embedding with ``max_norm``, an output that is not ``[n, c]``, a layer that loses the samples' axis, an unknown name in ``params``, no parameter that
            reaches the output, ``outputs`` out of range, ``block_size`` below 1.

    Cost:
        One forward pass, one backward pass with all outputs (as a batch, or in turn where they are large), and for each layer what `layer_cost` says.
        Every entry of the result is written once, with all layers summed. Extra memory: the factors of one block
        (two with several blocks), and what `linear_gram` says. The Jacobian ``[n c, p]`` is never stored.

    Accuracy:
        That of the backward pass and of `linear_gram`.

    The model, its ``.grad`` and its hooks stay as they were, also after an exception. Works within ``torch.no_grad()`` and
    ``torch.autocast``.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> empirical_ntk(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), outputs="trace")
        tensor([[1., 1.],
                [1., 2.]])
    """
    if memory_bytes < 1:
        raise ValueError(f"empirical_ntk: memory_bytes must be at least 1, got {memory_bytes}")
    if isinstance(outputs, str) and outputs not in ("full", "trace", "sum"):
        raise ValueError(f"empirical_ntk: outputs must be 'full', 'trace', 'sum' or a number, got {outputs!r}")
    if len(x1) == 0 or (x2 is not None and len(x2) == 0):
        raise ValueError(f"empirical_ntk: {'x1' if len(x1) == 0 else 'x2'} must have at least one sample, got 0")
    if x2 is not None and x2.shape[1:] != x1.shape[1:]:
        raise ValueError(
            f"empirical_ntk: x2 must have samples like x1 {tuple(x1.shape[1:])}, got {tuple(x2.shape[1:])}"
        )
    if x2 is not None and (x2.dtype != x1.dtype or x2.device != x1.device):
        raise ValueError(f"empirical_ntk: x2 must be {x1.dtype} on {x1.device} like x1, got {x2.dtype} on {x2.device}")

    symmetric, trace = x2 is None, isinstance(outputs, str) and outputs == "trace"
    full = isinstance(outputs, Tensor) or outputs == "full"
    n, m = len(x1), len(x1 if x2 is None else x2)
    size = samples_at_once(model, x1, outputs, params, block_size, memory_bytes)
    pairs = [(i, j) for i in range(0, n, size) for j in range(0, m, size) if not symmetric or j >= i]
    kernel = torch.empty(0)
    for at, (i, j) in progress_bar(list(enumerate(pairs)), "tangent kernel", shown=progress):
        if at == 0 or pairs[at - 1][0] != i:
            rows = record(model, x1[i : i + size], outputs, params)
        alone = symmetric and i == j
        cols = rows if alone else record(model, (x1 if x2 is None else x2)[j : j + size], outputs, params)
        if at == 0:
            kept = 1 if trace else len(rows.seeds)
            dtype = torch.float64 if rows.out.dtype == torch.float64 else torch.float32
            kernel = torch.empty(n, kept, m, kept, dtype=dtype, device=rows.out.device)
        inputs, gradients = rows.bytes
        together = max(1, (memory_bytes - inputs) // max(1, gradients)) if trace else len(rows.seeds)
        accumulate = False
        for first in range(0, len(rows.seeds), together):
            some = slice(first, first + together)
            for layers in _passes(
                factors_of(rows, some, apart=trace), None if alone else factors_of(cols, some, apart=trace)
            ):
                _add(
                    kernel,
                    layers,
                    trace=trace,
                    accumulate=accumulate,
                    at=(i, j),
                    mirror=symmetric,
                    explain=explain and at + first == 0,
                )
                accumulate = True
    return kernel.permute(0, 2, 1, 3) if full else kernel[:, 0, :, 0]
