"""The CUDA ops of attention, on a GPU or emulated: see test_cuda.py."""

import pytest
import torch

from tests.checks import LAYOUTS, refuses
from tests.cuda import rows

pytestmark = pytest.mark.slow


def problem(batch, heads, n, m, d, dv, dtype=torch.float64):
    """q, k, v, their tangents, and a gradient of the output."""
    sizes = [(n, d), (m, d), (m, dv)] * 2 + [(n, dv)]
    return [rows(batch, heads, *size, seed=s, dtype=dtype) for s, size in enumerate(sizes)]


def check(call, tensors, mix=None, mask=None, causal=False, scale=None, l2=False, *, tolerance=1e-11):
    q, k, v, dq, dk, dv, g = tensors
    rest = (mask, causal, scale, l2)
    state = call("attention_linearize", q, k, v, *rest, None)  # with it, the same without the first pass
    for name, arguments in [
        ("attention_jvp", (q, k, v, dq, dk, dv, *rest)),
        ("attention_vjp", (q, k, v, g, *rest)),
        ("attention_jtj", (q, k, v, dq, dk, dv, mix, *rest)),
    ]:
        # In float64, which the CPU's own tests hold against plain torch.
        wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
        expected = getattr(torch.ops.gramian, name)(*wide)
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        got = call(name, *arguments, state if name == "attention_vjp" else None)
        for mine, theirs in zip((got,) if isinstance(got, torch.Tensor) else got, expected, strict=True):
            size = theirs.abs().max() + 1  # a sum of m terms, and of n d of those
            assert (mine.double() - theirs).abs().max() <= tolerance * size, name


@pytest.mark.parametrize("l2", [False, True], ids=["dot", "l2"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_products_with_the_jacobian_equal_the_cpu_ops(call, causal, l2):
    for sizes in [(1, 1, 1, 1, 1, 1), (1, 1, 65, 70, 5, 3)]:
        check(call, problem(*sizes), causal=causal, l2=l2)
    check(call, problem(1, 1, 9, 130, 6, 7, dtype=torch.float32), causal=causal, l2=l2, tolerance=1e-4)


def test_more_features_than_one_block_of_threads_sums(call):
    check(call, problem(1, 2, 3, 5, 17, 67))
    check(call, problem(1, 1, 2, 3, 66, 2), l2=True)


def test_masks_scales_and_mixes(call):
    tensors = problem(2, 2, 5, 7, 4, 5)
    mix = rows(10, 10, seed=9, dtype=torch.float64)
    check(call, tensors, mix=mix, scale=0.3)
    check(call, tensors, mix=mix.mT)
    for shape in [(2, 2, 5, 7), (1, 2, 1, 7), (2, 1, 5, 1)]:
        mask = rows(*shape, seed=5) > 0
        mask[..., 0, :] = False  # a row that sees nothing
        check(call, tensors, mask=mask)


def test_products_read_any_layout(call):
    tensors = problem(2, 1, 5, 6, 3, 4)
    for layout in LAYOUTS.values():
        check(call, [layout(t) for t in tensors])


def test_what_is_not_finite_stays_in_its_row(call):
    q, k, v, dq, dk, dv, _ = problem(1, 1, 6, 5, 3, 2)
    q[0, 0, 4, 1] = torch.nan
    out = call("attention_jvp", q, k, v, dq, dk, dv, None, False, None, False, None)
    assert out.isnan().all(3).flatten().tolist() == [i == 4 for i in range(6)]
    assert out.isnan().any(3).flatten().tolist() == [i == 4 for i in range(6)]


def test_attention_ops_refuse_what_the_cpu_ops_refuse(call):
    q, k, v, dq, dk, dv, g = problem(1, 2, 3, 4, 5, 6)
    for name, rest in [("jvp", (dq, dk, dv)), ("vjp", (g,))]:
        with refuses(f"attention_{name}: k must have d = 5 columns like q, got 4"):
            call(f"attention_{name}", q, k[..., :4], v, *rest, None, False, None, False, None)
    for state in (torch.zeros(3, dtype=torch.uint8), q):
        with refuses("attention_vjp: state must be what attention_linearize returned for these tensors and options"):
            call("attention_vjp", q, k, v, g, None, False, None, False, state)
    with refuses("attention_jtj: mix must be [heads * dv, heads * dv] = (12, 12), got (2, 2)"):
        call("attention_jtj", q, k, v, dq, dk, dv, g[0, 0, :2, :2], None, False, None, False, None)
