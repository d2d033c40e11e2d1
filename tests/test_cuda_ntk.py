"""The CUDA ops of ntk, on a GPU or emulated: see test_cuda.py."""

import itertools

import pytest
import torch

from tests.checks import LAYOUTS, refuses, wide
from tests.cuda import DTYPES, rows
from tests.reference import ntk as reference

pytestmark = pytest.mark.slow


def check_linear_gram(call, a1, g1, a2=None, g2=None, *, bias=False, trace=False, materialise=False):
    got = call("ntk_linear_gram", a1, g1, a2, g2, bias, trace, materialise)
    expected = reference.linear_gram(a1, g1, a2, g2, bias=bias)
    sizes = [t if t is None else t.double().abs() for t in (a1, g1, a2, g2)]
    bound = reference.linear_gram(*sizes, bias=bias)  # what the terms add up to without their signs
    if trace:
        expected, bound = (torch.einsum("nmcc->nm", t) for t in (expected, bound))
    else:
        expected, bound = (t.permute(0, 2, 1, 3) for t in (expected, bound))
    assert got.dtype == (torch.float64 if a1.dtype == torch.float64 else torch.float32)
    depth = a1.shape[-2] * (a1.shape[-1] + g1.shape[-1] + 4)  # roundings of one entry, and of the float32 Jacobian
    tolerance = depth * torch.finfo(got.dtype).eps * bound
    assert (wide(got) - wide(expected) <= wide(tolerance) + 1e-300).all()
    assert (wide(expected) - wide(got) <= wide(tolerance) + 1e-300).all()
    if a2 is None:
        assert torch.equal(got, got.permute(2, 3, 0, 1) if not trace else got.mT)


# Samples, outputs, positions, features: rows either side of a tile; samples that share a tile, fill one, and take several.
SIZES = [(1, 1, 1, 1, 1), (65, 2, 1, 17, 4), (20, 1, 7, 3, 5), (5, 2, 49, 2, 3), (3, 1, 130, 4, 2)]


@pytest.mark.parametrize("materialise", [False, True], ids=["hadamard", "materialise"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_linear_gram_equals_written_out_gradients(call, size, materialise):
    n, c, t, d_in, d_out = size
    a1, g1 = rows(n, t, d_in), rows(n, c, t, d_out, seed=1)
    a2, g2 = rows(n + 3, t, d_in, seed=2), rows(n + 3, c, t, d_out, seed=3)
    check_linear_gram(call, a1, g1, bias=True, materialise=materialise)
    check_linear_gram(call, a1, g1, a2, g2, trace=True, materialise=materialise)
    check_linear_gram(call, a1.double(), g1.double(), a2.double(), g2.double(), bias=True, materialise=materialise)


@pytest.mark.parametrize("materialise", [False, True], ids=["hadamard", "materialise"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_gram_reads_any_layout_and_type(call, dtype, materialise):
    a, g = rows(6, 3, 5, dtype=dtype), rows(6, 2, 3, 4, seed=1, dtype=dtype)
    for layout, trace in itertools.product(LAYOUTS.values(), (False, True)):
        given = (layout(a), layout(g))
        check_linear_gram(call, *given, trace=trace, bias=True, materialise=materialise)


@pytest.mark.parametrize("materialise", [False, True], ids=["hadamard", "materialise"])
def test_linear_gram_of_batches_nothing_and_what_is_not_finite(call, materialise):
    a, g = rows(2, 5, 2, 3), rows(2, 5, 2, 2, 4, seed=1)
    got = call("ntk_linear_gram", a, g, None, None, True, False, materialise)
    for b in range(2):
        assert torch.equal(got[b], call("ntk_linear_gram", a[b], g[b], None, None, True, False, materialise))
    assert call("ntk_linear_gram", a[0, :0], g[0, :0], None, None, True, True, materialise).shape == (0, 0)
    empty = call("ntk_linear_gram", a[0], g[0, ..., :0], None, None, True, True, materialise)
    assert torch.equal(empty, torch.zeros(5, 5))
    a[0, 3, 1, 2] = torch.nan
    bad = call("ntk_linear_gram", a[0], g[0], None, None, False, True, materialise).isnan()
    assert torch.equal(bad, torch.arange(5).eq(3)[:, None] | torch.arange(5).eq(3))


def test_linear_gram_sums_a_small_kernel_in_slices_of_many_features(call):
    check_linear_gram(call, rows(4, 1, 24), rows(4, 1, 1, 48, seed=1), bias=True, materialise=True)


def test_layers_gram_equals_the_cpu_op(call):
    n, m, c = 7, 4, 2
    a1 = [rows(n, 1, 3), rows(n, 2, 4, seed=1), torch.arange(7).remainder(3).float().view(n, 1, 1), rows(n, 1, 0)]
    g1 = [rows(n, c, t, d, seed=d) for t, d in ((1, 5), (2, 3), (1, 4), (1, 6))]
    a2, g2 = [a[:m] for a in a1], [g[-m:] for g in g1]
    bias, route = [1, 0, 2, 1], [0, 1, 0, 0]
    for trace, accumulate, sides in itertools.product((False, True), (False, True), (1, 2)):
        kept = 1 if trace else c
        out = rows(n + m, kept, n + m, kept)
        expected = out.clone()
        others = ([], []) if sides == 1 else (a2, g2)
        place = (1, 1, False) if sides == 1 else (0, n, True)
        arguments = (a1, g1, *others, bias, route, trace, accumulate, *place)
        call("ntk_layers_gram_", out, *arguments)
        torch.ops.gramian.ntk_layers_gram_(expected, *arguments)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)  # two orders of some 50 terms of size 1


def test_ntk_ops_refuse_what_the_cpu_ops_refuse(call):
    a, g = torch.zeros(3, 2, 4), torch.zeros(3, 1, 2, 5)
    with refuses("linear_gram: a1 must be [n, t, d_in], got shape (3, 2)"):
        call("ntk_linear_gram", a[..., 0], g, None, None, False, False, False)
    with refuses("layers_gram_: out must be [N, 1, M, 1], got shape (3, 3)"):
        call("ntk_layers_gram_", torch.zeros(3, 3), [a], [g], [], [], [0], [0], True, False, 0, 0, False)
