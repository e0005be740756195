"""The workers of a training as the code in them sees it: ranks, devices, shared random draws."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vqvdm.seeds import mix


@dataclass(frozen=True)
class World:
    """One worker's place among all, and the arithmetic they use."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager:
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average gradients over the workers."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def average(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape on every worker, averaged over them in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def mean(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics averaged over the workers."""
        values = torch.stack([value.detach().float().reshape(()) for value in metrics.values()])
        return dict(zip(metrics, self.average(values).tolist(), strict=True))

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


class Draws:
    """Random numbers of one step: a function of seed and step, whatever the number of workers.

    Every worker draws for the whole batch and takes its own rows.
    """

    def __init__(self, world: World, seed: int, step: int) -> None:
        self._world = world
        self._generator = torch.Generator().manual_seed(mix(seed, step))

    def _mine(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._world.size)[self._world.rank].to(self._world.device)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Standard normal numbers (rows, *shape), where `rows` is this worker's share."""
        whole = (rows * self._world.size, *shape)
        return self._mine(torch.randn(whole, generator=self._generator))

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Numbers in [0, 1), as `normal`."""
        whole = (rows * self._world.size, *shape)
        return self._mine(torch.rand(whole, generator=self._generator))
