"""What the tests of the CUDA ops share: builds, and calls of an op on a GPU or, with the same source, on the host."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import torch

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
MISSING = [tool for tool in ("cmake", "ninja", "c++") if shutil.which(tool) is None]


def build(folder, target, *options):
    command = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    report = ""
    for step in (command, ["ninja", "-v", "-C", folder, target]):
        done = subprocess.run([str(part) for part in step], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        report += done.stdout + done.stderr
    return folder / f"{target}.so", report


def _tensors(values, change):
    """``values`` with ``change`` made to every tensor in it, also within lists."""
    if isinstance(values, torch.Tensor):
        return change(values)
    return type(values)(_tensors(v, change) for v in values) if isinstance(values, (list, tuple)) else values


class Emulated:
    """Calls a CUDA op on the host, with its threads in three orders: a race would show as different bits.

    An op that writes into an argument is called on copies, and the argument takes the last result.
    """

    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))

    def __call__(self, name, *arguments):
        results = []
        for order in (1, 7, 0):
            self.library.gramian_thread_order(order)
            copies = _tensors(arguments, lambda t: t.clone()) if name.endswith("_") else arguments
            result = getattr(torch.ops.gramian_emulated, name)(*copies)
            result = (result,) if isinstance(result, torch.Tensor) else result or ()
            results.append([*result, *(c for c in copies if isinstance(c, torch.Tensor))])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        _take(arguments, copies)
        return result[0] if len(result) == 1 else tuple(result)

    def captured(self, name, *arguments):
        """The same while a CUDA graph is captured, when nothing can be read back from the device: that is an error here as there."""
        self.library.gramian_capture(1)
        try:
            return self(name, *arguments)
        finally:
            self.library.gramian_capture(0)


class OnGpu:
    def __call__(self, name, *arguments):
        return self._finish(name, arguments, lambda op, moved: op(*moved))

    def captured(self, name, *arguments):
        def capture(op, moved):
            op(*_tensors(moved, lambda t: t.clone()))  # so that what happens once has happened
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = op(*moved)
            graph.replay()
            return result

        return self._finish(name, arguments, capture)

    def _finish(self, name, arguments, run):
        moved = _tensors(arguments, lambda t: t.cuda())
        result = run(getattr(torch.ops.gramian, name), moved)
        if name.endswith("_"):
            _take(arguments, moved)
        return _tensors(result, lambda t: t.cpu())


def _take(arguments, results):
    for mine, other in zip(arguments, results, strict=True):
        if isinstance(mine, torch.Tensor) and mine is not other:
            mine.copy_(other)


def rows(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
