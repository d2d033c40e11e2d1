"""simplex: against simplices in R⁴, exact rationals, published values and identities; refusals."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from gramian import simplex
from tests import checks
from tests.checks import refuses
from tests.reference import simplex as reference

EPS = 2.220446049250313e-16


def refused(message, call, *args, **options):
    with refuses(message):
        call(*args, **options)


def points(count, seed=0):
    return torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()


def simplices(count, seed=0):
    """Lengths of random 4-simplices, integer labels, and the reference's action, volume and condition."""
    labels = torch.randint(-3, 4, (count, 10), generator=torch.Generator().manual_seed(seed + 1)).double()
    corners = points(count, seed)
    lengths = np.array([reference.lengths(p) for p in corners])
    wide = [reference.weight(p, s) for p, s in zip(corners, labels.numpy(), strict=True)]
    condition = (lengths.max(1) ** 8 / np.array([v for _, v in wide]) ** 2).astype(float)
    lengths = torch.from_numpy(lengths.astype(float))
    return lengths, labels, wide, condition


def shaped(count, seed=0):
    """Lengths of simplices that are far from flat."""
    generator = torch.Generator().manual_seed(seed)
    return 1 + 0.2 * torch.rand(count, 10, generator=generator, dtype=torch.float64)


def labels_of(count, seed=0):
    return torch.randint(-4, 5, (count, 10), generator=torch.Generator().manual_seed(seed)).double() + 0.25


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33])
def test_weight4_matches_simplices_of_points(isa, count):
    lengths, labels, wide, condition = simplices(count, seed=count)
    got = simplex.weight4(lengths, labels)
    squared = simplex.weight4(lengths**2, labels, squared=True)
    assert got.valid.all()
    for k, (action, volume) in enumerate(wide):
        bound = 40 * EPS * condition[k]  # lengths are rounded before; the determinant's condition
        assert abs(got.action[k].item() - float(action)) <= bound
        assert abs(got.log_volume[k].exp().item() / float(volume) - 1) <= bound
        assert abs(squared.action[k].item() - float(action)) <= bound


def test_weight4_of_known_simplices():
    regular = simplex.weight4(torch.ones(10, dtype=torch.float64), torch.ones(10, dtype=torch.float64))
    assert abs(regular.action.item() - 13.181160716528179657) < 4e-15
    assert abs(regular.log_volume.exp().item() - 0.55901699437494742410) < 3e-16
    corner = reference.lengths([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 4]])
    angles = simplex.geometry(torch.from_numpy(corner.astype(float))).angles
    known = [0.576975435931988829, 1.13838855122435878, 1.28765619869088471, 1.35970299357215007, *[math.pi / 2] * 6]
    assert (angles - torch.tensor(known, dtype=torch.float64)).abs().max() < 1e-14
    for edge, angle in enumerate(known):
        label = torch.nn.functional.one_hot(torch.tensor(edge), 10).double()
        weight = simplex.weight4(torch.from_numpy(corner.astype(float)), label)
        assert abs(weight.action.item() - angle) < 1e-14
        assert abs(weight.log_volume.exp().item() / 24 - 1) < 1e-14
    assert torch.allclose(weight.exponential.real * 2, weight.cosine)


def test_weight4_scales_with_its_lengths():
    lengths, labels = shaped(20), labels_of(20)
    one, two = simplex.weight4(lengths, labels), simplex.weight4(4 * lengths, labels)
    assert (one.action - two.action).abs().max() < 1e-12
    assert (two.log_volume - one.log_volume - 4 * math.log(4)).abs().max() < 1e-14


def test_weight4_marks_what_is_no_simplex(isa):
    lengths, labels = shaped(9), labels_of(9)
    lengths[1, 0] = 5  # breaks the triangle inequality
    lengths[2, 3] = 0
    lengths[3, 4] = -lengths[3, 4]
    lengths[4, 5] = torch.nan
    lengths[5, 6] = torch.inf
    lengths[6] = torch.from_numpy(  # flat
        reference.lengths([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]).astype(float)
    )
    # Two negative eigenvalues: a positive determinant.
    gram = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    gram[0, 1] = gram[1, 0] = gram[2, 3] = gram[3, 2] = -1.5
    square = torch.zeros(5, 5, dtype=torch.float64)
    square[1:, 1:] = 2 - 2 * gram
    square[0, 1:] = square[1:, 0] = 1
    lengths[7] = torch.tensor([square[i, j] for i, j in reference.PAIRS]).sqrt()
    got = simplex.weight4(lengths, labels)
    assert got.valid.tolist() == [True, *[False] * 7, True]
    assert simplex.geometry(lengths).valid.tolist() == got.valid.tolist()
    assert torch.isnan(got.action).tolist() == (~got.valid).tolist()
    leaf = lengths.clone().requires_grad_()
    simplex.weight4(leaf, labels).action[[0, 8]].sum().backward()
    assert leaf.grad[[0, 8]].isfinite().all()


