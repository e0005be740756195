"""On a GPU a training step only enqueues work."""

from collections.abc import Iterator

import pytest
import torch

from pipelines.training.world import World
from tests.trainings import METHODS, batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_nothing(
    name: str, accumulate: int, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    method = METHODS[name](World(device=torch.device("cuda"), dtype=dtype), accumulate)
    for step in range(2):  # the first ones place codes, and set up libraries
        method.train_step(batch(), step)
    request.getfixturevalue("no_waiting")
    metrics = method.train_step(batch(), 2)
    torch.cuda.set_sync_debug_mode("default")
    assert metrics["loss"].isfinite()
