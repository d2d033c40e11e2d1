"""The CUDA ops of information, on a GPU or emulated: see test_cuda.py."""

import pytest
import torch

from tests.checks import refuses
from tests.cuda import rows

pytestmark = pytest.mark.slow


def double(arguments):
    return [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]


def close(got, expected, dtype):
    """Within roundings of the largest value: sums of at most a few hundred terms."""
    for a, b in zip(got, expected, strict=True):
        bound = 200 * torch.finfo(dtype).eps * (b.abs().max().item() if b.numel() else 0)
        torch.testing.assert_close(a.double(), b, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infonce_equals_the_cpu_op(call, dtype):
    for n, d in [(2, 1), (130, 20), (65, 70)]:
        f, g = (rows(n, d, seed=seed, dtype=torch.float64).div(d**0.5).to(dtype) for seed in (0, 1))
        for gradients in (False, True):
            arguments = (3 * f, 3 * g.mT.contiguous().mT, gradients)
            expected = torch.ops.gramian.information_infonce(*double(arguments))
            close(call("information_infonce", *arguments), expected, dtype)
    with refuses("infonce: f must have at least 2 rows, got 1"):
        call("information_infonce", f[:1], g[:1], False)


def critic(n, m, h, h2, dtype):
    shapes = [(n, h), (m, h), (h, h2), (h2,), (h2,)]
    return [rows(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "h", "h2"), [(3, 5, 2, 3), (2, 130, 20, 17), (5, 40, 9, 140), (2, 3, 130, 4)])
def test_the_critic_and_its_gradient_equal_the_cpu_ops(call, dtype, n, m, h, h2):
    arguments = critic(n, m, h, h2, dtype)
    scores, mask = call("information_pairwise_scores", *arguments, True)
    expected, bits = torch.ops.gramian.information_pairwise_scores(*double(arguments), True)
    close((scores,), (expected,), dtype)
    grad = rows(n, m, seed=9, dtype=dtype)
    for given in (mask, mask[:, :0]):
        got = call("information_pairwise_scores_backward", grad, *arguments, given)
        wanted = torch.ops.gramian.information_pairwise_scores_backward(*double((grad, *arguments)), bits)
        close(got, wanted, dtype)


def test_a_critic_of_nothing_and_refusals(call):
    for shape in ((0, 3, 2, 2), (3, 0, 2, 2), (2, 2, 0, 2), (2, 2, 2, 0)):
        arguments = critic(*shape, torch.float32)
        scores, mask = call("information_pairwise_scores", *arguments, True)
        expected = torch.ops.gramian.information_pairwise_scores(*arguments, True)
        torch.testing.assert_close(scores, expected[0])
        backward = (torch.ones_like(scores), *arguments, mask)
        wanted = torch.ops.gramian.information_pairwise_scores_backward(
            torch.ones_like(scores), *arguments, expected[1]
        )
        for a, b in zip(call("information_pairwise_scores_backward", *backward), wanted, strict=True):
            torch.testing.assert_close(a, b)
    arguments = critic(2, 3, 4, 5, torch.float32)
    with refuses("pairwise_scores: w3 must be [5], got shape (4,)"):
        call("information_pairwise_scores", *arguments[:4], arguments[4][:4], False)
