"""One worker among those of a training: rank, device, collectives, shared random draws."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from vqvdm import draws
from vqvdm.checkpoint import on_device
from vqvdm.inference import GRAPHS
from vqvdm.seeds import mix64

Module = TypeVar("Module", bound=nn.Module)
Item = TypeVar("Item")
Kinds = type[nn.Module] | tuple[type[nn.Module], ...]
"""Modules of a kind, or of several, as `isinstance` takes them."""


_OF_ITS_OWN: dict[str, Any] = (
    {"isolate_recompiles": True}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters
    else {}
)
"""Lets each module have eight shapes of its own: by default, and in versions of PyTorch without the
option, all of one class share eight. What comes after them runs as it is."""


@dataclass(frozen=True)
class World:
    """One worker's rank and device, and the arithmetic of all workers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    """Whether 3D convolutions keep channels innermost in memory, which is faster for them."""
    compiled: bool = False
    """Whether nets go through `torch.compile`."""
    backend: str | Callable[..., Any] = "inductor"
    """What compiles them; another than PyTorch's own generates no code, which is faster to test."""
    activation_checkpointing: bool = False
    """Whether blocks keep only their inputs, and are computed again on the way back."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager:
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def place(self, module: Module) -> Module:
        """A module on this worker's device, in the memory layout of the settings."""
        return on_device(module, self.device) if self.channels_last else module.to(self.device)

    def compile(self, *modules: nn.Module, replayed: bool = False) -> None:
        """Compile modules in place, if that is enabled; the names of weights stay.

        For each shape apart: there are few, and code for any shape is slower. `replayed` is for a
        module that runs once a step: all its kernels are launched at once, as a CUDA graph, where a
        worker is alone. Gradients that wait for a second run would be overwritten by it, and others
        are collected while they are computed.
        """
        graphs = replayed and self.size == 1 and self.device.type == "cuda"
        options = {"mode": GRAPHS} if graphs and self.backend == "inductor" else {}
        for module in modules:
            if self.compiled:
                module.compile(backend=self.backend, dynamic=False, **_OF_ITS_OWN, **options)

    def checkpoint_activations(self, net: nn.Module, block: Kinds) -> None:
        """Keep only the inputs of all blocks of some kinds in a net, if that is enabled, in place;
        the names of weights stay (activation checkpointing; Chen et al., 2016, arXiv:1604.06174).

        The backward pass recomputes each block. The blocks draw nothing at random.
        """
        for module in net.modules():
            if self.activation_checkpointing and isinstance(module, block):
                again = partial(
                    checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False
                )
                module.forward = again

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average gradients over the workers."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        # Kernels of one position are the same bytes in either layout, but PyTorch warns of them.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Gradients are views of the buckets that are reduced, which saves two copies.
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

    def collecting(self, module: nn.Module, last: bool) -> AbstractContextManager:
        """Average the gradients of a wrapped module with the last part of a batch only."""
        if last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return module.no_sync()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all workers, as many on each, in the order of the global batch."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def gather_keys(self, keys: list[str]) -> list[str]:
        """The keys of all workers, in the order of the global batch."""
        return [key for part in self.gather_objects(keys) for key in part]

    def gather_objects(self, item: Item) -> list[Item]:
        """What each worker gives, by rank; all workers have to call this."""
        parts = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(parts, item)
        return parts

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any worker; all workers have to call this."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes)
        return votes.item() > 0

    def average(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape on every worker, averaged over them in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def mean(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics averaged over the workers."""
        values = torch.stack(
            [value.detach().to(self.device).float().reshape(()) for value in metrics.values()]
        )
        return dict(zip(metrics, self.average(values).tolist(), strict=True))

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


class Draws:
    """Random numbers of one step: a function of seed, step and a sample's place in the global
    batch, whatever the number of workers and of parts.

    Each worker draws for its own samples, on its device. Draws of one step differ from each other.
    """

    def __init__(self, world: World, seed: int, step: int, part: int = 0, parts: int = 1) -> None:
        self._device = world.device
        self._part = world.rank * parts + part
        self._seed, self._step, self._drawn = seed, step, 0

    def _key(self) -> int:
        self._drawn += 1
        return mix64(self._seed, self._step, self._drawn)

    def normal(self, rows: int, *shape: int) -> Tensor:
        """Standard normal numbers (rows, *shape), where `rows` is the share of this part."""
        return draws.normal(self._key(), self._part * rows, (rows, *shape), self._device)

    def uniform(self, rows: int, *shape: int) -> Tensor:
        """Numbers in [0, 1), as `normal`."""
        return draws.uniform(self._key(), self._part * rows, (rows, *shape), self._device)
