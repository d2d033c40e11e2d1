"""The peak memory of tangent kernels, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import resource, torch
from torch import nn
from gramian import ntk
torch.set_num_threads(1)
torch.manual_seed(0)
widths = (784, 512, 512, 10)
model = nn.Sequential(*(m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())))[:-1]
x = torch.randn(768, 784)
ntk.empirical_ntk(model, x[:8])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kernel = ntk.empirical_ntk(model, x)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_empirical_ntk_takes_little_more_than_its_result_and_a_block():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    scale = 1 if sys.platform == "darwin" else 1024
    result = (768 * 10) ** 2 * 4
    block = 768 * 4 * (784 + 512 + 512 + 10 * (512 + 512 + 10))  # inputs, and gradients of all outputs
    assert (after - before) * scale < 1.2 * (result + block)
