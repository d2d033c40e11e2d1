"""The Gram matrix of one layer's parameter gradients, by two routes, and what each costs."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from gramian import _autograd, _fake

__all__ = ["LayerCost", "Route", "layer_cost", "linear_gram"]

Route = Literal["auto", "hadamard", "materialise"]

_linear_gram = torch.ops.gramian.ntk_linear_gram.default


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


_fake.register("ntk_linear_gram")(_fake_linear_gram)
_fake.register("ntk_layers_gram_")(lambda *_: None)
torch.library.register_vmap("gramian::ntk_linear_gram", _batched_linear_gram)


def _with_ones(a: Tensor, bias: bool) -> Tensor:
    return torch.cat([a, torch.ones_like(a[..., :1])], -1) if bias else a


def _setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
    a1, g1, a2, g2, ctx.bias, ctx.trace, ctx.materialise = inputs
    ctx.save_for_backward(a1, g1, a2, g2)
    ctx.save_for_forward(a1, g1, a2, g2)


def _side_gradient(ctx: Any, grad: Tensor, a: Tensor, g: Tensor, a2: Tensor, g2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by one side of K = J J2ᵀ, through that by J: grad J = grad K . J2."""
    wide, g_dtype = grad.dtype, g.dtype
    g, a_and_ones = g.to(wide), _with_ones(a.to(wide), ctx.bias)
    jacobian = g2.to(wide).mT @ _with_ones(a2.to(wide), ctx.bias).unsqueeze(-3)  # [m, c, d_out, d_in]
    # reshape and narrow, not flatten and slices: gradcheck's own vmap knows only the former.
    kept = (g2.shape[-4],) if ctx.trace else (g2.shape[-4] * g2.shape[-3],)
    rows = jacobian.reshape(*g2.shape[:-4], *kept, -1)
    pairs = grad if ctx.trace else grad.reshape(*g.shape[:-4], -1, *kept)
    by_j = (pairs @ rows).reshape(*g.shape[:-2], *jacobian.shape[-2:])
    by_g = (by_j @ a_and_ones.mT.unsqueeze(-3)).mT
    by_a = (g @ by_j.narrow(-1, 0, a.shape[-1])).sum(-3)
    return by_a.to(a.dtype), by_g.to(g_dtype)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a1, g1, a2, g2 = ctx.saved_tensors
    turned = grad.mT if ctx.trace else grad.movedim((-4, -3), (-2, -1))
    if a2 is None:
        return (*_side_gradient(ctx, grad + turned, a1, g1, a1, g1), None, None, None, None, None)
    first, second = _side_gradient(ctx, grad, a1, g1, a2, g2), _side_gradient(ctx, turned, a2, g2, a1, g1)
    return (*first, *second, None, None, None)


def _jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
    a1, g1, a2, g2 = ctx.saved_tensors
    da1, dg1, da2, dg2 = tangents[:4]

    def moved(a: Tensor, g: Tensor, da: Tensor | None, dg: Tensor | None, a2: Tensor, g2: Tensor) -> Tensor | None:
        # K is linear in a and in g; the constant feature does not move with a.
        parts = []
        if da is not None and a.shape[-1] > 0:
            parts.append(_linear_gram(da, g, a2, g2, False, ctx.trace, ctx.materialise))
        if dg is not None:
            parts.append(_linear_gram(a, dg, a2, g2, ctx.bias, ctx.trace, ctx.materialise))
        return sum(parts) if parts else None

    def turned(kernel: Tensor) -> Tensor:
        return kernel.mT if ctx.trace else kernel.movedim((-4, -3), (-2, -1))

    left = moved(a1, g1, da1, dg1, a1 if a2 is None else a2, g1 if g2 is None else g2)
    right = left if a2 is None else moved(a2, g2, da2, dg2, a1, g1)
    both = [part for part in (left, None if right is None else turned(right)) if part is not None]
    return cast("Tensor", sum(both))


_autograd.register(_linear_gram, setup_context=_setup_context, backward=_backward, jvp=_jvp)


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
        route with the smaller one. What a tile costs beside its products is in the count: about eight features' worth,
        and with several positions, whose sums are left to do, 24.

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
    tile = 8 if positions == 1 else 24  # features' worth of loads, stores and sums around each tile
    hadamard = 2 * pairs * positions**2 * (d_in + tile + (outputs * d_out if trace else blocks * d_out) + tile * blocks)
    form = 2 * (n if symmetric else n + m) * outputs * (positions + 8) * d_in * d_out
    materialise = form + 2 * pairs * blocks * d_in * d_out
    return LayerCost(hadamard, materialise, "hadamard" if hadamard <= materialise else "materialise")


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
        of 8 MiB or 2048 columns, whichever is larger. The Gram of ``a`` alone is never stored.

    Accuracy:
        Sums run over at most 512 features at a time, then over those sums: relative error of an entry about
        ``eps (sqrt(512) + features / 512)`` of ``Σ |terms|``.

    Differentiable in all tensors, to every order (the derivative forms the Jacobian); works under ``torch.func`` and
    ``torch.compile``. Propagates non-finite values. The same bits for every number of threads.

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
        n, positions, d_in = a1.shape
        route = layer_cost(
            n,
            n if a2 is None else len(a2),
            outputs=g1.shape[1],
            positions=positions,
            d_in=d_in + bias,
            d_out=g1.shape[3],
            symmetric=a2 is None,
            trace=reduce != "full",
        ).route
    if not fits and a1.ndim != 3:
        raise ValueError(f"linear_gram: a1 must be [n, t, d_in], got shape {tuple(a1.shape)}")
    kernel = cast("Tensor", _linear_gram(a1, g1, a2, g2, bias, reduce != "full", route == "materialise"))
    return kernel if reduce != "full" else kernel.permute(0, 2, 1, 3)
