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


def doubled_spins(count, largest, seed=0):
    """Random triads around a tetrahedron; some are none."""
    generator = torch.Generator().manual_seed(seed)
    spins = torch.randint(0, largest + 1, (6, count), generator=generator)
    for a, b, c in ((0, 1, 2), (0, 4, 5), (3, 1, 5), (3, 4, 2)):  # the sum of a triad is even, in most columns
        spins[c] = torch.where((spins[a] + spins[b] + spins[c]) % 2 == 1, (spins[c] - 1).abs(), spins[c])
    return spins


# Of doubled spins up to 60 both ops keep twelve digits, next to sign changes too, and zeros are exactly 0.
TWICE_THE_BOUND = {"rtol": 2e-12, "atol": 0}


def test_sixj_and_threej_equal_the_cpu_ops(call):
    spins = torch.cat([doubled_spins(300, largest, largest) for largest in (4, 20, 60)], 1)
    expected = torch.ops.gramian.simplex_sixj(spins)
    assert (expected != 0).sum() > 60
    torch.testing.assert_close(call("simplex_sixj", spins), expected, **TWICE_THE_BOUND)
    zeros = torch.tensor([[3, 4, 3, 3, 3, 6], [4, 4, 4, 4, 3, 3]]).T  # the first is zero by no selection rule: exactly
    assert torch.equal(call("simplex_sixj", zeros) == 0, torch.ops.gramian.simplex_sixj(zeros) == 0)
    j, m = spins[:3], torch.stack([spins[0], -spins[1], spins[1] - spins[0]])
    m[0, ::2] -= 2 * (spins[0, ::2] // 2)
    m[2] = -m[0] - m[1]
    both = torch.cat([j, m])
    expected = torch.ops.gramian.simplex_threej(both)
    assert (expected != 0).sum() > 60
    torch.testing.assert_close(call("simplex_threej", both), expected, rtol=1e-9, atol=1e-13)
    far = torch.full((6, 1), 3000)  # entries that grow beyond all bounds on the way
    torch.testing.assert_close(call("simplex_sixj", far), torch.ops.gramian.simplex_sixj(far), rtol=1e-9, atol=0)
    assert call("simplex_sixj", spins[:, :0]).shape == (0,)


def test_families_blocks_and_tables_equal_the_cpu_ops(call):
    spins = doubled_spins(200, 15)[1:]
    for got, wanted in zip(
        call("simplex_sixj_family", spins, 16), torch.ops.gramian.simplex_sixj_family(spins, 16), strict=True
    ):
        torch.testing.assert_close(got, wanted, **TWICE_THE_BOUND)
    for limit in (7, 60):
        arguments = (spins[:4], limit)
        expected = torch.ops.gramian.simplex_sixj_blocks(*arguments)
        assert len(expected[0]) > 50
        for got, wanted in zip(call("simplex_sixj_blocks", *arguments), expected, strict=True):
            torch.testing.assert_close(got, wanted, **TWICE_THE_BOUND)
    cursor = torch.tensor(0)
    while cursor != -1:
        expected = torch.ops.gramian.simplex_sixj_table(cursor, 6, 2000)
        for got, wanted in zip(call("simplex_sixj_table", cursor, 6, 2000), expected, strict=True):
            torch.testing.assert_close(got, wanted, **TWICE_THE_BOUND)
        cursor = expected[3]
    assert call("simplex_sixj_blocks", spins[:4, :0], 3)[1].tolist() == [0]


def test_blocks_next_to_sign_changes_keep_twelve_digits(call):
    spins = doubled_spins(60, 60, seed=9)[:4]
    values, offsets = call("simplex_sixj_blocks", spins, 60)
    expected, _ = torch.ops.gramian.simplex_sixj_blocks(spins, 60)
    assert offsets[-1] > 5000
    torch.testing.assert_close(values, expected, **TWICE_THE_BOUND)


def test_spins_out_of_range_are_refused(call):
    spins = torch.zeros(6, 300, dtype=torch.int64)
    spins[2, 5], spins[4, 7] = -3, 20001
    with refuses("sixj: spins must be doubled spins in [0, 20000], got -3"):
        call("simplex_sixj", spins)
    with refuses("threej: spins must be int64, got float32"):
        call("simplex_threej", torch.zeros(6, 1))
    with refuses("sixj_family: width must be at least 5, got 4"):
        call("simplex_sixj_family", torch.full((5, 3), 4), 4)
    with refuses("sixj_table: cursor must be in [0, 27), got 27"):
        call("simplex_sixj_table", torch.tensor(27), 2, 1)
