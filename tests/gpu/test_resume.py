"""A training on a GPU goes on from its state, and in a group of one worker as without one."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.training.methods.base import Method
from pipelines.training.world import World
from tests.agreement import errors
from tests.trainings import METHODS, batch
from vqvdm.checkpoint import load_state, save_state

Module = TypeVar("Module", bound=nn.Module)
NAMES = [name for name in METHODS if name != "fsq"]  # its package is missing on some machines


def apart(
    found: Method, expected: Method, device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Weights that differ. A CPU repeats a step exactly; some kernels of a GPU add in any order,
    and Adam divides each gradient by its size, however small, and codes near a tie may swap."""
    states = [method.state() for method in (found, expected)]
    ours, theirs = (state.get("vqgan") or state["denoiser"] for state in states)
    limits = {torch.float32: 1e-2, torch.bfloat16: 1e-1}
    limit = limits[dtype] if device.type == "cuda" else 1e-6
    wrong = {key: error for key, error in errors(ours, theirs).items() if error > limit}
    if device.type == "cuda":
        wrong = {key: error for key, error in wrong.items() if "codebook" not in key}
    return wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_training_goes_on(
    name: str, dtype: torch.dtype, device: torch.device, tmp_path: Path
) -> None:
    world = World(device=device, dtype=dtype)
    with torch.backends.mkldnn.flags(enabled=dtype == torch.float32):
        undisturbed = METHODS[name](world, 1)
        for step in range(2):
            undisturbed.train_step(batch(), step)
        save_state(tmp_path / "state", undisturbed.state())
        resumed = METHODS[name](world, 1)
        resumed.load(load_state(tmp_path / "state"))
        for step in range(2, 5):
            for method in (undisturbed, resumed):
                metrics = method.train_step(batch(), step)
    assert metrics["skipped_steps"] == 0
    assert apart(resumed, undisturbed, device, dtype) == {}


class Grouped(World):
    """A worker alone in its group, with all that several workers need."""

    def wrap(self, module: nn.Module) -> nn.Module:
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows)]
        dist.all_gather(parts, rows.contiguous())
        return parts[0]

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(tensor)
        return tensor


@pytest.fixture
def group(device: torch.device, tmp_path: Path) -> Iterator[None]:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_one(name: str, accumulate: int, device: torch.device) -> None:
    alone = METHODS[name](World(device=device), accumulate)
    grouped = METHODS[name](Grouped(device=device), accumulate)
    for step in (0, 1, 8):
        for method in (alone, grouped):
            metrics = method.train_step(batch(), step)
    assert Grouped(device=device).mean(metrics)["skipped_steps"] == 0
    assert apart(grouped, alone, device) == {}
    dist.barrier()
