"""Products with the Jacobian of attention: equal to autograd's in float64, masks, layouts, threads, derivatives, refusals."""

import functools

import pytest
import torch

from gramian import attention
from tests.checks import check_thread_counts_agree, error_ratio, refuses
from tests.reference import attention as reference

# batch, heads, n, m, d, dv: tiles are 4 to 12 rows by 8 to 32 columns, a block 96 rows.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 13, 33, 17, 5),
    (1, 2, 97, 65, 8, 33),
    (1, 1, 200, 31, 3, 64),
    (3, 1, 5, 129, 40, 2),
]
ARGUMENTS = {"jvp": "q k v q k v", "vjp": "q k v o", "jtj": "q k v q k v"}
OPS = {"jvp": attention.jvp, "vjp": attention.vjp, "jtj": attention.jtj}
REFERENCES = {"jvp": reference.jvp, "vjp": reference.vjp, "jtj": reference.jtj}


def tensors(op, sizes, *, dtype=torch.float64, seed=0, spread=1.0):
    batch, heads, n, m, d, dv = sizes
    shapes = {"q": (n, d), "k": (m, d), "v": (m, dv), "o": (n, dv)}
    generator = torch.Generator().manual_seed(seed)
    return [
        spread * torch.randn(batch, heads, *shapes[name], generator=generator, dtype=torch.float64).to(dtype)
        for name in ARGUMENTS[op].split()
    ]


def masks(sizes, seed=0):
    batch, heads, n, m, _, _ = sizes
    generator = torch.Generator().manual_seed(seed)
    full = torch.rand(batch, heads, n, m, generator=generator) < 0.7
    full[..., 0, :] = False  # a row that sees nothing
    padding = torch.rand(batch, 1, 1, m, generator=generator) < 0.7
    return {"none": {}, "causal": {"is_causal": True}, "full": {"mask": full}, "padding": {"mask": padding}} | {
        "both": {"mask": padding, "is_causal": True}
    }


def parts(result):
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


@functools.cache
def references(op, kind):
    """What each size and mask should give: the same for every level of instructions."""
    return [
        parts(REFERENCES[op](*tensors(op, sizes), kind=kind, **options))
        for sizes in SIZES
        for options in masks(sizes).values()
    ]


@pytest.mark.parametrize("kind", ["dot", "l2"])
@pytest.mark.parametrize("op", OPS)
def test_attention_products_equal_autograd_in_float64(isa, op, kind):
    expected = iter(references(op, kind))
    for sizes in SIZES:
        for options in masks(sizes).values():
            got = parts(OPS[op](*tensors(op, sizes), kind=kind, **options))
            for a, b in zip(got, next(expected), strict=True):
                # Sums of up to 129 products, twice over for jtj.
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("op", OPS)
def test_attention_products_err_no_more_than_torch_in_float32(isa, op):
    for sizes in [(2, 3, 130, 70, 32, 33), (1, 4, 97, 129, 8, 33)]:
        inputs = tensors(op, sizes, dtype=torch.float32, spread=2.0)
        plain = {"jvp": attention._ops._plain_jvp, "vjp": attention._ops._plain_vjp}
        rest = (None, False, None, False)
        peer = attention._ops._plain_jtj(*inputs, None, *rest) if op == "jtj" else plain[op](*inputs, *rest)
        every = (parts(OPS[op](*inputs)), parts(peer), parts(REFERENCES[op](*inputs)))
        for a, p, b in zip(*every, strict=True):
            assert error_ratio(a, p, b) <= 3, sizes  # the worst of thousands of entries: luck alone makes it 2.4


def test_attention_jvp_of_rows_that_are_nearly_one_hot_loses_nothing(isa):
    inputs = tensors("jvp", (1, 1, 20, 30, 8, 4), dtype=torch.float32, spread=6.0)
    inputs[5].zero_()  # only what goes through the probabilities, which is small
    expected = reference.jvp(*inputs)
    error = (attention.jvp(*inputs) - expected).norm() / expected.norm()
    assert (
        error < 1e-4
    )  # scores of 100 carry 100 eps into the exponent; subtracting after the product would lose far more


