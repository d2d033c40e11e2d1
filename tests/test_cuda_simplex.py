"""The CUDA ops of simplex, on a GPU or emulated: see test_cuda.py."""

import pytest
import torch

from tests.checks import LAYOUTS, refuses
from tests.cuda import rows

pytestmark = pytest.mark.slow


def simplices(*shape):
    """Edge lengths near those of a regular simplex, among them some that no simplex has."""
    lengths = 1 + 0.12 * rows(*shape, 10, dtype=torch.float64)
    lengths[..., 0, 0] = 9.0
    return lengths


@pytest.mark.parametrize("squared", [False, True])
def test_weight4_and_its_gradient_equal_the_cpu_ops(call, squared):
    lengths, labels = simplices(3, 100), rows(3, 100, 10, seed=1, dtype=torch.float64)
    by_action, by_log = rows(3, 100, seed=2, dtype=torch.float64), rows(3, 100, seed=3, dtype=torch.float64)
    for name, arguments in [
        ("simplex_weight4", (lengths, labels, squared)),
        ("simplex_weight4_backward", (lengths, labels, by_action, by_log, squared)),
    ]:
        expected = getattr(torch.ops.gramian, name)(*arguments)
        assert expected[0].isfinite().sum() > 200
        for got, wanted in zip(call(name, *arguments), expected, strict=True):
            # Flat simplices lose digits: their volume is the root of a difference.
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_weight4_reads_any_layout_and_nothing(call):
    lengths, labels = simplices(7), rows(7, 10, seed=1, dtype=torch.float64)
    for layout in LAYOUTS.values():
        given = layout(lengths), layout(labels)
        copies = [t.clone(memory_format=torch.contiguous_format) for t in given]
        for got, wanted in zip(call("simplex_weight4", *given), call("simplex_weight4", *copies), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    assert call("simplex_weight4", lengths[:0], labels[:0])[0].shape == (0,)


def test_simplex_ops_refuse_what_the_cpu_ops_refuse(call):
    with refuses("weight4: lengths must be float64, got float32"):
        call("simplex_weight4", torch.ones(2, 10), torch.ones(2, 10))
    x = torch.ones(2, 10, dtype=torch.float64)
    with refuses("weight4_backward: grad_action must be [...] like lengths, (2, 10), got (3,)"):
        call("simplex_weight4_backward", x, x, x[0, :3], x[:, 0])
