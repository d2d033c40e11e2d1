"""Weights of 4-simplices and the geometry of simplices, from edge lengths."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gramian import _autograd, _fake

_weight4 = torch.ops.gramian.simplex_weight4.default
_weight4_backward = torch.ops.gramian.simplex_weight4_backward.default
_FLAT = 64 * torch.finfo(torch.float64).eps  # as in the kernel
_DIMENSION = {3: 2, 6: 3, 10: 4, 15: 5}


class Geometry(NamedTuple):
    """Volume of each simplex, measures of its hinges, its dihedral angles, and whether it exists."""

    volume: Tensor
    hinges: Tensor
    angles: Tensor
    valid: Tensor


class Weight4(NamedTuple):
    """Action ``S`` and ``log v``, ``v = 4! Vol``, of each 4-simplex; NaN where ``valid`` is False."""

    action: Tensor
    log_volume: Tensor

    @property
    def valid(self) -> Tensor:
        """Whether a Euclidean 4-simplex has these lengths."""
        return ~torch.isnan(self.log_volume)

    @property
    def exponential(self) -> Tensor:
        """The weight ``exp(i S) / v``, complex128."""
        return torch.polar(torch.exp(-self.log_volume), self.action)

    @property
    def cosine(self) -> Tensor:
        """The sum of the weights of both mirror images, ``2 cos(S) / v``."""
        return 2 * torch.cos(self.action) * torch.exp(-self.log_volume)


class Faces(NamedTuple):
    """The edges and triangles of a complex of 4-simplices, and which of them each simplex has."""

    edges: Tensor
    triangles: Tensor
    edge_of: Tensor
    triangle_of: Tensor


class ComplexWeight(NamedTuple):
    """Weights of all 4-simplices of a complex, its deficit angles and its total."""

    simplices: Weight4
    deficit: Tensor
    action: Tensor
    log_amplitude: Tensor


def _matrix(entries: Tensor, n: int) -> Tensor:
    """Symmetric ``[..., n + 1, n + 1]`` with zero diagonal from one entry an edge."""
    position = torch.zeros(n + 1, n + 1, dtype=torch.int64, device="cpu")
    for e, (i, j) in enumerate(itertools.combinations(range(n + 1), 2)):
        position[i, j] = position[j, i] = e + 1
    padded = torch.cat([torch.zeros_like(entries[..., :1]), entries], -1)
    return padded[..., position.to(entries.device)]


def _shape(lengths: Tensor, *, squared: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Squared ``v``, hinge measures ``a``, ``H`` at the edges and as a matrix, and validity, by torch ops."""
    n = _DIMENSION[lengths.shape[-1]]
    entries = lengths if squared else lengths * lengths
    d = _matrix(entries, n)
    gram = 0.5 * (d[..., :1, 1:] + d[..., 1:, :1] - d[..., 1:, 1:])
    minors = [torch.linalg.det(gram[..., :k, :k]) for k in range(1, n + 1)]
    flat = minors[-1] <= _FLAT * gram.diagonal(dim1=-2, dim2=-1).prod(-1)
    valid = (lengths > 0).all(-1) & ~flat & torch.stack([m > 0 for m in minors]).all(0)
    det = torch.where(valid, minors[-1], math.nan)
    inner = torch.linalg.inv_ex(gram).inverse
    side = -inner.sum(-1, keepdim=True)
    corner = -side.sum(-2, keepdim=True)
    h = torch.cat([torch.cat([corner, side.mT], -1), torch.cat([side, inner], -1)], -2)
    pairs = list(itertools.combinations(range(n + 1), 2))
    if n == 2:
        hinges = torch.ones_like(lengths)
    else:
        rest = torch.tensor([[k for k in range(n + 1) if k not in pair] for pair in pairs], device=lengths.device)
        at = rest[:, :1]
        others = rest[:, 1:]
        first = d[..., at, others]
        sub = 0.5 * (first.unsqueeze(-1) + first.unsqueeze(-2) - d[..., others.unsqueeze(-1), others.unsqueeze(-2)])
        hinges = torch.where(valid.unsqueeze(-1), torch.linalg.det(sub), math.nan).sqrt()
    rows, cols = torch.tensor(pairs, device=lengths.device).unbind(-1)
    return det, hinges, h[..., rows, cols], h, valid


