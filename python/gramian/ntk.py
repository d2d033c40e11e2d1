"""Tangent kernels: the Gram matrices of the parameter gradients of a network, and what is read off them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ._progress import progress_bar
from ._tangent import Factors, layer_factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = [
    "LayerCost",
    "alignment",
    "center",
    "effective_rank",
    "empirical_ntk",
    "label_alignment",
    "label_kernel",
    "layer_cost",
    "linear_gram",
    "spectrum",
    "trace_ratio",
]

Route = Literal["auto", "hadamard", "materialise"]

_linear_gram = torch.ops.gramian.ntk_linear_gram.default
_layers_gram = torch.ops.gramian.ntk_layers_gram_.default


def _fake_linear_gram(a1: Tensor, g1: Tensor, a2: Tensor | None, *rest: Any) -> Tensor:
    _, _, trace, _ = rest
    *batch, n, _, _ = a1.shape
    m, c = (n if a2 is None else a2.shape[-3]), g1.shape[-3]
    dtype = torch.float64 if a1.dtype == torch.float64 else torch.float32
    return a1.new_empty((*batch, n, m) if trace else (*batch, n, c, m, c), dtype=dtype)


def _batched_linear_gram(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    def leading(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None:
            return None
        return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)

    sides = [leading(x, dim) for x, dim in zip(arguments[:4], in_dims[:4], strict=True)]
    return _linear_gram(*sides, *arguments[4:]), 0


torch.library.register_fake("gramian::ntk_linear_gram", _fake_linear_gram)
torch.library.register_fake("gramian::ntk_layers_gram_", lambda *_: None)
torch.library.register_vmap("gramian::ntk_linear_gram", _batched_linear_gram)


class LayerCost(NamedTuple):
    """Operations of the two routes for one layer, and the cheaper one."""

    hadamard: float
    materialise: float
    route: Literal["hadamard", "materialise"]


def layer_cost(
    n: int,
    m: int,
    *,
    outputs: int,
    positions: int,
    d_in: int,
    d_out: int,
    symmetric: bool = True,
    trace: bool = False,
) -> LayerCost:
    """Operations that the tangent-kernel Gram of one layer takes by either route.

    Hadamard, ``pairs T² (d_in + C² d_out)``, grows with the square of the positions; materialise,
    ``(n + m) C T d_in d_out`` to form the Jacobian and ``pairs C² d_in d_out`` to multiply it, with the product of the
    widths. ``pairs`` is ``n m``, or ``n (n + 1) / 2`` when symmetric.

    Args:
        n: samples of the first side.
        m: samples of the second side.
        outputs: number of outputs, C.
        positions: inner products that a weight gradient sums, T (tokens, output pixels; 1 for a plain layer).
        d_in: inputs of the layer, counting 1 more for a bias.
        d_out: outputs of the layer.
        symmetric: the two sides are the same.
        trace: the sum over equal outputs is wanted, not all ``C²`` pairs.

    Returns:
        ``LayerCost(hadamard, materialise, route)``: two counts in flops (a multiply-add is two), and the name of the
        route with the smaller one. What a tile costs beside its products, about eight features' worth, is in the count.

    Raises:
        Nothing: any sizes have a cost.

    Cost:
        Constant.

    Accuracy:
        The better route was picked in all measured cases in which they differ by more than 1.3x.

    A pure function of its arguments.

    References:
        Section "cost" of docs/how-it-works/ntk.md.

    Example:
        >>> layer_cost(256, 256, outputs=10, positions=1, d_in=512, d_out=512).route
        'hadamard'
        >>> layer_cost(256, 256, outputs=1, positions=64, d_in=128, d_out=128).route
        'materialise'
    """
    pairs = n * (n + 1) / 2 if symmetric else n * m
    blocks = outputs if trace else outputs * outputs
    tile = 8  # features' worth of loads and stores around each tile
    hadamard = 2 * pairs * positions**2 * (d_in + tile + (outputs * d_out if trace else blocks * d_out) + tile * blocks)
    form = 2 * (n if symmetric else n + m) * outputs * (positions + tile) * d_in * d_out
    materialise = 2 * form + 2 * pairs * blocks * d_in * d_out
    return LayerCost(hadamard, materialise, "hadamard" if hadamard <= materialise else "materialise")


def _route(a1: Tensor, g1: Tensor, a2: Tensor | None, *, bias: bool, trace: bool) -> LayerCost:
    n, positions, d_in = a1.shape[-3:]
    m = n if a2 is None else a2.shape[-3]
    return layer_cost(
        n,
        m,
        outputs=g1.shape[-3],
        positions=positions,
        d_in=d_in + bias,
        d_out=g1.shape[-1],
        symmetric=a2 is None,
        trace=trace,
    )


def linear_gram(
    a1: Tensor,
    g1: Tensor,
    a2: Tensor | None = None,
    g2: Tensor | None = None,
    *,
    reduce: Literal["full", "trace", "sum"] = "full",
    bias: bool = False,
    route: Route = "auto",
) -> Tensor:
    r"""Tangent-kernel Gram of one layer, ``K[n, m, c, e] = ⟨J[n, c], J[m, e]⟩`` with ``J[n, c] = Σ_t g[n, c, t] a[n, t]ᵀ``.

    Args:
        a1: ``[n, t, d_in]`` inputs of the layer; float32, float64, bfloat16 or float16, any strides, read in place.
        g1: ``[n, c, t, d_out]`` gradients of the ``c`` outputs at the layer's output; dtype of ``a1``, any strides.
        a2: ``[m, t, d_in]`` of a second set of samples; left out, the kernel of the first with itself.
        g2: ``[m, c, t, d_out]``; given with ``a2``.
        reduce: ``"full"`` keeps all pairs of outputs, ``"trace"`` sums over equal ones, ``"sum"`` over all pairs.
        bias: the layer has a bias: ``a`` has one more feature, which is 1.
        route: ``"hadamard"`` multiplies Grams of ``a`` and of ``g``, ``"materialise"`` forms ``J`` a piece at a time;
            ``"auto"`` takes what `layer_cost` says is cheaper.

    Returns:
        ``[n, m, c, c]`` (``"full"``; a view of contiguous ``[n, c, m, c]``, so that the matrix
        ``K.permute(0, 2, 1, 3).reshape(n * c, m * c)`` costs nothing) or ``[n, m]``, in the units of the outputs squared
        over those of the parameters squared. float64 for float64 input, else float32. Without a second side it is
        symmetric to the bit.

    Raises:
        ValueError: wrong rank, sizes that do not fit, dtypes that differ or are not floating, no position, no feature
            without a bias, ``a2`` without ``g2``, an unknown ``reduce`` or ``route``.

    Cost:
        See `layer_cost`. Extra memory: packed blocks for each thread, and for ``"materialise"`` a piece of the Jacobian
        of 32 MiB or an eighth of the result, whichever is larger. The Gram of ``a`` alone is never stored.

    Accuracy:
        Sums run over at most 512 features at a time, then over those sums: relative error of an entry about
        ``eps (sqrt(512) + features / 512)`` of ``Σ |terms|``.

    Propagates non-finite values. The same bits for every number of threads. ``torch.compile`` and ``torch.vmap`` work.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel); the factored form is derived in docs/how-it-works/ntk.md.

    Example:
        >>> a, g = torch.tensor([[[2.0]], [[3.0]]]), torch.ones(2, 1, 1, 1)
        >>> linear_gram(a, g)[:, :, 0, 0]
        tensor([[4., 6.],
                [6., 9.]])
    """
    if reduce not in ("full", "trace", "sum"):
        raise ValueError(f"linear_gram: reduce must be 'full', 'trace' or 'sum', got {reduce!r}")
    if route not in ("auto", "hadamard", "materialise"):
        raise ValueError(f"linear_gram: route must be 'auto', 'hadamard' or 'materialise', got {route!r}")
    if reduce == "sum" and g1.ndim == 4:
        g1 = g1.sum(1, keepdim=True)
        g2 = None if g2 is None else g2.sum(1, keepdim=True)
    fits = a1.ndim == 3 and g1.ndim == 4 and (a2 is None or a2.ndim == 3)  # else the op refuses it
    if route == "auto" and fits:
        route = _route(a1, g1, a2, bias=bias, trace=reduce != "full").route
    if not fits and a1.ndim != 3:
        raise ValueError(f"linear_gram: a1 must be [n, t, d_in], got shape {tuple(a1.shape)}")
    kernel = cast("Tensor", _linear_gram(a1, g1, a2, g2, bias, reduce != "full", route == "materialise"))
    return kernel if reduce != "full" else kernel.permute(0, 2, 1, 3)


def _explain(factors: Sequence[Factors], costs: Sequence[LayerCost]) -> str:
    lines = [f"{'parameters':<36} {'t':>6} {'d_in':>6} {'d_out':>6} {'hadamard':>10} {'materialise':>11}  route"]
    for f, cost in zip(factors, costs, strict=True):
        sizes = f"{f.a.shape[1]:>6} {f.a.shape[2] + f.bias:>6} {f.g.shape[3]:>6}"
        lines.append(f"{f.name:<36} {sizes} {cost.hadamard:>10.2e} {cost.materialise:>11.2e}  {cost.route}")
    return "\n".join(lines)


_KEPT_BYTES = 512 << 20  # factors of a block of samples, when block_size is not given


def _block_size(
    model: nn.Module, x: Tensor, outputs: str | int, params: Sequence[str] | None, wanted: int | None
) -> int:
    if wanted is not None:
        if wanted < 1:
            raise ValueError(f"empirical_ntk: block_size must be at least 1, got {wanted}")
        return wanted
    if len(x) <= 32:
        return max(len(x), 1)
    one = layer_factors(model, x[:1], outputs, params)
    per_sample = sum(f.a.nbytes + f.g.nbytes for f in one)
    return max(1, min(len(x), _KEPT_BYTES // max(per_sample, 1)))


def empirical_ntk(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Literal["full", "trace", "sum"] | int = "full",
    params: Sequence[str] | None = None,
    block_size: int | None = None,
    explain: bool = False,
    progress: bool = False,
) -> Tensor:
    r"""Empirical tangent kernel ``K[n, m, c, e] = ⟨∂f_c(x_n)/∂w, ∂f_e(x_m)/∂w⟩`` of a network.

    Args:
        model: a module that maps ``[n, ...]`` to ``[n, c]`` (or ``[n]``: one output), sample by sample. Its trainable
            parameters are in `torch.nn.Linear` layers, which may be used more than once and share parameters.
        x1: ``[n, ...]`` inputs, in the dtype and on the device that the model takes.
        x2: ``[m, ...]`` further inputs; left out, the kernel of ``x1`` with itself.
        outputs: ``"full"`` keeps all pairs of outputs; ``"trace"`` is the sum over equal ones (not their mean);
            ``"sum"`` is the kernel of ``Σ_c f_c``; a number is the kernel of that output alone.
        params: names of the parameters to differentiate by; by default all that require a gradient.
        block_size: samples that go through the network at a time; by default as many as keep the factors of a block
            within 512 MiB. The result is the same to rounding for every size.
        explain: print the layers, what either route costs for each in the first block, and the choice.
        progress: show a bar over the blocks (with tqdm installed).

    Returns:
        ``[n, m, c, c]`` (``"full"``; a view of contiguous ``[n, c, m, c]``, so that the matrix
        ``K.permute(0, 2, 1, 3).reshape(n * c, m * c)`` costs nothing), else ``[n, m]``. Units of the outputs squared over
        those of the parameters squared. float64 for a float64 model, else float32. Without ``x2`` symmetric to the bit,
        and positive semi-definite to rounding. It carries no gradient.

    Raises:
        ValueError: a parameter in a layer of another type, batch normalisation or dropout in training mode, an output
            that is not ``[n, c]``, a layer that loses the samples' axis, an unknown name in ``params``, no parameter that
            reaches the output, ``outputs`` out of range, ``block_size`` below 1.

    Cost:
        One forward pass, one backward pass with all outputs as a batch, and for each layer what `layer_cost` says.
        Every entry of the result is written once, with all layers summed. Extra memory: the factors of one block
        (two with several blocks), and what `linear_gram` says. The Jacobian ``[n c, p]`` is never stored.

    Accuracy:
        That of the backward pass and of `linear_gram`.

    The model, its ``.grad`` and its hooks stay as they were, also after an exception. Works within ``torch.no_grad()``.

    References:
        Baratin et al., arXiv:2008.00938 (tangent kernel).

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> empirical_ntk(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), outputs="trace")
        tensor([[1., 1.],
                [1., 2.]])
    """
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

    symmetric, trace = x2 is None, outputs == "trace"
    n, m = len(x1), len(x1 if x2 is None else x2)
    size = _block_size(model, x1, outputs, params, block_size)
    rows = range(0, n, size)
    cols = range(0, m, size)
    pairs = [(i, j) for i in rows for j in cols if not symmetric or j >= i]
    kernel = torch.empty(0)
    left: list[Factors] = []
    for row, (i, j) in progress_bar(list(enumerate(pairs)), "tangent kernel", shown=progress):
        if row == 0 or pairs[row - 1][0] != i:
            left = layer_factors(model, x1[i : i + size], outputs, params)
        right = (
            []
            if symmetric and i == j
            else layer_factors(model, (x1 if x2 is None else x2)[j : j + size], outputs, params)
        )
        if row == 0:
            kept = 1 if trace else left[0].g.shape[1]
            dtype = torch.float64 if left[0].g.dtype == torch.float64 else torch.float32
            kernel = torch.empty(n, kept, m, kept, dtype=dtype, device=left[0].g.device)
        others: list[Tensor | None] = [f.a for f in right] if right else [None] * len(left)
        costs = [_route(f.a, f.g, a2, bias=f.bias, trace=trace) for f, a2 in zip(left, others, strict=True)]
        if row == 0 and explain:
            print(_explain(left, costs))
        _layers_gram(
            kernel,
            [f.a for f in left],
            [f.g for f in left],
            [f.a for f in right],
            [f.g for f in right],
            [int(f.bias) for f in left],
            [int(cost.route == "materialise") for cost in costs],
            trace,
            False,
            i,
            j,
            symmetric,
        )
    return kernel.permute(0, 2, 1, 3) if outputs == "full" else kernel[:, 0, :, 0]


def _matrix(op: str, name: str, kernel: Tensor) -> Tensor:
    """Return ``[n, m]`` as it is and ``[n, m, c, c]`` as the matrix ``[n c, m c]``."""
    if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3]:
        return kernel.permute(0, 2, 1, 3).reshape(kernel.shape[0] * kernel.shape[2], -1)
    if kernel.ndim != 2:
        raise ValueError(f"{op}: {name} must be [n, m] or [n, m, c, c], got shape {tuple(kernel.shape)}")
    return kernel


def _square(op: str, name: str, kernel: Tensor) -> Tensor:
    matrix = _matrix(op, name, kernel)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{op}: {name} must be square, got shape {tuple(kernel.shape)}")
    return matrix


def center(K: Tensor) -> Tensor:  # noqa: N803
    r"""Centre a kernel, ``K_c = H K H`` with ``H = I - 11ᵀ/n``: the kernel of features whose mean over samples is zero.

    Args:
        K: ``[n, m]`` or ``[n, m, c, c]`` (each pair of outputs is centred by itself); floating, any strides.

    Returns:
        The centred kernel, shape, dtype, device and unit of ``K``; its rows and columns sum to zero over samples.

    Raises:
        ValueError: ``K`` is neither ``[n, m]`` nor ``[n, m, c, c]``.

    Cost:
        Row and column means: a few reads of ``K``; ``H`` is never formed. Extra memory: the result.

    Accuracy:
        A few ulp of the largest mean.

    Differentiable, works under ``torch.func`` and ``torch.compile``.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> center(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    _matrix("center", "K", K)
    over_rows, over_cols = K.mean(0, keepdim=True), K.mean(1, keepdim=True)
    return K - over_rows - over_cols + over_rows.mean(1, keepdim=True)


def alignment(K: Tensor, L: Tensor, *, centered: bool = True) -> Tensor:  # noqa: N803
    r"""Kernel alignment ``A(K, L) = ⟨K_c, L_c⟩ / (|K_c| |L_c|)`` in the Frobenius product (centred kernel alignment).

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]``; floating.
        L: a kernel of the same shape and dtype.
        centered: centre both first (`center`).

    Returns:
        Scalar tensor, dimensionless; in ``[0, 1]`` for positive semi-definite kernels, NaN when one of them is constant.

    Raises:
        ValueError: ``K`` is not square, or ``L`` has another shape.

    Cost:
        A few reads of both; extra memory: the centred copies.

    Accuracy:
        Relative error about ``eps sqrt(n)`` of a sum of products.

    Differentiable, works under ``torch.func`` and ``torch.compile``.

    References:
        Baratin et al., arXiv:2008.00938 (centred kernel alignment).

    Example:
        >>> alignment(torch.eye(3), 2 * torch.eye(3))
        tensor(1.)
    """
    _square("alignment", "K", K)
    if L.shape != K.shape:
        raise ValueError(f"alignment: L must have the shape of K {tuple(K.shape)}, got {tuple(L.shape)}")
    left, right = (center(K), center(L)) if centered else (K, L)
    return (left * right).sum() / (left.square().sum() * right.square().sum()).sqrt()


def _one_hot(op: str, y: Tensor, classes: int | None, dtype: torch.dtype) -> Tensor:
    if y.ndim == 2:
        return y.to(dtype)
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"{op}: y must be [n] class numbers or [n, c] targets, got shape {tuple(y.shape)} {y.dtype}")
    return torch.nn.functional.one_hot(y.long(), -1 if classes is None else classes).to(dtype)