def test_attention_jtj_mixes_heads(isa):
    for sizes in SIZES:
        inputs = tensors("jtj", sizes)
        features = sizes[1] * sizes[5]
        mix = torch.randn(features, features, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        for options in masks(sizes).values():
            got, expected = attention.jtj(*inputs, mix=mix, **options), reference.jtj(*inputs, mix=mix, **options)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_attention_vjp_is_the_transpose_of_jvp(isa):
    for kind in ("dot", "l2"):
        q, k, v, dq, dk, dv = tensors("jvp", (2, 2, 50, 70, 9, 6))
        g = torch.randn(2, 2, 50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        left = (attention.jvp(q, k, v, dq, dk, dv, kind=kind) * g).sum()
        gradients = attention.vjp(q, k, v, g, kind=kind)
        right = sum((a * b).sum() for a, b in zip(gradients, (dq, dk, dv), strict=True))
        torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["dot", "l2"])
@pytest.mark.parametrize("op", OPS)
def test_attention_products_have_the_same_bits_in_any_layout(op, layout, kind):
    spread = [layout(x) for x in tensors(op, (2, 2, 13, 13, 16, 5), dtype=torch.float32)]
    dense = [x.contiguous() for x in spread]
    for a, b in zip(parts(OPS[op](*spread, kind=kind)), parts(OPS[op](*dense, kind=kind)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_attention_products_do_not_depend_on_the_number_of_threads(op):
    inputs = tensors(op, (1, 2, 300, 70, 8, 8), dtype=torch.float32)
    check_thread_counts_agree(lambda: OPS[op](*inputs))
    check_thread_counts_agree(
        lambda: attention.jtj(*tensors("jtj", (1, 2, 300, 70, 8, 8)), mix=torch.ones(16, 16).double())
    )


def test_attention_products_take_fewer_axes_and_propagate_nan(isa):
    q, k, v, dq, dk, dv = (x[0, 0] for x in tensors("jvp", (1, 1, 6, 5, 4, 3)))
    assert attention.jvp(q, k, v, dq, dk, dv).shape == (6, 3)
    assert [tuple(x.shape) for x in attention.vjp(q, k, v, dq[:, :3])] == [(6, 4), (5, 4), (5, 3)]
    padded = attention.jvp(q, k, v, dq, dk, dv, mask=torch.arange(5) < 3)
    torch.testing.assert_close(padded, attention.jvp(q, k[:3], v[:3], dq, dk[:3], dv[:3]))
    q[2, 1] = torch.nan
    out = attention.jvp(q, k, v, dq, dk, dv)
    assert out[2].isnan().all()
    assert out[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_attention_products_are_differentiable(op, check_differentiable):
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 1, 2] = False

    def function(*inputs):
        return torch.cat(parts(OPS[op](*inputs, mask=mask[..., : inputs[0].shape[-2], : inputs[0].shape[-2]])), -1)

    check_differentiable(function, *tensors(op, (1, 1, 3, 3, 2, 1)))


def test_attention_jvp_refuses_what_it_cannot_do():
    q, k, v, dq, dk, dv = tensors("jvp", (1, 2, 4, 5, 3, 2))
    op = torch.ops.gramian.attention_jvp
    with refuses("attention_jvp: q must be [batch, heads, n, d], got shape (4, 3)"):
        op(q[0, 0], k, v, dq, dk, dv)
    with refuses("attention_jvp: k must have d = 3 columns like q, got 2"):
        op(q, k[..., :2], v, dq, dk, dv)
    with refuses("attention_jvp: v must have m = 5 rows like k, got 4"):
        op(q, k, v[:, :, :4], dq, dk, dv)
    with refuses("attention_jvp: dk must have the shape of k (1, 2, 5, 3), got (1, 2, 4, 3)"):
        op(q, k, v, dq, dk[:, :, :4], dv)
    with refuses("attention_jvp: q must be float32 or float64, got bfloat16"):
        op(*(x.bfloat16() for x in (q, k, v, dq, dk, dv)))
    with refuses("attention_jvp: mask must be bool, true where a query may look, got float32"):
        op(q, k, v, dq, dk, dv, torch.ones(1, 1, 4, 5))
    with refuses("attention_jvp: q must not be empty, got shape (1, 2, 0, 3)"):
        attention.jvp(q[:, :, :0], k, v, dq[:, :, :0], dk, dv)
    with refuses("attention.jvp: kind must be 'dot' or 'l2', got 'cosine'"):
        attention.jvp(q, k, v, dq, dk, dv, kind="cosine")
    wanted = "[batch or 1, heads or 1, n or 1, m or 1] with batch = 1, heads = 2, n = 4, m = 5"
    with refuses(f"attention_jvp: mask must be {wanted}, got shape (1, 1, 5, 4)"):
        attention.jvp(q, k, v, dq, dk, dv, mask=torch.ones(5, 4, dtype=torch.bool))


def test_attention_vjp_and_jtj_refuses_what_they_cannot_do():
    q, k, v, g = tensors("vjp", (1, 2, 4, 5, 3, 2))
    with refuses("attention_vjp: g must be [batch, heads, n, dv] = (1, 2, 4, 2), got (1, 2, 4, 3)"):
        torch.ops.gramian.attention_vjp(q, k, v, q)
    with refuses("attention_vjp: g must have the dtype of q (float64), got float32"):
        torch.ops.gramian.attention_vjp(q, k, v, g.float())
    with refuses("attention_jtj: mix must be [heads * dv, heads * dv] = (4, 4), got (2, 2)"):
        torch.ops.gramian.attention_jtj(q, k, v, q, k, v, torch.eye(2))
    with refuses("attention_jtj: scale must be finite, got inf"):
        attention.jtj(q, k, v, q, k, v, scale=float("inf"))


@pytest.mark.parametrize("kind", ["dot", "l2"])
def test_attention_linearized_gives_the_same_whether_probabilities_are_kept(isa, kind):
    for sizes in SIZES:
        mix = torch.ones(sizes[1] * sizes[5], sizes[1] * sizes[5], dtype=torch.float64)
        for options in masks(sizes).values():
            q, k, v, dq, dk, dv = tensors("jvp", sizes)
            g = tensors("vjp", sizes)[3]
            kept, not_kept = (attention.linearize(q, k, v, kind=kind, keep=keep, **options) for keep in (True, False))
            for product, arguments, more in (
                ("jvp", (dq, dk, dv), {}),
                ("vjp", (g,), {}),
                ("jtj", (dq, dk, dv), {"mix": mix}),
            ):
                got = parts(getattr(kept, product)(*arguments, **more))
                again = parts(getattr(not_kept, product)(*arguments, **more))
                once = parts(OPS[product](q, k, v, *arguments, kind=kind, **options, **more))
                for a, b, c in zip(got, again, once, strict=True):
                    assert torch.equal(a, b)
                    assert torch.equal(a, c)


def test_attention_linearized_differentiates_and_maps_as_without():
    q, k, v, dq, dk, dv = tensors("jvp", (1, 2, 6, 5, 4, 3))
    prepared = attention.linearize(q, k, v)
    expected = attention.jvp(q, k, v, dq, dk, dv)
    slope = torch.func.grad(lambda x: prepared.jvp(x, dk, dv).square().sum())(dq)
    torch.testing.assert_close(slope, attention.vjp(q, k, v, 2 * expected).q)
    many = torch.func.vmap(prepared.jvp)(torch.stack([dq, 2 * dq]), torch.stack([dk, dk]), torch.stack([dv, dv]))
    torch.testing.assert_close(many[0], expected)


def test_attention_linearize_refuses_what_it_cannot_do():
    q, k, v, dq, dk, dv = tensors("jvp", (1, 2, 4, 5, 3, 2))
    with refuses("attention_linearize: k must have d = 3 columns like q, got 2"):
        torch.ops.gramian.attention_linearize(q, k[..., :2], v)
    state = torch.ops.gramian.attention_linearize(q, k, v)
    with refuses("attention_jvp: state must be what attention_linearize returned for these tensors and options"):
        torch.ops.gramian.attention_jvp(q, k, v, dq, dk, dv, None, True, None, False, state)
    with refuses("attention_jvp: state must be what attention_linearize returned for these tensors and options"):
        torch.ops.gramian.attention_jvp(q, k, v, dq, dk, dv, None, False, None, False, state.float())
