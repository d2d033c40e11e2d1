"""information: critics, bounds, estimators, against what the papers say in plain torch."""

import pytest
import torch

from gramian import information
from tests import checks
from tests.checks import refuses
from tests.reference import information as reference


def critic_inputs(n, m, h, h2, d_x=3, d_y=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, d_x), (m, d_y), (d_x, h), (d_y, h), (h,), (h, h2), (h2,), (h2,), ()]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


# Ones; tiles of 12 x 32, 6 x 16 and 6 x 4 plus and minus one; words of 32 pairs plus and minus one; more pairs than are
# added up at once; no unit, no row.
SIZES = [(1, 1, 1, 1), (2, 31, 5, 11), (3, 32, 12, 12), (5, 33, 13, 33), (70, 65, 31, 32), (4, 3, 40, 7)]
EMPTY = [(0, 3, 4, 5), (3, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)]


@pytest.mark.parametrize("size", SIZES + EMPTY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairwise_scores_are_those_of_the_network_on_concatenated_pairs(isa, dtype, size):
    inputs = critic_inputs(*size, dtype=dtype)
    expected = reference.pairwise_scores(*(t.double() for t in inputs))
    scores = information.pairwise_scores(*inputs)
    assert scores.dtype == dtype
    assert scores.shape == size[:2]
    if dtype == torch.float32 and scores.numel():
        assert checks.error_ratio(scores, reference.pairwise_scores(*inputs), expected) <= 2
    else:
        torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", SIZES + EMPTY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairwise_scores_have_the_gradient_of_the_network(isa, monkeypatch, dtype, size, masked):
    if not masked:
        monkeypatch.setattr(information._critic, "_MOST_MASK_BYTES", -1)
    inputs = [t.requires_grad_() for t in critic_inputs(*size, dtype=dtype)]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    weights = torch.randn(size[:2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = torch.autograd.grad((information.pairwise_scores(*inputs) * weights.to(dtype)).sum(), inputs)
    expected = torch.autograd.grad((reference.pairwise_scores(*doubles) * weights).sum(), doubles)
    # Rounding of sums of up to 4550 pairs times 40 units; in norm, as a unit near zero may fall either way.
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape
        assert (g.double() - e).norm() <= bound * max(e.norm().item(), 1)


def test_pairwise_scores_read_any_strides(layout):
    x, y, w_x, w_y, b1, w2, b2, w3, b3 = critic_inputs(9, 40, 13, 17)
    views = [layout(t) for t in (x, y, w_x, w_y)], layout(w2)
    inputs = (*views[0], b1, views[1], b2.repeat_interleave(2)[::2], w3, b3)
    torch.testing.assert_close(
        information.pairwise_scores(*inputs), reference.pairwise_scores(*inputs), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pairwise_scores_have_the_same_bits_for_every_number_of_threads(dtype):
    # The ops by themselves: torch's own product of the first layer makes no such promise.
    x, y, w_x, w_y, b1, w2, b2, w3, _ = critic_inputs(130, 70, 40, 36, dtype=dtype)
    weights = (x @ w_x, y @ w_y + b1, w2, b2, w3)
    grad = torch.randn(130, 70, generator=torch.Generator().manual_seed(1), dtype=dtype)

    def scores_and_gradients():
        scores, mask = torch.ops.gramian.information_pairwise_scores(*weights, True)
        backward = torch.ops.gramian.information_pairwise_scores_backward
        with_mask, again = backward(grad, *weights, mask), backward(grad, *weights, mask[:, :0])
        assert all(map(torch.equal, with_mask, again))
        return (scores, mask, *with_mask)

    checks.check_thread_counts_agree(scores_and_gradients)


def test_pairwise_scores_propagate_nan():
    inputs = critic_inputs(4, 5, 6, 7)
    inputs[0][2, 1] = torch.nan
    scores = information.pairwise_scores(*inputs)
    assert scores[2].isnan().all()
    assert scores[[0, 1, 3]].isfinite().all()


def test_pairwise_scores_have_derivatives_of_every_order(check_differentiable):
    x, y, w_x, w_y, b1, w2, b2, w3, b3 = critic_inputs(4, 3, 5, 4, seed=3)

    def scores(x, w2):
        return information.pairwise_scores(x, y, w_x, w_y, b1, w2, b2, w3, b3)

    if getattr(check_differentiable, "__name__", "") == "_compile_dynamic":  # it shortens every input alike
        check_differentiable(lambda x: scores(x, w2), x)
    else:
        check_differentiable(scores, x, w2)


def test_pairwise_scores_have_second_derivatives_by_every_argument():
    inputs = [t.requires_grad_() for t in critic_inputs(3, 2, 4, 3, seed=5)]
    assert torch.autograd.gradgradcheck(information.pairwise_scores, inputs)
    assert torch.autograd.gradcheck(information.pairwise_scores, inputs, check_forward_ad=True)


def op_inputs():
    return {
        "a": torch.ones(3, 4),
        "b": torch.ones(5, 4),
        "w2": torch.ones(4, 6),
        "b2": torch.ones(6),
        "w3": torch.ones(6),
    }


CRITIC_REFUSALS = [
    ({"a": torch.ones(3)}, "a must be [n, h], got shape (3,)"),
    ({"a": torch.ones(3, 4, dtype=torch.bfloat16)}, "a must be float32 or float64, got bfloat16"),
    ({"b": torch.ones(5, 3)}, "b must be [m, h] with h = 4 like a, got shape (5, 3)"),
    ({"w2": torch.ones(5, 6)}, "w2 must be [h, h2] with h = 4 like a, got shape (5, 6)"),
    ({"b2": torch.ones(5)}, "b2 must be [6], got shape (5,)"),
    ({"w3": torch.ones(5)}, "w3 must be [6], got shape (5,)"),
    ({"w3": torch.ones(6).double()}, "w3 must have the dtype of a (float32), got float64"),
]


@pytest.mark.parametrize(("change", "message"), CRITIC_REFUSALS)
def test_pairwise_scores_refuses(change, message):
    arguments = op_inputs() | change
    with refuses(f"pairwise_scores: {message}"):
        torch.ops.gramian.information_pairwise_scores(*arguments.values(), True)
    mask = torch.zeros(3, 6, dtype=torch.int32)
    with refuses(f"pairwise_scores_backward: {message}"):
        torch.ops.gramian.information_pairwise_scores_backward(torch.ones(3, 5), *arguments.values(), mask)


def test_pairwise_scores_backward_refuses_what_does_not_fit_the_scores():
    inputs = op_inputs().values()
    with refuses("pairwise_scores_backward: grad must be [3, 5], got shape (5, 3)"):
        mask = torch.zeros(3, 6, dtype=torch.int32)
        torch.ops.gramian.information_pairwise_scores_backward(torch.ones(5, 3), *inputs, mask)
    with refuses("pairwise_scores_backward: mask must be int32 [3, 6] or [3, 0], got shape (3, 5)"):
        mask = torch.zeros(3, 5, dtype=torch.int32)
        torch.ops.gramian.information_pairwise_scores_backward(torch.ones(3, 5), *inputs, mask)


def test_pairwise_scores_refuses_inputs_that_do_not_fit_the_first_layer():
    x, y, *rest = critic_inputs(3, 4, 5, 6)
    with refuses("pairwise_scores: x must be [n, 3] like w_x, got shape (4, 2)"):
        information.pairwise_scores(y, y, *rest)
    with refuses("pairwise_scores: y must be [m, 2] like w_y, got shape (3, 3)"):
        information.pairwise_scores(x, x, *rest)


def test_pairwise_critic_scores_pairs_on_the_diagonal():
    torch.manual_seed(0)
    critic = information.PairwiseCritic(3, 2, (20, 9)).double()
    x, y = critic_inputs(6, 6, 1, 1)[:2]
    torch.testing.assert_close(critic(x, y).diagonal(), critic.pairs(x, y), rtol=1e-12, atol=1e-12)


def embeddings(n, d, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return f.to(dtype), (0.5 * f + torch.randn(n, d, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("scale", [1, 40], ids=["", "scores to the hundreds"])
@pytest.mark.parametrize("size", [(2, 1), (31, 5), (33, 12), (97, 33), (200, 13), (600, 7), (5, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_infonce_separable_is_the_bound_of_the_score_matrix(isa, dtype, size, scale):
    f, g = (t.requires_grad_() for t in embeddings(*size, dtype=dtype))
    wide = [t.detach().double().requires_grad_() for t in (f, g)]
    expected = reference.infonce(scale * wide[0] @ wide[1].mT)
    value = information.infonce_separable(f, g, 1 / scale)
    assert value.dtype == dtype
    bound = 1e-12 if dtype == torch.float64 else 2e-6  # of scores up to 40 * 13 * a few, and of their logarithm
    torch.testing.assert_close(value.double(), expected, rtol=bound, atol=bound * scale)
    with torch.no_grad():
        assert torch.equal(information.infonce_separable(f, g, 1 / scale), value)
    for got, want in zip(torch.autograd.grad(value, (f, g)), torch.autograd.grad(expected, wide), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=10 * bound * scale, atol=10 * bound * scale)


def test_infonce_separable_takes_both_directions():
    f, g = embeddings(50, 6)
    both = (reference.infonce(f @ g.mT) + reference.infonce(g @ f.mT)) / 2
    torch.testing.assert_close(information.infonce_separable(f, g, symmetric=True), both, rtol=1e-12, atol=1e-12)


def test_infonce_separable_reads_any_strides(layout):
    f, g = embeddings(40, 6)
    f, g = layout(f), layout(g)
    torch.testing.assert_close(information.infonce_separable(f, g), reference.infonce(f @ g.mT), rtol=1e-12, atol=1e-12)


def test_infonce_separable_has_derivatives_of_every_order(check_differentiable):
    check_differentiable(lambda f, g: information.infonce_separable(f, g, 0.7)[None, None], *embeddings(4, 3))


def test_infonce_separable_has_the_same_bits_for_every_number_of_threads():
    f, g = embeddings(1000, 20, torch.float32)
    checks.check_thread_counts_agree(lambda: torch.ops.gramian.information_infonce(f, g, True))


def test_infonce_separable_propagates_nan():
    f, g = embeddings(40, 6)
    f[3, 2] = torch.nan
    assert information.infonce_separable(f, g).isnan()


def test_infonce_refuses():
    f, g = embeddings(5, 3)
    op = torch.ops.gramian.information_infonce
    with refuses("infonce: f must be [n, d], got shape (5,)"):
        op(f[:, 0], g, True)
    with refuses("infonce: g must have the shape of f (5, 3), got shape (4, 3)"):
        op(f, g[:4], False)
    with refuses("infonce: g must have the dtype of f (float64), got float32"):
        op(f, g.float(), False)
    with refuses("infonce: f must be float32 or float64, got float16"):
        op(f.half(), g.half(), False)
    with refuses("infonce: f must have at least 2 rows, got 1"):
        information.infonce_separable(f[:1], g[:1])
    with refuses("infonce_separable: g must have the 5 rows of f, got 4"):
        information.infonce_separable(f, g[:4])
    with refuses("infonce_separable: temperature must be positive, got 0.0"):
        information.infonce_separable(f, g, 0.0)
    with refuses("separable_scores: g must be [m, 3] like f, got shape (5, 2)"):
        information.separable_scores(f, g[:, :2])
    with refuses("separable_scores: f must be [n, d], got shape (5,)"):
        information.separable_scores(f[:, 0], g)