def label_kernel(y: Tensor, classes: int | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Kernel of the labels, ``Y Yᵀ`` with one-hot rows ``Y [n, c]``: 1 where two samples share their class, else 0.

    Args:
        y: ``[n]`` class numbers from 0, or ``[n, c]`` targets that take the place of ``Y``.
        classes: number of classes; by default one more than the largest number.
        dtype: of the result.

    Returns:
        ``[n, n]``, dimensionless, symmetric.

    Raises:
        ValueError: ``y`` is neither of the two forms.

    Cost:
        ``2 n² c`` flops; extra memory ``n c``.

    Accuracy:
        Exact for class numbers.

    Differentiable in real targets.

    References:
        Baratin et al., arXiv:2008.00938 (alignment with the labels).

    Example:
        >>> label_kernel(torch.tensor([0, 1, 0]))
        tensor([[1., 0., 1.],
                [0., 1., 0.],
                [1., 0., 1.]])
    """
    one_hot = _one_hot("label_kernel", y, classes, dtype)
    return one_hot @ one_hot.mT


def label_alignment(
    K: Tensor,  # noqa: N803
    y: Tensor,
    *,
    labels: Literal["kernel", "vector"] = "kernel",
) -> Tensor:
    r"""Alignment of a tangent kernel with the labels, in one of the two forms in use.

    ``"kernel"`` is ``A(Σ_c K_cc, Y Yᵀ)`` over pairs of samples. ``"vector"`` is ``yᵀ K_c y / (|K_c| |y|²)``, where ``y``
    holds all ``n c`` centred one-hot labels and ``K`` is the full kernel: it asks that output ``c`` of a sample aligns
    with label ``c`` too. The two differ when there is more than one output.

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]``; ``"vector"`` needs the latter.
        y: ``[n]`` class numbers, or ``[n, c]`` targets.
        labels: the form.

    Returns:
        Scalar tensor, dimensionless, in ``[0, 1]`` for a positive semi-definite kernel.

    Raises:
        ValueError: ``K`` is not square or does not fit the form, ``y`` does not fit ``K``, ``labels`` is unknown.

    Cost:
        A few reads of ``K``; extra memory: a centred copy.

    Accuracy:
        Relative error about ``eps sqrt(n)`` of a sum of products.

    Differentiable in ``K``.

    References:
        Baratin et al., arXiv:2008.00938; ``"vector"`` is the form of the authors' code.

    Example:
        >>> y = torch.tensor([0, 1, 0])
        >>> label_alignment(label_kernel(y), y)
        tensor(1.)
    """
    _square("label_alignment", "K", K)
    full = K.ndim == 4
    if labels not in ("kernel", "vector"):
        raise ValueError(f"label_alignment: labels must be 'kernel' or 'vector', got {labels!r}")
    if labels == "vector" and not full:
        raise ValueError(f"label_alignment: K must be [n, n, c, c] for labels='vector', got shape {tuple(K.shape)}")
    one_hot = _one_hot("label_alignment", y, K.shape[-1] if full else None, K.dtype)
    if one_hot.shape[0] != K.shape[0] or (labels == "vector" and one_hot.shape[1] != K.shape[-1]):
        raise ValueError(
            f"label_alignment: y must have a label for each sample of K {tuple(K.shape)}, got {tuple(y.shape)}"
        )
    if labels == "kernel":
        return alignment(torch.einsum("nmcc->nm", K) if full else K, one_hot @ one_hot.mT)
    vector = (one_hot - one_hot.mean(0)).reshape(-1)
    matrix = _matrix("label_alignment", "K", center(K))
    return torch.dot(vector, matrix @ vector) / (matrix.square().sum().sqrt() * vector.square().sum())


def spectrum(K: Tensor, k: int | None = None) -> Tensor:  # noqa: N803
    """Eigenvalues of a kernel, largest first.

    Args:
        K: ``[n, n]`` or ``[n, n, c, c]`` (the spectrum of the matrix ``[n c, n c]``), symmetric; float32 or float64.
        k: only the ``k`` largest.

    Returns:
        ``[k]`` or ``[n]`` or ``[n c]``, in the unit of ``K``, descending.

    Raises:
        ValueError: ``K`` is not square, or ``k`` is not between 1 and the number of rows.

    Cost:
        ``4/3 n³`` flops (LAPACK); extra memory: a copy of ``K``.

    Accuracy:
        Absolute error about ``eps`` times the largest eigenvalue.

    Differentiable.

    References:
        Baratin et al., arXiv:2008.00938 (spectrum of the tangent kernel).

    Example:
        >>> spectrum(torch.diag(torch.tensor([1.0, 3.0])))
        tensor([3., 1.])
    """
    matrix = _square("spectrum", "K", K)
    if k is not None and not 1 <= k <= matrix.shape[0]:
        raise ValueError(f"spectrum: k must be between 1 and {matrix.shape[0]}, got {k}")
    return cast("Tensor", torch.linalg.eigvalsh(matrix)).flip(0)[:k]


def _eigenvalues(op: str, kernel_or_values: Tensor) -> Tensor:
    if kernel_or_values.ndim == 1:
        return kernel_or_values
    return cast("Tensor", torch.linalg.eigvalsh(_square(op, "K", kernel_or_values))).flip(0)


def effective_rank(K: Tensor) -> Tensor:  # noqa: N803
    r"""Effective rank ``exp(-Σ p log p)`` with ``p = λ / Σ λ``: how many directions the spectrum is spread over.

    Args:
        K: a kernel as for `spectrum`, or its eigenvalues ``[n]``. Negative eigenvalues, which rounding makes, count as 0.

    Returns:
        Scalar tensor between 1 and the number of eigenvalues; NaN for a zero kernel.

    Raises:
        ValueError: ``K`` is neither a square kernel nor a vector.

    Cost:
        That of `spectrum` for a kernel, ``n`` for eigenvalues.

    Accuracy:
        That of the eigenvalues.

    Differentiable.

    References:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.

    Example:
        >>> effective_rank(torch.eye(4))
        tensor(4.)
    """
    values = _eigenvalues("effective_rank", K).clamp(min=0)
    p = values / values.sum()
    return cast("Tensor", torch.special.entr(p)).sum().exp()


def trace_ratio(K: Tensor, k: int) -> Tensor:  # noqa: N803
    """Share ``Σ_{j<k} λ_j / Σ_j λ_j`` of the ``k`` largest eigenvalues in the trace.

    Args:
        K: a kernel as for `spectrum`, or its eigenvalues ``[n]``, largest first.
        k: how many, from 1 to the number of eigenvalues.

    Returns:
        Scalar tensor in ``[0, 1]``, dimensionless.

    Raises:
        ValueError: ``K`` is neither a square kernel nor a vector, or ``k`` is out of range.

    Cost:
        That of `spectrum` for a kernel, ``n`` for eigenvalues.

    Accuracy:
        That of the eigenvalues.

    Differentiable.

    References:
        Baratin et al., arXiv:2008.00938 (trace ratios).

    Example:
        >>> trace_ratio(torch.diag(torch.tensor([1.0, 3.0])), 1)
        tensor(0.7500)
    """
    values = _eigenvalues("trace_ratio", K)
    if not 1 <= k <= len(values):
        raise ValueError(f"trace_ratio: k must be between 1 and {len(values)}, got {k}")
    return values[:k].sum().div(values.sum())
