"""Logical sizes beyond 2^31 and 2^32, of tensors that repeat one row: products of sizes and offsets must not wrap."""

import mmap
import sys

import pytest
import torch

from tests.ops import OPS, call
from tests.oracles import OPS as ORACLES

ops = torch.ops.gramian
BEYOND = (1 << 31) + 5

pytestmark = pytest.mark.slow


def repeated(row, times):
    return torch.tensor([row], dtype=torch.float32).expand(times, len(row))


def test_a_gram_matrix_of_more_than_2_to_the_32_entries():
    n = (1 << 16) + 3
    x, y = repeated([1.0, 0.0], n), repeated([1.0, 1.0], n)
    assert n * n > 1 << 32
    assert ops.gram_square_sum(x, y).item() == pytest.approx(n * n, rel=1e-6)


def far_apart(t):
    """The same values, along the first axis more than 2^31 elements apart: addresses, of which few are backed by memory."""
    if t.ndim == 0 or len(t) < 2:
        return t
    apart = BEYOND * t.element_size()
    size = (len(t) - 1) * apart + t[0].numel() * t.element_size()
    space = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
    far = torch.frombuffer(space, dtype=t.dtype).as_strided(t.shape, (BEYOND, *t[0].contiguous().stride()))
    return far.copy_(t)


@pytest.mark.skipif(sys.platform != "linux", reason="needs addresses without memory")
@pytest.mark.parametrize("name", [name for name in OPS if not ORACLES[name].dense])
def test_every_op_reads_rows_that_lie_more_than_2_to_the_31_elements_apart(name):
    mutates = ORACLES[name].mutates
    expected, given = call(name, OPS[name](torch.float32)), OPS[name](torch.float32)
    for i, a in enumerate(given):
        if isinstance(a, torch.Tensor) and i not in mutates:
            given[i] = far_apart(a)
        elif isinstance(a, list):
            given[i] = [far_apart(t) if isinstance(t, torch.Tensor) else t for t in a]
    for got, wanted in zip(call(name, given), expected, strict=True):
        assert torch.equal(got.nan_to_num(), wanted.nan_to_num())


def test_rows_that_lie_more_than_2_to_the_31_elements_apart():
    stride = 1 << 28  # of 8 bytes: addresses, not memory, for only its ends are touched
    x = torch.empty(stride + 4, dtype=torch.float64)
    rows = x.as_strided((2, 4), (stride, 1))
    rows.copy_(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    assert stride * 8 == 1 << 31
    assert ops.gram_square_sum(rows, rows).item() == ops.gram_square_sum(rows.clone(), rows.clone()).item()
    wide = torch.empty(BEYOND + 4, dtype=torch.bfloat16).as_strided(
        (2, 2), (BEYOND, 1)
    )  # 4 GiB of addresses, two pages
    wide.copy_(torch.tensor([[1.0, 2], [3, 4]]))
    distances, indices = ops.neighbors_knn(wide, 1, None, "euclidean", True)
    assert indices.tolist() == [[1], [0]]
    assert distances.flatten().tolist() == pytest.approx([8**0.5, 8**0.5])


def test_attention_to_rows_that_lie_more_than_2_to_the_32_bytes_apart():
    stride = (1 << 30) + 1  # of 4 bytes: addresses, not memory
    far = torch.empty(stride + 3).as_strided((1, 1, 2, 3), (0, 0, stride, 1))
    far.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 7]]))
    mask = torch.empty(BEYOND + 2, dtype=torch.bool).as_strided((1, 1, 2, 2), (0, 0, BEYOND, 1))
    mask.copy_(torch.tensor([[True, False], [True, True]]))
    near, small = far.clone(), mask.clone()
    assert torch.equal(ops.attention_jvp(far, far, far, far, far, far, mask), ops.attention_jvp(*[near] * 6, small))
    for one, other in zip(
        ops.attention_vjp(far, far, far, far, mask), ops.attention_vjp(*[near] * 4, small), strict=True
    ):
        assert torch.equal(one, other)


def test_counts_of_more_than_2_to_the_32_pairs():
    n, m = (1 << 16) + 3, (1 << 16) + 1
    counts = ops.neighbors_count_within(repeated([1.0], n), torch.full((n,), 0.5), repeated([1.25], m))
    assert torch.equal(counts, torch.full((n,), m))


def test_neighbours_among_more_than_2_to_the_31_pairs():
    n = (1 << 16) + 3
    x = torch.arange(n, dtype=torch.float32)[:, None]
    _, indices = ops.neighbors_knn(x, 1, None, "euclidean", True)
    assert torch.equal(indices[1:, 0], torch.arange(n - 1))  # the lower of two that are as near
    assert indices[0, 0] == 1


def test_a_sum_of_more_than_2_to_the_32_waves():
    n, m = (1 << 16) + 3, 1 << 16
    k, x, v = repeated([0.25], n), repeated([1.0], m), torch.ones(m, 1)
    sums = ops.spectra_ndft(k, x, v)
    assert sums[0].abs().max() <= 1e-6 * m
    assert (sums[1] - m).abs().max() <= 1e-6 * m


def test_scores_of_more_than_2_to_the_31_pairs_in_a_bound():
    n = 47_000
    assert n * n > 1 << 31
    f = repeated([0.5], n)
    value, *_ = ops.information_infonce(f, f, False)
    assert value.abs().item() <= 1e-4  # all pairs alike: the bound knows nothing


def test_a_batch_whose_offsets_pass_2_to_the_32():
    x = repeated([1.0, 2.0], 1 << 20).unsqueeze(0).expand(1 << 13, 1 << 20, 2)
    assert x.numel() > 1 << 33
    last = x[-1, :3]
    assert ops.gram_square_sum(last, last).item() == 9 * 25
    assert ops.neighbors_assign(x[-2:, :5], torch.zeros(2, 1, 2))[0].flatten().tolist() == [5.0] * 10
