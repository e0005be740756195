"""What unit tests share: none of them finds code that another one compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_compiled_code() -> Iterator[None]:
    """PyTorch compiles a function eight times at most, and counts those of all tests."""
    yield
    if "torch._dynamo" in sys.modules:
        import torch

        torch.compiler.reset()
