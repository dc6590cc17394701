"""Where kernels are tried: on a GPU; without one, in Triton's interpreter where TRITON_INTERPRET=1 is set.

Importing this skips the file that does where there is neither.
"""

import os

import pytest
import torch

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (torch.cuda.is_available() or INTERPRETED):
    pytest.skip("kernels need a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
MARK = [] if INTERPRETED else pytest.mark.gpu
