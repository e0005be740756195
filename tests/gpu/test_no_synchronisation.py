"""On a GPU a training step only enqueues work."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pipelines.training.world import World
from tests.trainings import METHODS, batch
from vqvdm.transfer import to_host


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """CUDA raises an error where the host waits for it."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_nothing(
    name: str, accumulate: int, dtype: torch.dtype, device: torch.device
) -> None:
    if name == "fsq":
        pytest.importorskip("vector_quantize_pytorch")
    if device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("gradients of 3D convolutions in bf16 are not always finite on CPUs")
    method = METHODS[name](World(device=device, dtype=dtype), accumulate)
    for step in range(2):  # the first ones place codes, and set up libraries
        method.train_step(batch(), step)
    more = batch()
    with no_waiting(device):
        metrics = method.train_step(more, 2)
    assert metrics["loss"].isfinite()


def test_a_copy_for_a_checkpoint_is_not_waited_for(device: torch.device) -> None:
    weight = torch.ones(64, 64, 3, 3, 3, device=device).to(memory_format=torch.channels_last_3d)
    to_host(weight)  # pins memory
    with no_waiting(device):
        copy = to_host(weight)
        weight.zero_()  # as the next step does
    if device.type == "cuda":
        torch.cuda.synchronize()
    assert copy.is_contiguous() and copy.is_pinned() == (device.type == "cuda")
    assert (copy == 1).all()
