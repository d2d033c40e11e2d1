"""What an installed gramian must do with nothing beside it: no source tree, no pytest, no compiler."""

import doctest
import importlib.util
import inspect
import sys
import warnings
from pathlib import Path

import torch

import gramian

assert "site-packages" in str(Path(gramian.__file__)), gramian.__file__

x = torch.randn(300, 17)
nearest = gramian.neighbors.knn(x, k=3, exclude_self=True)
distances = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
assert torch.equal(nearest.indices, distances.topk(3, largest=False).indices)
expected = (x.double() @ x.double().mT).square().sum()
torch.testing.assert_close(gramian.engine.gram_square_sum(x, x).double(), expected, rtol=1e-5, atol=0)
model = torch.nn.Sequential(torch.nn.Linear(17, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
kernel = gramian.ntk.empirical_ntk(model, x[:9], outputs="trace")
gradients = torch.func.vmap(
    torch.func.grad(lambda p, row: torch.func.functional_call(model, p, (row,)).sum()), (None, 0)
)
jacobian = torch.cat([g.flatten(1) for g in gradients(dict(model.named_parameters()), x[:9]).values()], 1)
torch.testing.assert_close(kernel, (jacobian @ jacobian.mT).detach())

examples = 0
with warnings.catch_warnings():
    # Torch's own forward mode uses it, in some versions.
    warnings.filterwarnings("ignore", r"`torch\.jit\..* is deprecated", DeprecationWarning)
    for family in (getattr(gramian, name) for name in gramian.__all__):
        if not inspect.ismodule(family) or (family is gramian.plot and importlib.util.find_spec("matplotlib") is None):
            continue
        for name in family.__all__:
            function = getattr(family, name)
            if inspect.isfunction(function):
                module = importlib.import_module(function.__module__)
                for test in doctest.DocTestFinder(recurse=False).find(function, name, module):
                    result = doctest.DocTestRunner(verbose=False).run(test)
                    assert result.failed == 0, f"{family.__name__}.{name}"
                    examples += result.attempted
assert examples > 0
print(
    f"gramian {gramian.__version__} on torch {torch.__version__}, Python {sys.version.split()[0]}: {examples} examples"
)
