"""What several families check: errors against a wider reference, neighbours with ties, layouts, derivatives, threads."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# ---- Refusals and values ----


def refuses(message):
    """The block raises a ValueError with exactly this text."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def wide(values):
    """As NumPy's widest float: what errors are measured in."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values if values.dtype == torch.float64 else values.double()).numpy()
    return np.asarray(values, dtype=np.longdouble)


def error_ratio(got, peer, reference):
    """The largest error of ``got`` over that of ``peer``, both of one dtype, against a wider reference.

    Half a unit in the last place of the largest entry is added to the peer's error, so that "at most 2" allows twice
    the peer's error plus one such unit.
    """
    if got.numel() == 0:
        return 0.0
    reference = wide(reference)
    unit = torch.finfo(got.dtype).eps * float(np.abs(reference).max())
    error, peer_error = (float(np.abs(wide(t) - reference).max()) for t in (got, peer))
    assert np.isfinite(error), "got a NaN or an infinity where the reference has none"
    return error / (peer_error + unit / 2) if error > 0 else 0.0


def assert_same_neighbors(found, table, *, relative=0.0, absolute=0.0):
    """``found`` (distances and indices, [n, k]) are the lowest entries of each row of ``table``, [n, m].

    ``table`` holds the reference distances, ``inf`` where a pair is not allowed. Entries within the tolerance of each other
    may stand in for each other; without a tolerance the indices must be those of the sorted table, ties to the lower
    index.
    """
    distances, indices = wide(found[0]), np.asarray(found[1])
    table = wide(table)
    n, k = indices.shape
    assert distances.shape == (n, k)
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    lowest = np.take_along_axis(table, order, 1)
    there = np.isfinite(lowest)
    assert (indices[~there] == -1).all(), "a neighbour where there is none to be had"
    assert np.isposinf(distances[~there]).all()
    assert ((indices >= 0) == there).all(), "no neighbour where there is one"
    allowed = np.where(there, relative * np.abs(np.where(there, lowest, 0)) + absolute, 0)
    own = np.take_along_axis(table, np.maximum(indices, 0), 1)
    with np.errstate(invalid="ignore"):
        assert (np.abs(distances - own)[there] <= allowed[there]).all(), "a distance is not that of its index"
        assert (np.abs(distances - lowest)[there] <= allowed[there]).all(), "a nearer row was missed"
        steps = np.diff(distances, axis=1)[there[:, 1:]]
    assert (steps >= 0).all(), "not sorted"
    tied = np.diff(indices, axis=1)[there[:, 1:]][steps == 0]
    assert (tied > 0).all(), "a tie is not in the order of the indices, or an index comes twice"
    if not relative and not absolute:
        assert (indices[there] == order[there]).all(), "a tie at the last place did not go to the lower index"


# ---- Layouts: each gives a tensor of the shape of x that is not contiguous ----


def _transposed(x):
    return x.mT.contiguous().mT


def _sliced(x):
    apart = x.new_full((*x.shape[:-2], 2 * x.shape[-2], 3 * x.shape[-1]), torch.nan)
    apart[..., ::2, 1::3] = x
    return apart[..., ::2, 1::3]


def _offset(x):
    return torch.cat([x.new_full((1,), torch.nan), x.flatten()])[1:].view(x.shape)


def _expanded(x):
    return x[..., :1, :].expand_as(x)


LAYOUTS = {"transposed": _transposed, "sliced": _sliced, "offset": _offset, "expanded": _expanded}


# ---- Threads ----


def check_thread_counts_agree(function):
    """``function()`` returns the same bits with 1, 2 and 3 threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            result = function()
            results.append((result,) if isinstance(result, torch.Tensor) else tuple(result))
    finally:
        torch.set_num_threads(before)
    for first, other in itertools.pairwise(results):
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a, b)


# ---- Derivatives: the ways in which users ask for one, all of which must work and agree ----


def _weighted(function):
    """A scalar of the output in which every entry counts differently, and not linearly."""

    def scalar(*inputs):
        out = function(*inputs)
        return (torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view(out.shape) * (out + out * out)).sum()

    return scalar


def _leaves(inputs):
    return tuple(x.detach().clone().requires_grad_() for x in inputs)


def _batches(inputs):
    return tuple(torch.stack([x, 0.5 * x, x.flip(0)]) for x in inputs)


def _everything(inputs):
    return tuple(range(len(inputs)))


def _close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)  # one formula in two orders of float64 operations


def _loop(function, inputs):
    """``function`` of each sample of the batches ``inputs``, stacked, as vmap would."""
    results = [function(*sample) for sample in zip(*inputs, strict=True)]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results)
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def _gradient(function, inputs):
    leaves = _leaves(inputs)
    return torch.autograd.grad(_weighted(function)(*leaves), leaves)


def _gradcheck(function, *inputs):
    assert torch.autograd.gradcheck(function, _leaves(inputs), check_forward_ad=True)


def _batched_gradcheck(function, *inputs):
    assert torch.autograd.gradcheck(function, _leaves(inputs), check_batched_grad=True)


