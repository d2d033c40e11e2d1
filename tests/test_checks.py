"""The checks that other tests rely on fail where they should."""

import pytest
import torch

from tests import checks

TABLE = torch.tensor([[torch.inf, 1.0, 2.0, 1.0, 3.0]], dtype=torch.float64)


def found(distances, indices):
    return torch.tensor([distances]), torch.tensor([indices])


@pytest.mark.parametrize(
    "answer", [found([1.0, 1.0], [1, 3]), found([1.0], [1]), found([1.0, 1.0, 2.0, 3.0], [1, 3, 2, 4])]
)
def test_neighbours_are_accepted(answer):
    checks.assert_same_neighbors(answer, TABLE)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (found([1.0, 2.0], [1, 2]), "a nearer row was missed"),
        (found([1.0, 1.0], [3, 1]), "a tie is not in the order"),
        (found([1.0, 1.0], [1, 1]), "an index comes twice"),
        (found([1.0], [3]), "did not go to the lower index"),
        (found([1.0, 1.0], [1, 2]), "not that of its index"),
        (found([1.0, 1.0, 2.0, 3.0, 9.0], [1, 3, 2, 4, 0]), "none to be had"),
        (found([1.0, torch.inf], [1, -1]), "no neighbour where there is one"),
    ],
)
def test_wrong_neighbours_are_found_out(answer, why):
    with pytest.raises(AssertionError, match=why):
        checks.assert_same_neighbors(answer, TABLE)


def test_near_ties_may_stand_in_for_each_other_within_the_tolerance():
    table = torch.tensor([[1.0, 1.0 + 1e-9, 2.0]], dtype=torch.float64)
    answer = found([1.0], [1])
    checks.assert_same_neighbors(answer, table, relative=1e-8)
    with pytest.raises(AssertionError):
        checks.assert_same_neighbors(answer, table, relative=1e-10)


def test_error_ratio_is_judged_against_the_wider_reference():
    reference = torch.tensor([1.0, 2.0], dtype=torch.float64)
    unit = 2 * 2.0**-23  # of the largest entry
    peer = torch.tensor([1.0, 2.0 + unit])
    assert checks.error_ratio(reference.float(), peer, reference) == 0
    assert checks.error_ratio(torch.tensor([1.0, 2.0 + 3 * unit]), peer, reference) == pytest.approx(2)
    with pytest.raises(AssertionError):
        checks.error_ratio(torch.tensor([1.0, torch.nan]), peer, reference)


@pytest.mark.parametrize("name", checks.LAYOUTS)
def test_layouts_keep_the_shape_and_are_not_plain(name):
    x = torch.arange(12.0).view(3, 4)
    laid = checks.LAYOUTS[name](x)
    assert laid.shape == x.shape
    assert not laid.is_contiguous() or laid.storage_offset() > 0
    assert torch.equal(laid, x[:1].expand_as(x) if name == "expanded" else x)


def test_thread_counts_that_disagree_are_found_out():
    with pytest.raises(AssertionError):
        checks.check_thread_counts_agree(lambda: torch.tensor(torch.get_num_threads()))


class Wrong(torch.autograd.Function):
    """x squared, whose derivative is missing a factor."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x


@pytest.mark.parametrize("name", ["batched gradcheck", "opcheck", "no grad"])
def test_a_derivative_that_is_wrong_is_found_out(name):
    x = torch.linspace(1, 2, 8, dtype=torch.float64).view(4, 2)
    function = torch.Tensor.detach if name == "no grad" else Wrong.apply
    with pytest.raises((AssertionError, RuntimeError)):
        checks.AUTOGRAD_CHECKS[name](function, x)