def test_weight4_gradients_are_those_of_the_formula(isa):
    for squared in (False, True):
        lengths, labels = shaped(19).requires_grad_(), labels_of(19).requires_grad_()
        weight = simplex.weight4(lengths, labels, squared=squared)
        by = torch.linspace(-1, 2, 19, dtype=torch.float64), torch.linspace(1, 3, 19, dtype=torch.float64)
        closed = torch.autograd.grad(weight, (lengths, labels), by, retain_graph=True)
        shapes = simplex.geometry(lengths, squared=squared)
        total = (by[0] * (shapes.angles * labels).sum(-1)).sum() + (by[1] * shapes.volume.log()).sum()
        expected = torch.autograd.grad(total, (lengths, labels))
        for got, wanted in zip(closed, expected, strict=True):
            assert (got - wanted).abs().max() < 1e-12 * wanted.abs().max()


def test_weight4_is_differentiable(check_differentiable):
    def function(lengths, labels):
        weight = simplex.weight4(1 + 0.05 * torch.tanh(lengths), labels)
        return weight.action + weight.log_volume

    check_differentiable(function, torch.randn(5, 10, dtype=torch.float64), torch.randn(5, 10, dtype=torch.float64))


def test_weight4_takes_any_layout(layout):
    lengths, labels = shaped(12), labels_of(12)
    expected = simplex.weight4(*(layout(x).contiguous() for x in (lengths, labels)))
    got = simplex.weight4(layout(lengths), layout(labels))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_weight4_of_nothing_and_of_batches():
    assert simplex.weight4(torch.zeros(0, 10).double(), torch.zeros(0, 10).double()).action.shape == (0,)
    lengths, labels = shaped(12), labels_of(12)
    assert torch.equal(
        simplex.weight4(lengths.view(3, 4, 10), labels.view(3, 4, 10)).action.flatten(),
        simplex.weight4(lengths, labels).action,
    )


def test_weight4_is_the_same_for_any_number_of_threads():
    lengths, labels = shaped(5000), labels_of(5000)
    checks.check_thread_counts_agree(lambda: tuple(simplex.weight4(lengths, labels)))


