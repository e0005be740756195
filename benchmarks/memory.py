"""Batches that lie in memory: what a step takes, without shards and their loader."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MemoryBatch:
    """Stacked tensors of a step's clips."""

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def split(self, parts: int) -> list[MemoryBatch]:
        """Parts of equal size, in order."""
        pieces = {name: tensor.chunk(parts) for name, tensor in self.tensors.items()}
        return [MemoryBatch({name: pieces[name][i] for name in pieces}) for i in range(parts)]

    def to(self, device: torch.device) -> MemoryBatch:
        return MemoryBatch({k: v.to(device, non_blocking=True) for k, v in self.tensors.items()})


def random_batch(
    count: int,
    latent: tuple[int, ...] | None = None,
    clip: tuple[int, int, int] | None = None,
    classes: int = 2,
    fps: float = 25.0,
    pinned: bool = False,
) -> MemoryBatch:
    """Random latents (C, T, H, W) or clips (T, H, W), with classes and rates."""
    tensors = {
        "class_index": torch.randint(0, classes, (count,)),
        "fps": torch.full((count,), fps),
    }
    if latent:
        tensors["latent"] = torch.randn(count, *latent)
    if clip:
        tensors["video"] = torch.randint(0, 256, (count, *clip, 3), dtype=torch.uint8)
    return MemoryBatch({k: v.pin_memory() if pinned else v for k, v in tensors.items()})
