"""Where the tests of GPUs run: on one, or at small sizes on a CPU, to rehearse them.

pytest tests/gpu                             on a GPU; skipped without one
VQVDM_GPU_REHEARSAL=1 pytest tests/gpu       the same tests on the CPU, most of them tiny
VQVDM_GPU_UNTIL=1764170000 pytest tests/gpu  start no test after that time, in seconds
"""

import gc
import os
import time
from collections.abc import Iterator

import pytest
import torch

from vqvdm.inference import prepare_device

REHEARSAL = os.environ.get("VQVDM_GPU_REHEARSAL") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Full sizes come after the small ones, and what compiles last: a minute for each net."""
    items.sort(key=lambda item: ("compiled" in item.nodeid, "full_size" in item.nodeid))


@pytest.fixture(autouse=True)
def in_time() -> None:
    until = os.environ.get("VQVDM_GPU_UNTIL")
    if until and time.time() > float(until):
        pytest.skip("the time for these tests is over")


@pytest.fixture
def rehearsal() -> bool:
    """Whether this is a rehearsal on a CPU, which wants tiny sizes."""
    return REHEARSAL


@pytest.fixture
def device(in_time: None) -> Iterator[torch.device]:
    """The GPU, in fp32 without TF32, and empty again afterwards; the CPU in a rehearsal."""
    if REHEARSAL:
        yield torch.device("cpu")
        return
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = torch.device("cuda", 0)
    prepare_device(device)
    yield device
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