def test_weight4_refuses_wrong_arguments():
    good = torch.ones(3, 10, dtype=torch.float64)
    for op, more in ((torch.ops.gramian.simplex_weight4, ()), (torch.ops.gramian.simplex_weight4_backward, None)):
        name = op.__name__.removeprefix("simplex_")
        rest = (torch.ones(3).double(), torch.ones(3).double()) if more is None else more
        refused(f"{name}: lengths must be [..., 10], got shape (3, 9)", op, good[:, :9], good, *rest)
        refused(f"{name}: lengths must be float64, got float32", op, good.float(), good, *rest)
        refused(f"{name}: labels must have the shape of lengths, (3, 10), got (2, 10)", op, good, good[:2], *rest)
    refused(
        "weight4_backward: grad_action must be [...] like lengths, (3, 10), got (2,)",
        torch.ops.gramian.simplex_weight4_backward,
        good,
        good,
        torch.ones(2).double(),
        torch.ones(3).double(),
    )
    refused("geometry: lengths must be [..., 3, 6, 10 or 15], got shape (4,)", simplex.geometry, torch.ones(4))
    refused("complex_faces: simplices must be [n, 5] int64, got shape (4,)", simplex.complex_faces, torch.ones(4))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_geometry_of_points(n):
    corners = torch.randn(6, n + 1, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    pairs = list(itertools.combinations(range(n + 1), 2))
    lengths = torch.stack([(corners[:, i] - corners[:, j]).norm(dim=-1) for i, j in pairs], -1)
    got = simplex.geometry(lengths)
    volume = torch.linalg.det(corners[:, 1:] - corners[:, :1]).abs() / math.factorial(n)
    assert (got.volume / volume - 1).abs().max() < 1e-10
    gradients = torch.linalg.inv(torch.cat([corners, torch.ones_like(corners[..., :1])], -1))[:, :n]
    for e, (i, j) in enumerate(pairs):
        a, b = gradients[..., i], gradients[..., j]
        cosine = -(a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        assert (got.angles[:, e].cos() - cosine).abs().max() < 1e-10
    assert simplex.check_schlaefli(lengths).max() < 1e-9
    leaf = 1 + 0.1 * torch.rand(2, len(pairs), dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: simplex.geometry(x).angles, leaf.requires_grad_())


def test_complex_weight_adds_up_its_simplices():
    two = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    corners = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    faces = simplex.complex_faces(two)
    assert (len(faces.edges), len(faces.triangles)) == (14, 16)
    lengths = (corners[faces.edges[:, 0]] - corners[faces.edges[:, 1]]).norm(dim=-1).requires_grad_()
    labels = torch.randn(16, dtype=torch.float64, requires_grad=True)
    got = simplex.complex_weight(two, lengths, labels)
    assert torch.allclose(got.action, got.simplices.action.sum())
    # Sum of s theta over triangles, by the deficits.
    assert torch.allclose(got.action, (labels * (2 * math.pi - got.deficit)).sum())
    by_lengths, by_labels = torch.autograd.grad(got.action + got.log_amplitude, (lengths, labels))
    assert torch.allclose(by_labels, 2 * math.pi - got.deficit)
    moved = torch.zeros(14, dtype=torch.float64)
    moved[5] = 1e-6
    up, down = (simplex.complex_weight(two, lengths + s * moved, labels) for s in (1, -1))
    slope = (up.action + up.log_amplitude - down.action - down.log_amplitude) / 2e-6
    assert abs(slope - by_lengths[5]) < 1e-6 * by_lengths.abs().max()


def test_an_inner_triangle_of_a_flat_complex_has_no_deficit():
    corners = torch.tensor([[2, -6, 8, -7], [9, -8, -3, 6], [8, 4, 1, 5], [9, 5, 2, 0], [-2, -4, -2, -7], [9, 0, 7, 6]])
    three = torch.tensor([[k for k in range(6) if k != out] for out in (3, 4, 5)])  # around triangle 012
    faces = simplex.complex_faces(three)
    lengths = (corners.double()[faces.edges[:, 0]] - corners.double()[faces.edges[:, 1]]).norm(dim=-1)
    deficit = simplex.complex_weight(three, lengths, torch.zeros(len(faces.triangles)).double()).deficit
    inner = [k for k, t in enumerate(faces.triangles.tolist()) if t == [0, 1, 2]]
    assert abs(deficit[inner[0]].item()) < 1e-12


@pytest.mark.parametrize(
    ("move", "corners"),
    [
        ("3-3", [(2, -6, 8, -7), (9, -8, -3, 6), (8, 4, 1, 5), (9, 5, 2, 0), (-2, -4, -2, -7), (9, 0, 7, 6)]),
        ("2-4", [(1, -5, 3, -8), (-7, 8, -6, 2), (9, -8, 7, -3), (-8, -7, 4, 4), (-7, -2, -7, 8), (4, -8, 9, -6)]),
        ("1-5", [(-6, 0, 1, 3), (-4, 2, 1, -2), (2, -5, 8, 2), (-1, -2, -8, -8), (-6, 9, 3, -8), (-3, 6, 4, 6)]),
    ],
)
def test_pachner_identities_are_exact(move, corners):
    assert simplex.check_pachner(corners) == (move, 0, 0)


@pytest.mark.parametrize("face", [(0, 1, 2), (3, 4, 5)])
def test_the_regulated_hexagon_tends_to_the_finite_identity(face):
    """Sum over the label of the inner triangle, with a Gaussian cutoff, and integrate a bump in the length of edge 34."""
    corners = torch.tensor(
        [[6, -9, 5, 3], [2, 9, 1, 3], [-6, -2, 0, -4], [-7, 3, 8, 0], [3, -7, -8, 7], [6, -3, 7, -5]]
    )
    assert simplex.check_pachner(corners.tolist()).move == "3-3"
    apart = torch.cdist(corners.double(), corners.double())
    u = torch.linspace(-1, 1, 2001, dtype=torch.float64)[1:-1]
    length = apart[3, 4] + u

    def lengths_of(names):
        pairs = itertools.combinations(names, 2)
        return torch.stack([length if pair == (3, 4) else apart[pair].expand_as(length) for pair in pairs], 1)

    omega, log_volumes, exact = torch.zeros_like(length), torch.zeros_like(length), 1 / apart[3, 4]
    for k in range(6):
        names = [n for n in range(6) if n != k]
        signed = torch.linalg.det(corners[names[1:]].double() - corners[names[0]]) * (-1) ** k
        if k in (3, 4):
            exact /= signed.abs()
        if k not in face:
            opposite = tuple(i for i in range(5) if names[i] not in face)
            labels = torch.nn.functional.one_hot(torch.tensor(reference.PAIRS.index(opposite)), 10).double()
            weight = simplex.weight4(lengths_of(names), labels.expand(len(u), 10))
            omega, log_volumes = omega + signed.sign() * weight.action, log_volumes + weight.log_volume
    area = 2 * simplex.geometry(lengths_of(face)).volume
    bump = torch.exp(1 - 1 / (1 - u * u))
    errors = []
    for cutoff in (20, 40, 80):
        s = torch.arange(1, 8 * cutoff, dtype=torch.float64)
        comb = 1 + 2 * torch.cos(omega[:, None] * s) @ torch.exp(-(s**2) / (2 * cutoff**2))
        integral = (bump * area * torch.exp(-log_volumes) * comb).sum() * 1e-3 / (2 * math.pi)
        errors.append(1 - (integral / exact).item())
    assert 0 < errors[0] < 0.04
    # It falls as one over the square of the cutoff.
    assert all(0.2 < after / before < 0.3 for before, after in itertools.pairwise(errors))


def test_check_pachner_refuses_what_is_not_six_points():
    refused("check_pachner: points must be six of four coordinates, got 1", simplex.check_pachner, [(1, 2, 3, 4)])
    flat = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (1, 1, 1, 0), (0, 0, 0, 1)]
    refused(
        "check_pachner: points must be in general position, got a flat simplex without point 5",
        simplex.check_pachner,
        flat,
    )


# ---- 6j and 3j ----


def admissible(count, largest, seed=0):
    """Random admissible doubled spins, [6, count]."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    while sum(s.shape[1] for s in found) < count:
        s = torch.randint(0, largest + 1, (6, 40 * count), generator=generator)
        keep = torch.ones(s.shape[1], dtype=torch.bool)
        for i, j, k in ((0, 1, 2), (0, 4, 5), (3, 1, 5), (3, 4, 2)):
            a, b, c = s[i], s[j], s[k]
            keep &= ((a + b + c) % 2 == 0) & (a + b >= c) & ((a - b).abs() <= c)
        found.append(s[:, keep])
    return torch.cat(found, 1)[:, :count]


def test_sixj_of_known_values(isa):
    values = {(4,) * 6: Fraction(-3, 70), (2, 2, 4, 2, 2, 4): Fraction(1, 30), (2,) * 6: Fraction(1, 6)}
    for spins, value in values.items():
        assert abs(simplex.sixj(*spins).item() - float(value)) < 1e-16
        exact = simplex.sixj_exact(*spins)
        assert exact.sign * value >= 0
        assert exact.square == value * value
    large = {20: -0.00291918678060921, 200: -4.6984162329874425e-4, 2000: -1.4019732921514828e-5}
    for spin, value in large.items():
        assert abs(simplex.sixj(*(spin,) * 6).item() / value - 1) < 1e-13


@pytest.mark.parametrize("largest", [4, 20, 60])
def test_sixj_matches_exact_rationals(isa, largest):
    spins = admissible(150, largest, seed=largest)
    got = simplex.sixj(*spins)
    for s, value in zip(spins.T.tolist(), got.tolist(), strict=True):
        exact = simplex.sixj_exact(*s)
        assert (value == 0) == (exact.sign == 0)
        # Absolute, as an entry of the orthogonal matrix; relative where the family has no sign change close by.
        scaled = abs(value - float(exact)) * math.sqrt((s[0] + 1) * (s[3] + 1))
        assert scaled <= 4e-15 * (1 + largest / 2)
        family = simplex.sixj_family(*s[1:])
        at = (s[0] - family.first.item()) // 2
        around = [abs(v) for v in family.values[max(at - 1, 0) : at + 2].tolist()]
        if abs(value) > 0.01 * max(around) or at in (0, len(family.values) - 1):
            assert abs(value / float(exact) - 1) < 1e-12


@functools.cache
def exact_sixj(*spins):
    return simplex.sixj_exact(*spins)


def test_blocks_and_single_symbols_keep_twelve_digits_next_to_sign_changes(isa):
    checked = 0
    for a, b, c, d in admissible(400, 60, seed=9)[[1, 2, 4, 5]].T.tolist():
        block = simplex.sixj_block(a, b, c, d)
        size = block.values.abs()
        dips = (size[1:-1] < 0.05 * torch.minimum(size[:-2], size[2:])).nonzero()
        for i, k in dips[:12].tolist():
            x, y = block.first_j + 2 * (i + 1), block.first_l + 2 * k
            if max(x, y) > 60:
                continue
            exact, family = exact_sixj(x, a, b, y, c, d), simplex.sixj_family(a, b, y, c, d)
            for value in (block.values[i + 1, k], simplex.sixj(x, a, b, y, c, d), family.values[i + 1]):
                assert (value.item() == 0) == (exact.sign == 0)
                assert exact.sign == 0 or abs(value.item() / float(exact) - 1) <= 1e-12
            checked += 1
    assert checked > 1000


def test_sixj_has_exact_zeros_and_no_others():
    table = simplex.sixj_tensor(8)
    for s in torch.cartesian_prod(*[torch.arange(9)] * 6)[:: 7 * 13].tolist():
        assert (table[tuple(s)].item() == 0) == (simplex.sixj_exact(*s).sign == 0)
    zero = [s for s in admissible(4000, 20, seed=5).T.tolist() if simplex.sixj(*s) == 0]
    assert len(zero) > 3
    assert all(simplex.sixj_exact(*s).sign == 0 for s in zero)


def test_sixj_tails_keep_their_digits():
    family = simplex.sixj_family(60, 60, 0 + 60, 60, 60)
    assert (family.values != 0).sum() > 50
    tail = simplex.sixj_block(400, 100, 400, 120)
    first, last = tail.values[0, -1].item(), tail.values[-1, 0].item()
    for value, i, k in ((first, 0, len(tail.values) - 1), (last, len(tail.values) - 1, 0)):
        exact = float(simplex.sixj_exact(tail.first_j + 2 * i, 400, 100, tail.first_l + 2 * k, 400, 120))
        assert abs(value / exact - 1) < 1e-12


@pytest.mark.slow
def test_blocks_of_large_spins_are_orthogonal(isa):
    for spins in ((2000, 2000, 2000, 2000), (2000, 300, 1900, 200), (801, 700, 600, 501)):
        assert simplex.check_orthogonality(*spins) < 1e-11  # 4e-15 (1 + j) for each of the entries, added up
    assert simplex.sixj_block(2000, 2000, 2000, 2000).values.isfinite().all()
    block = simplex.sixj_block(2000, 300, 1900, 200)
    for i, k in ((0, 0), (100, 90), (200, 10), (57, 143)):
        x, y = block.first_j + 2 * i, block.first_l + 2 * k
        exact = float(simplex.sixj_exact(x, 2000, 300, y, 1900, 200))
        assert abs(block.values[i, k].item() - exact) * math.sqrt((x + 1) * (y + 1)) < 4e-15 * 1001


def test_table_tensor_orbits_and_sixj_agree(isa):
    dense, orbits = simplex.sixj_tensor(7), simplex.sixj_orbits(7)
    grid = torch.cartesian_prod(*[torch.arange(8)] * 6).T
    direct = simplex.sixj(*grid).view([8] * 6)
    assert (dense - direct).abs().max() < 1e-15
    assert torch.equal(dense == 0, direct == 0)
    assert (orbits(*grid).view([8] * 6) - direct).abs().max() < 1e-15
    assert sum(len(chunk.values) for chunk in simplex.sixj_table(10)) == 42393
    small = list(simplex.sixj_table(7, chunk_bytes=4000))
    assert len(small) > 10
    assert torch.equal(torch.cat([chunk.values for chunk in small]), next(simplex.sixj_table(7)).values)
    family = simplex.sixj_family(*grid[1:, :: 8 * 11])
    for k, spins in enumerate(grid[1:, :: 8 * 11].T.tolist()):
        for i, value in enumerate(family.values[k].tolist()):
            assert abs(value - simplex.sixj(int(family.first[k]) + 2 * i, *spins).item()) < 1e-15


def test_sixj_results_do_not_depend_on_the_batch_or_on_threads(isa):
    spins = admissible(5000, 40)
    checks.check_thread_counts_agree(lambda: simplex.sixj(*spins))
    checks.check_thread_counts_agree(lambda: simplex.sixj_family(*spins[1:]))
    checks.check_thread_counts_agree(lambda: next(simplex.sixj_table(12)))
    whole = simplex.sixj(*spins)
    assert torch.equal(simplex.sixj(*spins.flip(1)).flip(0), whole)
    assert torch.equal(simplex.sixj(*spins[:, 17:18]), whole[17:18])


def test_sixj_broadcasts_and_is_zero_where_not_admissible():
    got = simplex.sixj(torch.arange(6).view(2, 3), 2, 2, torch.tensor(2), 2, 2)
    assert got.shape == (2, 3)
    assert (got.flatten()[[1, 3, 5]] == 0).all()
    assert simplex.sixj(20, 2, 2, 2, 2, 2).item() == 0
    assert simplex.sixj(torch.zeros(0, dtype=torch.int64), 0, 0, 0, 0, 0).shape == (0,)
    assert simplex.sixj(0, 0, 0, 0, 0, 0).item() == 1


def test_threej_matches_a_sum_and_is_orthogonal(isa):
    sympy = pytest.importorskip("sympy")
    wigner = pytest.importorskip("sympy.physics.wigner")
    generator = torch.Generator().manual_seed(2)
    for j1, j2, j3 in torch.randint(0, 9, (30, 3), generator=generator).tolist():
        for m1, m2 in [(j1, -j2), (-j1, j2), (j1 % 2, j2 % 2), (-j1, j2 - 2 if j2 else 0)]:
            m3 = -m1 - m2
            if (j1 + j2 + j3) % 2 or abs(m3) > j3:
                continue
            expected = wigner.wigner_3j(*(sympy.Rational(j, 2) for j in (j1, j2, j3, m1, m2, m3)))
            assert abs(simplex.threej(j1, j2, j3, m1, m2, m3).item() - float(expected)) < 1e-15
            assert (simplex.threej(j1, j2, j3, m1, m2, m3).item() == 0) == (expected == 0)
    j1, j2, m = 200, 150, 10
    m1, j = torch.arange(-140, 161, 2)[:, None], torch.arange(50, 351, 2)
    u = simplex.clebsch_gordan(j1, m1, j2, m - m1, j, m)
    assert (u @ u.T - torch.eye(len(u), dtype=torch.float64)).abs().max() < 1e-12


def test_ninej_matches_sympy():
    sympy = pytest.importorskip("sympy")
    wigner = pytest.importorskip("sympy.physics.wigner")
    cases = [
        (2, 2, 2, 2, 2, 2, 2, 2, 4),
        (2, 3, 1, 4, 3, 3, 4, 2, 2),
        (4, 4, 4, 4, 4, 4, 4, 4, 4),
        (1, 1, 2, 1, 1, 2, 2, 2, 4),
    ]
    for spins in cases:
        expected = wigner.wigner_9j(*(sympy.Rational(j, 2) for j in spins))
        assert abs(simplex.ninej(*spins).item() - float(expected)) < 1e-15
    assert simplex.ninej(*torch.tensor(cases).T).shape == (4,)
    assert simplex.ninej(1, 1, 1, 1, 1, 1, 1, 1, 1).item() == 0


def test_identities_hold_for_random_spins():
    for spins in admissible(20, 14, seed=7).T.tolist():
        _, a, b, y, c, d = spins
        assert simplex.check_orthogonality(a, b, c, d) < 1e-14
        assert simplex.check_racah_sum_rule(a, b, c, d, y, (a + c) % 2) < 1e-15
        assert simplex.check_racah_sum_rule(a, b, c, d, y, abs(a - c)) < 1e-15
    assert simplex.check_regge_symmetry(*admissible(2000, 30)) < 1e-15
    checked = 0
    for a, b, c, d, e, f in torch.randint(0, 9, (2000, 6), generator=torch.Generator().manual_seed(1)).tolist():
        p, q, r = abs(a - d), abs(c - f), abs(a - e)
        if simplex.sixj(p, q, r, e, a, d) != 0 and simplex.sixj(p, q, r, f, b, c) != 0:
            assert simplex.check_biedenharn_elliott(a, b, c, d, e, f, p, q, r) < 1e-15
            checked += 1
    assert checked > 5


def test_asymptotics_approach_the_symbols():
    errors = []
    for j in (20, 200, 2000):
        exact, limit = simplex.sixj(*(j,) * 6).item(), simplex.ponzano_regge_asymptotics(*(j,) * 6).item()
        errors.append(abs(limit / exact - 1))
    assert errors[0] < 0.04
    assert errors[1] < 5e-5
    assert errors[2] < errors[1]
    assert abs(simplex.ponzano_regge_asymptotics(*(20,) * 6).item() + 0.0028245) < 1e-6


def test_sixj_refuses_wrong_arguments():
    op = torch.ops.gramian
    good = torch.zeros(6, 2, dtype=torch.int64)
    for name, call in (("sixj", torch.ops.gramian.simplex_sixj), ("threej", torch.ops.gramian.simplex_threej)):
        refused(f"{name}: spins must be int64, got float32", call, good.float())
        refused(f"{name}: spins must be [6, n], got shape (5, 2)", call, good[:5])
        refused(f"{name}: spins must be doubled spins in [0, 20000], got -1", call, good - 1)
    family, blocks = torch.ops.gramian.simplex_sixj_family, torch.ops.gramian.simplex_sixj_blocks
    refused("sixj_family: width must be at least 1, got 0", family, good[:5], 0)
    refused("sixj_family: width must be at least 3, got 2", family, good[:5] + 2, 2)
    refused("sixj_blocks: blocks must be [4, n], got shape (5, 2)", blocks, good[:5], 1)
    refused("sixj_blocks: limit must not be negative, got -1", blocks, good[:4], -1)
    table, start = torch.ops.gramian.simplex_sixj_table, torch.tensor(0)
    refused("sixj_table: cursor must be one int64, got int32 of shape ()", table, start.int(), 3, 1)
    refused("sixj_table: cursor must be in [0, 64), got 64", table, start + 64, 3, 1)
    refused("sixj_table: two_j_max must be in [0, 200], got 201", table, start, 201, 1)
    refused("sixj_table: room must be at least 1, got 0", table, start, 3, 0)
    refused("sixj_table: chunk_bytes must be at least 8, got 7", simplex.sixj_table, 3, chunk_bytes=7)
    refused("sixj: j1 must be doubled spins of an integer dtype, got float32", simplex.sixj, 0.5, 0, 0, 0, 0, 0)
    refused("sixj_tensor: two_j_max must be in [0, 24], got 25", simplex.sixj_tensor, 25)
    refused("sixj_table: two_j_max must be in [0, 200], got -1", simplex.sixj_table, -1)
    refused("sixj_orbits: two_j_max must be in [0, 40], got 41", simplex.sixj_orbits, 41)
    refused("sixj_exact: spins must be doubled and not negative, got -2", simplex.sixj_exact, -2, 0, 0, 0, 0, 0)
    assert op.simplex_sixj(good).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["sixj", "threej", "sixj_family"])
def test_symbols_pass_opcheck(name):
    spins = torch.full((5 if name == "sixj_family" else 6, 3), 2, dtype=torch.int64)
    spins[3:] = 0 if name == "threej" else 2
    more = (3,) if name == "sixj_family" else ()
    torch.library.opcheck(getattr(torch.ops.gramian, f"simplex_{name}").default, (spins, *more))


def test_tables_and_blocks_pass_opcheck():
    ops = torch.ops.gramian
    torch.library.opcheck(ops.simplex_sixj_blocks.default, (torch.full((4, 2), 2), 9))
    torch.library.opcheck(ops.simplex_sixj_table.default, (torch.tensor(0), 3, 50))


# ---- State sums ----


SPHERE = torch.tensor([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]])
INVARIANTS = {  # r = 3 ... 7
    "sphere": (0.5, 0.25, 0.138196601125, 0.083333333333, 0.053787171163),
    "L(4,1)": (1, 0.5, 0.276393202250, 0.333333333333, 0.349291695416),
    "L(5,2)": (0.5, 0.25, 0, 0.083333333333, 0.271566981129),
}


def one_tetrahedron_manifolds():
    """Edge classes and vertices of all closed orientable manifolds that one tetrahedron makes, glued face to face."""
    places = {pair: k for k, pair in enumerate(itertools.combinations(range(4), 2))}
    faces = [tuple(v for v in range(4) if v != k) for k in range(4)]
    for (a, b), (c, d) in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))):
        for first, second in itertools.product(itertools.permutations(range(3)), repeat=2):
            parent = {(i, j): (i, j) for i in range(4) for j in range(4) if i != j}
            corner = {i: i for i in range(4)}

            def root(table, key):
                while table[key] != key:
                    key = table[key]
                return key

            oriented = True
            for one, two, images in ((a, b, first), (c, d, second)):
                glued = {faces[one][k]: faces[two][images[k]] for k in range(3)} | {one: two}
                order = [glued[i] for i in range(4)]
                oriented &= sum(x > y for x, y in itertools.combinations(order, 2)) % 2 == 1
                for i, j in itertools.permutations(faces[one], 2):
                    parent[root(parent, (i, j))] = root(parent, (glued[i], glued[j]))
                for i in faces[one]:
                    corner[root(corner, i)] = root(corner, glued[i])
            reversed_edge = any(root(parent, (i, j)) == root(parent, (j, i)) for i, j in places)
            classes = sorted({frozenset((root(parent, e), root(parent, e[::-1]))) for e in places}, key=sorted)
            vertices = len({root(corner, i) for i in range(4)})
            if oriented and not reversed_edge and len(classes) == vertices + 1:  # Euler characteristic 0
                edges = [classes.index(frozenset((root(parent, e), root(parent, e[::-1])))) for e in places]
                yield torch.tensor([edges]), vertices


def test_turaev_viro_of_the_sphere():
    edges = simplex.edges_of(SPHERE)
    for r, value in zip(range(3, 8), INVARIANTS["sphere"], strict=True):
        assert abs(simplex.turaev_viro(edges, 5, r=r) - value) < 1e-11
        assert abs(value - 2 / r * math.sin(math.pi / r) ** 2) < 1e-11


def test_turaev_viro_of_one_tetrahedron_manifolds():
    seen = set()
    different = {(tuple(edges[0].tolist()), vertices) for edges, vertices in one_tetrahedron_manifolds()}
    for classes, vertices in sorted(different):
        edges = torch.tensor([classes])
        values = [simplex.turaev_viro(edges, vertices, r=r) for r in range(3, 8)]
        names = [
            n for n, known in INVARIANTS.items() if max(abs(x - y) for x, y in zip(values, known, strict=True)) < 1e-11
        ]
        assert len(names) == 1, values
        seen.update(names)
    assert seen == set(INVARIANTS)


def test_turaev_viro_is_invariant_under_pachner_moves():
    finer = [t for t in SPHERE.tolist() if t != [0, 1, 2, 3]]
    finer += [[5, *(v for v in range(4) if v != k)] for k in range(4)]  # 1-4: a vertex inside 0123
    moved = [t for t in finer if set(t) not in ({0, 1, 2, 4}, {0, 1, 2, 5})]
    moved += [[4, 5, *pair] for pair in itertools.combinations(range(3), 2)]  # 2-3: 012 gives way to the edge 45
    for r in (4, 5):
        value = 2 / r * math.sin(math.pi / r) ** 2
        assert abs(simplex.turaev_viro(simplex.edges_of(torch.tensor(finer)), 6, r=r) - value) < 1e-11
        assert abs(simplex.turaev_viro(simplex.edges_of(torch.tensor(moved)), 6, r=r) - value) < 1e-11


def test_ponzano_regge_is_invariant_under_the_2_3_move():
    two = simplex.edges_of(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]]))  # 34 is missing: edges 0 ... 8
    three = simplex.edges_of(torch.tensor([[0, 1, 3, 4], [0, 2, 3, 4], [1, 2, 3, 4]]))  # edge 34 is the last
    for spins in ([4] * 9, [2, 2, 4, 4, 2, 4, 2, 4, 2], [3, 3, 4, 4, 4, 3, 3, 3, 3], [6, 4, 4, 6, 6, 6, 4, 4, 6]):
        boundary = dict(enumerate(spins))
        before, after = simplex.ponzano_regge(two, boundary), simplex.ponzano_regge(three, boundary)
        assert abs(before - after) < 1e-15


def test_quantum_sixj_is_orthogonal_and_tends_to_the_classical():
    r, j = 9, 4
    spins = torch.arange(r - 1)
    x, y = spins[:, None], spins
    signs = 1 - 2 * (spins % 2)
    integers = torch.sin((spins + 1) * math.pi / r).double() / math.sin(math.pi / r)
    u = simplex.quantum_sixj(x, j, j, y, j, j, r=r) * torch.outer(integers, integers).sqrt() * signs.sign().abs()
    rows = u.abs().sum(1) > 0
    assert rows.sum() > 3
    square = (u @ u.T)[rows][:, rows]
    assert (square - torch.eye(int(rows.sum()), dtype=torch.float64)).abs().max() < 1e-6
    assert abs(simplex.quantum_sixj(2, 2, 2, 2, 2, 2, r=60).item() - 1 / 6) < 0.01


def test_state_sums_refuse_wrong_arguments():
    edges = simplex.edges_of(SPHERE)
    refused("turaev_viro: r must be in [3, 60], got 2", simplex.turaev_viro, edges, 5, r=2)
    refused("turaev_viro: vertices must be at least 1, got 0", simplex.turaev_viro, edges, 0, r=3)
    refused("edges_of: tetrahedra must be [n, 4] int64, got shape (5, 3)", simplex.edges_of, SPHERE[:, :3])
    refused("quantum_sixj: r must be in [3, 60], got 61", simplex.quantum_sixj, 0, 0, 0, 0, 0, 0, r=61)
    refused(
        "ponzano_regge: boundary must bound the spin of every edge, got no bound for 0",
        simplex.ponzano_regge,
        edges,
        {},
    )
