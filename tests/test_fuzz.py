"""A short run of the fuzzer on every op; `make fuzz` runs it for long. A failure names the seed that repeats it."""

import numpy as np
import pytest
import torch

from gramian import _C
from tests import ops
from tests.fuzz import Fuzzer
from tests.oracles import OPS

SEEDS = range(1 << 20, (1 << 20) + 6)


def test_every_op_is_fuzzed():
    assert OPS.keys() == ops.OPS.keys(), "tests/oracles has one entry for each op"


@pytest.mark.filterwarnings("ignore")  # torch's own, of quantised tensors, and NumPy's, of overflow in a reference
@pytest.mark.parametrize("name", OPS)
def test_an_op_answers_right_or_refuses(name):
    before, threads, fuzzer = _C.active_isa(), torch.get_num_threads(), Fuzzer(OPS[name])
    try:
        with np.errstate(all="ignore"):
            for seed in SEEDS:
                fuzzer.seed(seed)
    finally:
        _C.set_isa(before)
        torch.set_num_threads(threads)
    assert fuzzer.faults == []
    assert fuzzer.counts["problems"] == len(SEEDS)
    assert fuzzer.counts["guises"] > 0
    assert fuzzer.counts["refused"] > 0


def test_the_fuzzer_sees_a_wrong_value():
    op, fuzzer = OPS["gram_square_sum"], None

    class Wrong:
        name, mutates, finite, dense = op.name, (), False, False
        draw, ratio = staticmethod(op.draw), staticmethod(op.ratio)

        @staticmethod
        def call(x, y):
            return op.call(x, y) * (1 + 1e-4)

    fuzzer = Fuzzer(Wrong)
    for seed in range(30):
        fuzzer.seed(seed)
    assert any(fault["what"] == "wrong" for fault in fuzzer.faults)
