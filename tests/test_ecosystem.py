"""What PyTorch does to an op from outside: compile, export, autocast, modes, other default devices, worker processes."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from tests import ops

FLOAT = torch.float32


def same(got, expected):
    """Equal to the bit, and in dtype, with NaN where there is NaN."""
    got, expected = (pytree.tree_leaves(value) for value in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
        else:
            assert a == b or a != a  # NaN


class Call(torch.nn.Module):
    """An op as a module: its tensors are inputs, all else is fixed. Written tensors are returned."""

    def __init__(self, op):
        super().__init__()
        self.op = op
        self.arguments = ops.OPS[op](FLOAT)

    def tensors(self):
        return [leaf for leaf in pytree.tree_leaves(ops.OPS[self.op](FLOAT)) if isinstance(leaf, torch.Tensor)]

    def forward(self, *tensors):
        given = iter(tensors)
        return ops.call(
            self.op,
            pytree.tree_map(lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf, self.arguments),
        )


def test_there_is_a_call_of_every_op_and_of_every_type_of_result():
    known = {
        name.removeprefix("gramian::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("gramian::") and "." not in name
    }
    assert ops.OPS.keys() == known, "tests/ops.py has one valid call of each op"
    assert ops.RESULTS.keys() == ops.result_types().keys(), "tests/ops.py has one call for each type of result"


@pytest.fixture(params=ops.OPS)
def op(request):
    return request.param


@pytest.fixture
def expected(op):
    return ops.call(op, ops.OPS[op](FLOAT))


def test_an_op_compiles_without_a_break(op, expected):
    call = Call(op)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")  # traces all, generates no code
    same(compiled(*call.tensors()), expected)
    torch.compiler.reset()


def test_an_op_is_exported(op, expected):
    call = Call(op)
    exported = torch.export.export(call, tuple(call.tensors()))
    kept = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert getattr(torch.ops.gramian, op).default in kept
    same(exported.module()(*call.tensors()), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_op_computes_in_the_dtype_of_its_input_under_autocast(op, expected, dtype):
    with torch.autocast("cpu", dtype):
        same(ops.call(op, ops.OPS[op](FLOAT)), expected)


def test_an_op_runs_in_inference_mode(op, expected):
    with torch.inference_mode():
        same(ops.call(op, ops.OPS[op](FLOAT)), expected)


def test_an_op_stays_on_the_device_of_its_input(op, expected):
    arguments = ops.OPS[op](FLOAT)
    with torch.device("meta"):
        same(ops.call(op, arguments), expected)


# ---- Results ----


@pytest.fixture(params=ops.RESULTS)
def make(request):
    return ops.RESULTS[request.param]


def test_a_result_is_copied_and_pickled(make):
    result = make()
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(copied) is type(result)
        same(copied, result)


@pytest.mark.parametrize(
    "name", sorted(ops.RESULTS.keys() - {"AlignmentRecord", "Estimate", "Trained"})
)  # these go with training
def test_a_result_is_the_same_in_inference_mode(name):
    make = ops.RESULTS[name]
    expected = make()
    with torch.inference_mode():
        same(make(), expected)


# An estimator is a module, which torch makes on the default device; symbols of bare integers are tensors that torch makes there.
FOLLOW_THE_DEFAULT_DEVICE = {"Estimate", "LayerConstant", "SingularValues", "SixjBlock", "SixjChunk", "SixjFamily"}


@pytest.mark.parametrize("name", sorted(ops.RESULTS.keys() - FOLLOW_THE_DEFAULT_DEVICE))
def test_a_result_stays_on_the_device_of_its_inputs(name):
    make = ops.RESULTS[name]
    expected = make()
    with torch.device("meta"):
        same(make(), expected)


# ---- Processes ----


class Calls(torch.utils.data.Dataset):
    """Item i is what the i-th op gives, computed where the item is fetched: in a worker."""

    def __len__(self):
        return len(ops.OPS)

    def __getitem__(self, index):
        op = list(ops.OPS)[index]
        return ops.call(op, ops.OPS[op](FLOAT))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ops_run_in_the_workers_of_a_data_loader(context):
    same(list(Calls()), list(Calls()))  # the parent's threads run before it forks
    loader = DataLoader(Calls(), batch_size=None, num_workers=1, multiprocessing_context=context)
    same(list(loader), [Calls()[index] for index in range(len(ops.OPS))])


def test_import_warns_of_nothing():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import gramian"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