def _gradients(lengths: Tensor, labels: Tensor, *, squared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Angles (``dS/ds``), ``dS/dl`` and ``dlog v/dl`` by torch ops, differentiable to any order."""
    det, hinges, h_edges, h, _ = _shape(lengths, squared=squared)
    v = det.sqrt().unsqueeze(-1)
    angles = torch.atan2(hinges / v, -h_edges)
    k = _matrix(labels * v / hinges, 4)
    own = -(k * h).sum(-1) / h.diagonal(dim1=-2, dim2=-1)
    moved = h @ (k + torch.diag_embed(own)) @ h
    rows, cols = torch.triu_indices(5, 5, 1, device=lengths.device).unbind(0)
    factor = 0.5 if squared else lengths
    return angles, factor * moved[..., rows, cols], -factor * h_edges


@_fake.register("simplex_weight4")
def _(lengths: Tensor, _labels: Tensor, _squared: bool = False) -> tuple[Tensor, Tensor]:
    return lengths.new_empty(lengths.shape[:-1]), lengths.new_empty(lengths.shape[:-1])


@_fake.register("simplex_weight4_backward")
def _(lengths: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return lengths.new_empty(lengths.shape), lengths.new_empty(lengths.shape)


def _batched(op: Any) -> Any:
    def rule(
        info: Any, in_dims: tuple[int | None, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        leading = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(arguments[:-1], in_dims[:-1], strict=True)
        ]
        return op(*leading, arguments[-1]), (0, 0)

    return rule


torch.library.register_vmap("gramian::simplex_weight4", _batched(_weight4))
torch.library.register_vmap("gramian::simplex_weight4_backward", _batched(_weight4_backward))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], _: Any) -> None:
    lengths, labels, ctx.squared = inputs
    ctx.save_for_backward(lengths, labels)
    ctx.save_for_forward(lengths, labels)


def _backward(ctx: Any, by_action: Tensor, by_log: Tensor) -> tuple[Tensor, Tensor, None]:
    lengths, labels = ctx.saved_tensors
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return (*_weight4_backward(lengths, labels, by_action, by_log, ctx.squared), None)
    angles, d_action, d_log = _gradients(lengths, labels, squared=ctx.squared)
    s, v = by_action.unsqueeze(-1), by_log.unsqueeze(-1)
    return s * d_action + v * d_log, s * angles, None


def _jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
    lengths, labels = ctx.saved_tensors
    moved, relabelled = tangents[:2]
    angles, d_action, d_log = _gradients(lengths, labels, squared=ctx.squared)
    moved = torch.zeros_like(lengths) if moved is None else moved
    relabelled = torch.zeros_like(labels) if relabelled is None else relabelled
    return (d_action * moved + angles * relabelled).sum(-1), (d_log * moved).sum(-1)


_autograd.register(_weight4, setup_context=_setup_context, backward=_backward, jvp=_jvp)


def weight4(lengths: Tensor, labels: Tensor, *, squared: bool = False) -> Weight4:
    r"""Weights of 4-simplices: :math:`S = \sum_f s_f \theta_f` and :math:`\log v`, the weight being :math:`e^{iS}/v`.

    Edges come in the order 01, 02, 03, 04, 12, 13, 14, 23, 24, 34. A label and a dihedral angle belong to a triangle, and
    stand where the edge **opposite** that triangle stands: label 0 is that of triangle 234. The angle there is the
    interior one between the facets opposite the two ends of the edge. With ``v = 4! Vol`` and no factor of pi the finite
    Pachner identities hold exactly (:func:`check_pachner`); a paper's normalisation may differ by a constant.

    Args:
        lengths: ``[..., 10]`` float64, edge lengths.
        labels: ``[..., 10]`` float64, of the shape of ``lengths``.
        squared: ``lengths`` are squared lengths.

    Returns:
        ``.action`` (radians) and ``.log_volume``, ``[...]`` float64, with ``.valid``, ``.exponential`` and ``.cosine``
        computed from them. Both are NaN, and all their gradients, where no Euclidean 4-simplex has these lengths, or
        it is flat to 64 roundings of the product of four squared lengths.

    Raises:
        ValueError: wrong shape, dtype or device.

    Cost:
        About 600 flops a simplex, 1400 with both gradients, ten arc tangents included; 176 and 336 bytes.

    Accuracy:
        Well-shaped simplices to a few roundings. Near a flat one both lose digits as ``eps l^8 / v^2``, which is the
        conditioning of the determinant. Lengths between 1e-30 and 1e30.

    Differentiable in both arguments, in both modes and to any order: once by a closed form in the same kernel, further
    by torch ops. Works under ``torch.func``, ``vmap`` and ``compile``; the same bits for every number of threads.

    References:
        The model: Baratin and Freidel, arXiv:1409.3526. Formulas and normalisation: docs/how-it-works/simplex.md.

    Example:
        >>> weight = weight4(torch.ones(10, dtype=torch.float64), torch.ones(10, dtype=torch.float64))
        >>> weight.action  # ten times acos(1/4)
        tensor(13.1812, dtype=torch.float64)
        >>> weight.log_volume.exp()  # sqrt(5) / 4
        tensor(0.5590, dtype=torch.float64)
    """
    return Weight4(*_weight4(lengths, labels, squared))


def geometry(lengths: Tensor, *, squared: bool = False) -> Geometry:
    r"""Volume, hinges and dihedral angles of simplices of dimension 2 to 5, from Cayley-Menger (Gram) determinants.

    Args:
        lengths: ``[..., n (n + 1) / 2]`` float32 or float64, edges in the order 01, 02, ..., 12, ...
        squared: ``lengths`` are squared lengths.

    Returns:
        ``.volume [...]``; ``.hinges`` and ``.angles`` of the shape of ``lengths``: where the edge ``ij`` stands, the
        measure of the face without ``i`` and ``j`` (1 for a corner of a triangle) and the interior angle, in radians,
        between the facets opposite ``i`` and ``j``, which meet there; ``.valid [...]`` bool. NaN where not valid.

    Raises:
        ValueError: the last axis is not 3, 6, 10 or 15 long; not float32 or float64.

    Cost:
        A determinant and an inverse of ``n x n`` a simplex, batched in torch: about 1 us each.

    Accuracy:
        As a determinant of the dtype; angles by ``atan2``, not by ``acos``, so they keep their digits near 0 and pi.

    Differentiable to any order; works under ``torch.func`` and ``vmap``.

    References:
        Schläfli's identity holds for them: :func:`check_schlaefli`. Formulas: docs/how-it-works/simplex.md.

    Example:
        >>> geometry(torch.tensor([3.0, 4.0, 5.0])).volume
        tensor(6.)
    """
    if lengths.dim() < 1 or lengths.shape[-1] not in _DIMENSION:
        raise ValueError(f"geometry: lengths must be [..., 3, 6, 10 or 15], got shape {tuple(lengths.shape)}")
    if lengths.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"geometry: lengths must be float32 or float64, got {str(lengths.dtype).removeprefix('torch.')}"
        )
    n = _DIMENSION[lengths.shape[-1]]
    det, hinges, h, _, valid = _shape(lengths, squared=squared)
    v = det.sqrt()
    angles = torch.atan2(hinges / v.unsqueeze(-1), -h)
    return Geometry(v / math.factorial(n), hinges / math.factorial(n - 2), angles, valid)


def complex_faces(simplices: Tensor) -> Faces:
    """The edges and triangles of a complex of 4-simplices, each once, and where each simplex finds its own.

    Args:
        simplices: ``[n, 5]`` int64, the vertices of each 4-simplex, all different.

    Returns:
        ``.edges [E, 2]`` and ``.triangles [F, 3]``, sorted; ``.edge_of`` and ``.triangle_of [n, 10]``: the edge at each
        place of :func:`weight4`, and the triangle opposite it.

    Raises:
        ValueError: wrong shape or dtype; a simplex with a vertex twice.

    Cost:
        Two sorts of ``10 n`` rows.

    Accuracy:
        Exact.

    References:
        Regge calculus as in docs/how-it-works/simplex.md.

    Example:
        >>> faces = complex_faces(torch.tensor([[0, 1, 2, 3, 4]]))
        >>> len(faces.edges), faces.triangles[faces.triangle_of[0, 0]].tolist()
        (10, [2, 3, 4])
    """
    if simplices.dim() != 2 or simplices.shape[1] != 5 or simplices.dtype != torch.int64:
        raise ValueError(f"complex_faces: simplices must be [n, 5] int64, got shape {tuple(simplices.shape)}")
    if (simplices.sort(1).values.diff(dim=1) == 0).any():
        raise ValueError("complex_faces: simplices must have five different vertices each, got one twice")
    pairs = list(itertools.combinations(range(5), 2))
    rest = [[k for k in range(5) if k not in pair] for pair in pairs]
    edges, edge_of = simplices[:, pairs].sort(-1).values.flatten(0, 1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    triangles, triangle_of = simplices[:, rest].sort(-1).values.flatten(0, 1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    return Faces(edges, triangles, edge_of.view(-1, 10), triangle_of.view(-1, 10))


def complex_weight(simplices: Tensor, lengths: Tensor, labels: Tensor) -> ComplexWeight:
    r"""Weights of all 4-simplices of a complex from shared edge lengths and face labels, deficit angles and total.

    Args:
        simplices: ``[n, 5]`` int64, the vertices of each 4-simplex.
        lengths: ``[E]`` float64, in the order of ``complex_faces(simplices).edges``.
        labels: ``[F]`` float64, in the order of ``complex_faces(simplices).triangles``.

    Returns:
        ``.simplices``, the :class:`Weight4` of each; ``.deficit [F]``: two pi less the dihedral angles around each
        triangle (radians; a triangle in the boundary has what is missing there too); ``.action``, the sum of the
        actions; ``.log_amplitude``: log of the product of ``1/v``. Factors of edges and faces are left to the caller.

    Raises:
        ValueError: wrong shapes or dtypes.

    Cost:
        :func:`weight4` of all simplices, :func:`geometry` for the deficits and two gathers.

    Accuracy:
        That of :func:`weight4`.

    Differentiable in lengths and labels.

    References:
        Baratin and Freidel, arXiv:1409.3526; Regge's deficit angles as in docs/how-it-works/simplex.md.

    Example:
        >>> ones = torch.ones(10, dtype=torch.float64)
        >>> complex_weight(torch.tensor([[0, 1, 2, 3, 4]]), ones, ones).log_amplitude  # -log(sqrt(5) / 4)
        tensor(0.5816, dtype=torch.float64)
    """
    faces = complex_faces(simplices)
    for name, given, table in (("lengths", lengths, faces.edges), ("labels", labels, faces.triangles)):
        if given.shape != (len(table),):
            raise ValueError(f"complex_weight: {name} must be [{len(table)}], got shape {tuple(given.shape)}")
    own = lengths[faces.edge_of]
    weights = weight4(own, labels[faces.triangle_of])
    angles = geometry(own).angles
    around = torch.zeros_like(labels).index_add(0, faces.triangle_of.flatten(), angles.flatten())
    return ComplexWeight(weights, 2 * math.pi - around, weights.action.sum(), -weights.log_volume.sum())
