"""The CUDA op of ensemble, on a GPU or emulated: see test_cuda.py."""

import pytest
import torch

from tests.checks import refuses
from tests.cuda import rows

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accumulate_equals_the_cpu_op(call, dtype):
    for m, n, c in [(1, 1, 1), (3, 70, 1), (5, 40, 3), (2, 3, 100), (0, 4, 2), (4, 0, 2), (4, 2, 0)]:
        predictions, target = rows(m, n, c, dtype=dtype), rows(n, c, seed=1, dtype=dtype)
        for aim in (target, None):
            got = [torch.ones(n, c).double(), None if aim is None else torch.ones(n).double()]
            expected = [None if t is None else t.clone() for t in got]
            call("ensemble_accumulate_", predictions, aim, *got)
            torch.ops.gramian.ensemble_accumulate_(predictions, aim, *expected)
            for a, b in zip(got, expected, strict=True):
                if b is not None:
                    torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-13, atol=1e-5)


def test_accumulate_reads_any_layout_and_refuses(call):
    predictions = rows(3, 5, 4).mT
    got, expected = torch.zeros(4, 5).double(), predictions.double().sum(0)
    call("ensemble_accumulate_", predictions, None, got, None)
    torch.testing.assert_close(got, expected, rtol=1e-15, atol=1e-15)  # the same sums in float64
    with refuses("accumulate_: squares must be given with target, and only then, got None"):
        call("ensemble_accumulate_", predictions, predictions[0], got, None)