def _gradgradcheck(function, *inputs):
    assert torch.autograd.gradgradcheck(function, _leaves(inputs))


def _jvp(function, *inputs):
    tangents = tuple(torch.cos(x) for x in inputs)
    out, got = torch.func.jvp(function, inputs, tangents)
    _close(out, function(*inputs))
    _, expected = torch.autograd.functional.jvp(function, inputs, tangents)  # by reverse mode, twice
    _close(got, expected)
    assert got.abs().max() > 0


def _vmap_grad(function, *inputs):
    batches = _batches(inputs)
    grad = torch.func.grad(_weighted(function), _everything(inputs))
    _close(torch.func.vmap(grad)(*batches), _loop(lambda *sample: _gradient(function, sample), batches))


def _jacobian(function, inputs):
    return torch.autograd.functional.jacobian(function, tuple(inputs))


def _jacrev(function, *inputs):
    _close(torch.func.jacrev(function, _everything(inputs))(*inputs), _jacobian(function, inputs))


def _jacfwd(function, *inputs):
    _close(torch.func.jacfwd(function, _everything(inputs))(*inputs), _jacobian(function, inputs))


def _vmap_jacrev(function, *inputs):
    batches = _batches(inputs)
    got = torch.func.vmap(torch.func.jacrev(function, _everything(inputs)))(*batches)
    _close(got, _loop(lambda *sample: _jacobian(function, sample), batches))


def _vmap_jvp(function, *inputs):
    batches = _batches(inputs)
    tangents = tuple(torch.cos(x) for x in batches)

    def tangent(*both):
        return torch.func.jvp(function, both[: len(inputs)], both[len(inputs) :])[1]

    _close(torch.func.vmap(tangent)(*batches, *tangents), _loop(tangent, (*batches, *tangents)))


def _hessian(function, *inputs):
    scalar, all_of_them = _weighted(function), _everything(inputs)
    expected = torch.autograd.functional.hessian(scalar, inputs)  # reverse over reverse, without torch.func
    for outer, inner in itertools.product((torch.func.jacfwd, torch.func.jacrev), repeat=2):
        _close(outer(inner(scalar, all_of_them), all_of_them)(*inputs), expected)


class _Calls(TorchDispatchMode):
    """Writes down the calls of this library's ops."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "gramian":
            self.calls.append((op, args, kwargs or {}))
        return op(*args, **(kwargs or {}))


def _opcheck(function, inputs, *, grad):
    with _Calls() as seen:
        function(*inputs)
    assert seen.calls, "no op of this library was called"
    for op, args, kwargs in seen.calls:
        given = [
            a.detach().requires_grad_(grad and a.is_floating_point()) if isinstance(a, torch.Tensor) else a
            for a in args
        ]
        torch.library.opcheck(op, tuple(given), kwargs)


def _no_grad(function, *inputs):
    leaves = _leaves(inputs)
    with torch.no_grad():
        without = function(*leaves)
    with torch.inference_mode():
        in_inference = function(*(x.detach() for x in leaves))
    out = function(*leaves)
    assert out.requires_grad
    assert not without.requires_grad
    assert torch.equal(out.detach(), without)
    assert torch.equal(in_inference, without)


def _compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)  # traces all, generates no code


def _compile(function, *inputs):
    assert torch.equal(_compiled(function)(*inputs), function(*inputs))


def _compile_backward(function, *inputs):
    _close(_gradient(_compiled(function), inputs), _gradient(function, inputs))


def _compile_vmap_grad(function, *inputs):
    batches = _batches(inputs)
    grads = torch.func.vmap(torch.func.grad(_weighted(function), _everything(inputs)))
    _close(_compiled(grads)(*batches), grads(*batches))


def _compile_dynamic(function, *inputs):
    compiled = _compiled(function, dynamic=True)
    for size in (inputs[0].shape[-2], inputs[0].shape[-2] - 1):
        smaller = tuple(x[..., :size, :].contiguous() for x in inputs)
        assert torch.equal(compiled(*smaller), function(*smaller))


# Each takes a function from float64 tensors to one tensor, and the tensors: [..., rows, columns], at least four rows.
AUTOGRAD_CHECKS = {
    "gradcheck": _gradcheck,
    "batched gradcheck": _batched_gradcheck,
    "gradgradcheck": _gradgradcheck,
    "jvp": _jvp,
    "vmap grad": _vmap_grad,
    "jacrev": _jacrev,
    "jacfwd": _jacfwd,
    "vmap jacrev": _vmap_jacrev,
    "vmap jvp": _vmap_jvp,
    "hessian": _hessian,
    "opcheck": lambda function, *inputs: _opcheck(function, inputs, grad=False),
    "opcheck backward": lambda function, *inputs: _opcheck(function, inputs, grad=True),
    "no grad": _no_grad,
    "compile": _compile,
    "compile backward": _compile_backward,
    "compile vmap grad": _compile_vmap_grad,
    "compile dynamic": _compile_dynamic,
}
