"""How tensors lie on a device, and copies to and from it that the host does not wait for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LAYOUT = torch.channels_last_3d
"""The layout in which the nets of this project, as a whole, are fastest on CPUs and CUDA.

CUDA's group normalisation copies its input into the other layout, cuDNN's convolutions in half
precision copy theirs into this one: `python -m benchmarks.gpu` measures both."""


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The layout of videos and 3D convolutions on a device."""
    return LAYOUT if torch.device(device).type in ("cpu", "cuda") else torch.contiguous_format


class _Laid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: torch.memory_format) -> Tensor:
        ctx.layout = layout
        return x.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].contiguous(memory_format=ctx.layout), None


def laid(x: Tensor, layout: torch.memory_format) -> Tensor:
    """A tensor in a memory layout; its gradient gets it too."""
    return _Laid.apply(x, layout)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in the host's memory, copied to a device; from pinned memory for a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in the host's memory; of a GPU's tensor, it is there once the GPU has done
    what it was given before, and the tensor may be changed at once."""
    on_gpu = tensor.device.type == "cuda"
    # PyTorch keeps freed pinned memory for the next copies, as it takes long to pin.
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
    return copy.copy_(tensor.detach(), non_blocking=on_gpu)
