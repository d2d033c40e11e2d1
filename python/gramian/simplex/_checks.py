"""The identities that hold the pieces together, each as a residual that should vanish."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._sixj import sixj, sixj_block
from ._weights import geometry

if TYPE_CHECKING:
    from collections.abc import Sequence


class PachnerResidual(NamedTuple):
    """Which move six points make, and how far from exact the master identity and the finite identity are."""

    move: str
    master: Fraction
    finite: Fraction


def check_orthogonality(j2: int, j3: int, l2: int, l3: int) -> float:
    r"""Largest entry of :math:`U U^\top - 1`, with :math:`U = \sqrt{(2 j_1 + 1)(2 l_1 + 1)} \{6j\}`.

    Args:
        j2: doubled spins.
        j3: as ``j2``.
        l2: as ``j2``.
        l3: as ``j2``.

    Returns:
        The residual; 0 where nothing is admissible.

    Raises:
        ValueError: a negative spin.

    Cost:
        A block and ``2 N³`` flops.

    Accuracy:
        A few roundings times ``sqrt(N)``.

    References:
        Orthogonality of 6j symbols, as in Edmonds' book.

    Example:
        >>> check_orthogonality(20, 18, 16, 14) < 1e-13
        True
    """
    first_j, first_l, values = sixj_block(j2, j3, l2, l3)
    n = len(values)
    rows, cols = (first + 2.0 * torch.arange(n, dtype=torch.float64) + 1 for first in (first_j, first_l))
    u = values * torch.outer(rows, cols).sqrt()
    return float((u @ u.T - torch.eye(n, dtype=torch.float64)).abs().max()) if n else 0.0


def check_biedenharn_elliott(a: int, b: int, c: int, d: int, e: int, f: int, p: int, q: int, r: int) -> float:
    r"""Residual of Biedenharn and Elliott's identity, the 2-3 Pachner move of tetrahedra.

    :math:`\{p\,q\,r; e\,a\,d\} \{p\,q\,r; f\,b\,c\} = \sum_x (-1)^{a+b+c+d+e+f+p+q+r+x} (2x+1)
    \{a\,b\,x; c\,d\,p\} \{c\,d\,x; e\,f\,q\} \{e\,f\,x; b\,a\,r\}`.

    Args:
        a: doubled spins.
        b: as ``a``.
        c: as ``a``.
        d: as ``a``.
        e: as ``a``.
        f: as ``a``.
        p: as ``a``.
        q: as ``a``.
        r: as ``a``.

    Returns:
        The absolute difference of the two sides.

    Raises:
        ValueError: a negative spin.

    Cost:
        Three symbols for each ``x``.

    Accuracy:
        A few roundings of the largest term.

    References:
        As in Edmonds' book.

    Example:
        >>> check_biedenharn_elliott(4, 4, 4, 4, 4, 4, 4, 4, 4) < 1e-15
        True
    """
    left = sixj(p, q, r, e, a, d) * sixj(p, q, r, f, b, c)
    x = torch.arange(min(a + b, c + d, e + f) + 1)
    terms = sixj(a, b, x, c, d, p) * sixj(c, d, x, e, f, q) * sixj(e, f, x, b, a, r) * (x + 1)
    exponent = torch.div(a + b + c + d + e + f + p + q + r + x, 2, rounding_mode="floor")
    return float((left - (terms * (1 - 2 * (exponent % 2))).sum()).abs())


def check_racah_sum_rule(a: int, b: int, c: int, d: int, p: int, q: int) -> float:
    r"""Residual of Racah's sum rule.

    :math:`\sum_x (-1)^{p+q+x} (2x+1) \{a\,b\,x; c\,d\,p\} \{a\,b\,x; d\,c\,q\} = \{a\,c\,q; b\,d\,p\}`.

    Args:
        a: doubled spins.
        b: as ``a``.
        c: as ``a``.
        d: as ``a``.
        p: as ``a``.
        q: as ``a``.

    Returns:
        The absolute difference of the two sides.

    Raises:
        ValueError: a negative spin.

    Cost:
        Two symbols for each ``x``.

    Accuracy:
        A few roundings of the largest term.

    References:
        As in Edmonds' book.

    Example:
        >>> check_racah_sum_rule(4, 4, 4, 4, 4, 4) < 1e-15
        True
    """
    x = torch.arange(min(a + b, c + d) + 1)
    exponent = torch.div(p + q + x, 2, rounding_mode="floor")
    terms = sixj(a, b, x, c, d, p) * sixj(a, b, x, d, c, q) * (x + 1) * (1 - 2 * (exponent % 2))
    return float((terms.sum() - sixj(a, c, q, b, d, p)).abs())


def check_regge_symmetry(
    j1: Tensor | int, j2: Tensor | int, j3: Tensor | int, l1: Tensor | int, l2: Tensor | int, l3: Tensor | int
) -> float:
    r"""Largest difference of 6j symbols from their images ``{j1, s - j2, s - j3; l1, s - l2, s - l3}``.

    Args:
        j1: integer tensors or ints that broadcast, doubled spins; ``s`` is half of
            ``j2 + j3 + l2 + l3``. Symbols that are not admissible are left out.
        j2: as ``j1``.
        j3: as ``j1``.
        l1: as ``j1``.
        l2: as ``j1``.
        l3: as ``j1``.

    Returns:
        The largest absolute difference.

    Raises:
        ValueError: a negative spin; not an integer dtype.

    Cost:
        Two symbols for each.

    Accuracy:
        A few roundings.

    References:
        Regge 1959, as in docs/how-it-works/simplex.md.

    Example:
        >>> check_regge_symmetry(4, 6, 8, 4, 4, 6) < 1e-16
        True
    """
    x, a, b, y, c, d = torch.broadcast_tensors(*(torch.as_tensor(j) for j in (j1, j2, j3, l1, l2, l3)))  # type: ignore[no-untyped-call]
    value = sixj(x, a, b, y, c, d)
    s = (a + b + c + d) // 2
    image = sixj(x, (s - a).clamp(min=0), (s - b).clamp(min=0), y, (s - c).clamp(min=0), (s - d).clamp(min=0))
    return float(torch.where(value != 0, value - image, 0.0).abs().max()) if value.numel() else 0.0


def check_schlaefli(lengths: Tensor) -> Tensor:
    r"""Residual of Schläfli's identity, :math:`\sum_h V_h \, d\theta_h / d l_e = 0` for every edge ``e``.

    Args:
        lengths: ``[..., 3, 6, 10 or 15]`` float64, as for :func:`geometry`.

    Returns:
        ``[...]``: the largest residual over the edges, over ``sum_h V_h |theta_h|`` per unit of length.

    Raises:
        ValueError: wrong shape or dtype.

    Cost:
        One :func:`geometry` with its backward.

    Accuracy:
        The conditioning of the simplex times the rounding of the dtype.

    References:
        Schläfli's identity in Euclidean space: docs/how-it-works/simplex.md.

    Example:
        >>> bool(check_schlaefli(torch.ones(10, dtype=torch.float64)) < 1e-14)
        True
    """
    leaf = lengths.detach().requires_grad_()
    with torch.enable_grad():
        shapes = geometry(leaf)
        (slope,) = torch.autograd.grad((shapes.hinges.detach() * shapes.angles).sum(), leaf)
    scale = (shapes.hinges * shapes.angles).detach().sum(-1)
    return (slope * lengths.detach()).abs().amax(-1) / scale


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    if not rows:
        return Fraction(1)
    return sum(
        (
            (-1) ** k * rows[0][k] * _determinant([row[:k] + row[k + 1 :] for row in rows[1:]])
            for k in range(len(rows))
            if rows[0][k]
        ),
        Fraction(0),
    )


def _inner(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


class _Simplex(NamedTuple):
    signed: Fraction  # determinant of its edge vectors
    gradient: dict[tuple[int, int], Fraction]  # H_ij by the names of its vertices


def _simplex(points: Sequence[Sequence[Fraction]], names: Sequence[int]) -> _Simplex:
    origin = points[names[0]]
    edges = [[x - o for x, o in zip(points[k], origin, strict=True)] for k in names[1:]]
    signed = _determinant(edges)
    gram = [[_inner(a, b) for b in edges] for a in edges]
    det = signed * signed
    h: dict[tuple[int, int], Fraction] = {}
    for i, j in itertools.product(range(4), repeat=2):
        minor = [[gram[r][s] for s in range(4) if s != j] for r in range(4) if r != i]
        h[names[i + 1], names[j + 1]] = (-1) ** (i + j) * _determinant(minor) / det
    for k in names[1:]:
        h[names[0], k] = h[k, names[0]] = -sum((h[j, k] for j in names[1:]), Fraction(0))
    h[names[0], names[0]] = -sum((h[names[0], k] for k in names[1:]), Fraction(0))
    return _Simplex(signed, h)


def check_pachner(points: Sequence[Sequence[int]]) -> PachnerResidual:
    r"""The Pachner identities of six points of R⁴, in exact rational arithmetic.

    With ``v_k`` 4! times the volume of the simplex without point ``k``, ``e_k`` its sign in the relation between the six and
    :math:`\omega_f = \sum_k e_k \theta_f^{(k)}`, which vanishes modulo two pi, the master identity is, for each triangle
    ``f`` with complement ``a, b, c`` and each edge ``ij``,

    :math:`\partial \omega_f / \partial l_{ij} = e_i e_j e_a e_b e_c \, l_{ij} a_f v_i v_j / (v_a v_b v_c)`.

    Times ``a_f / l_ij`` both sides are rational. The finite identity of the move (3-3, 2-4 or 1-5, by the signs) follows,
    and is computed from the left side alone. The factors of 1-5 and 2-4 that fix the gauge are this library's own.

    Args:
        points: six points with four integer coordinates each, in general position.

    Returns:
        ``.move``, and the largest relative deviations ``.master`` and ``.finite``: exactly zero.

    Raises:
        ValueError: not six points of four coordinates; five of them in one hyperplane.

    Cost:
        About 100 ms of Python fractions.

    Accuracy:
        Exact.

    References:
        Derived and verified by this library: docs/how-it-works/simplex.md. The model: arXiv:1409.3526.

    Example:
        >>> points = [(2, -6, 8, -7), (9, -8, -3, 6), (8, 4, 1, 5), (9, 5, 2, 0), (-2, -4, -2, -7), (9, 0, 7, 6)]
        >>> check_pachner(points)
        PachnerResidual(move='3-3', master=Fraction(0, 1), finite=Fraction(0, 1))
    """
    if len(points) != 6 or any(len(point) != 4 for point in points):
        raise ValueError(f"check_pachner: points must be six of four coordinates, got {len(points)}")
    exact = [[Fraction(x) for x in point] for point in points]
    simplices = [_simplex_or_refuse(exact, k) for k in range(6)]
    relation = [(-1) ** k * s.signed for k, s in enumerate(simplices)]
    sign = [1 if x > 0 else -1 for x in relation]
    v = [abs(x) for x in relation]

    def square_area(f: tuple[int, ...]) -> Fraction:
        one, two = ([x - o for x, o in zip(exact[k], exact[f[0]], strict=True)] for k in f[1:])
        return _inner(one, one) * _inner(two, two) - _inner(one, two) ** 2

    def slope(f: tuple[int, ...], i: int, j: int) -> Fraction:
        """The derivative of omega_f by l_ij, times a_f / l_ij."""
        total = Fraction(0)
        for k in range(6):
            if k in f or k in (i, j):
                continue
            h = simplices[k].gradient
            m, n = (x for x in range(6) if x != k and x not in f)
            mixed = h[i, m] * h[n, j] + h[i, n] * h[m, j]
            own = h[m, n] * (h[i, m] * h[m, j] / h[m, m] + h[i, n] * h[n, j] / h[n, n])
            total += sign[k] * v[k] * (mixed - own)
        return total

    master = Fraction(0)
    slopes: dict[tuple[tuple[int, ...], tuple[int, int]], Fraction] = {}
    for f in itertools.combinations(range(6), 3):
        a, b, c = (k for k in range(6) if k not in f)
        for i, j in itertools.combinations(range(6), 2):
            expected = (
                sign[i] * sign[j] * sign[a] * sign[b] * sign[c] * square_area(f) * v[i] * v[j] / (v[a] * v[b] * v[c])
            )
            found = slopes[f, (i, j)] = slope(f, i, j)
            master = max(master, abs(found / expected - 1))

    few, many = sorted(([k for k in range(6) if sign[k] == s] for s in (1, -1)), key=len)
    finite = Fraction(0)

    def volumes(names: Sequence[int]) -> Fraction:
        product = Fraction(1)
        for k in names:
            product *= v[k]
        return product

    def density(f: Sequence[int], i: int, j: int, of: Sequence[int]) -> Fraction:
        """The area over the volumes of one side, times the length, over the slope of its delta function."""
        g = tuple(sorted(f))
        return square_area(g) / volumes(of) / abs(slopes[g, (min(i, j), max(i, j))])

    if len(few) == 3:
        for i, j in itertools.combinations(many, 2):
            for face, other in ((few, many), (many, few)):
                finite = max(finite, abs(density(face, i, j, other) * v[i] * v[j] - 1))
    elif len(few) == 2:
        for i in many:
            finite = max(finite, abs(density([*few, i], few[0], few[1], many) * v[i] * volumes(few) - 1))
    else:
        (p,) = few
        for a, b in itertools.permutations(many, 2):
            finite = max(finite, abs(density([p, a, b], p, b, many) * v[a] * v[b] ** 2 * v[p] - 1))
    return PachnerResidual(f"{len(few)}-{len(many)}", master, finite)


def _simplex_or_refuse(points: Sequence[Sequence[Fraction]], without: int) -> _Simplex:
    names = [k for k in range(6) if k != without]
    origin = points[names[0]]
    if not _determinant([[x - o for x, o in zip(points[k], origin, strict=True)] for k in names[1:]]):
        raise ValueError(
            f"check_pachner: points must be in general position, got a flat simplex without point {without}"
        )
    return _simplex(points, names)
