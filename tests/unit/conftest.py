"""What unit tests share: none finds code that another one compiled, threads that it set, or a
cluster that runs here."""

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


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Workers that a test runs in this process set the number for good. With several, those of
    small nets wait for one another, which takes ten times as long beside other tests."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own cluster may run beside the tests."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
