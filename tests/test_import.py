"""What `import gramian` says where it cannot work."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("sys.modules['torch'] = None", "gramian needs torch 2.10 or newer: pip install torch"),
        (
            "import torch; torch.__version__ = torch.torch_version.TorchVersion('2.9.1')",
            "gramian needs torch 2.10 or newer, this is 2.9.1: pip install -U torch",
        ),
        (
            "sys.modules['gramian._C'] = None",
            "gramian's compiled part does not load, build it again with `make install`",
        ),
    ],
)
def test_import_says_what_to_install(before, line):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {before}; import gramian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {line}")
