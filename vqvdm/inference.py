"""Nets made ready to run rather than to train: precision and layout of weights settled once.

On CPUs, oneDNN computes on blocks of channels. PyTorch rearranges weights into such blocks at every
call, which at the small extents of latents takes longer than the arithmetic itself.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vqvdm.checkpoint import on_device
from vqvdm.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Module = TypeVar("Module", bound=nn.Module)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in; `auto` takes bf16 where the device is fast at it, else fp32.

    Processors without bf16 instructions emulate them, a hundred times slower than fp32.
    `UserError` for a precision that is none.
    """
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            precision = "bf16" if fast else "fp32"
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise UserError(f"unknown precision {precision!r}: use auto, {', '.join(dtypes)}")
    return dtypes[precision]


class PackedConv3d(nn.Module):
    """An `nn.Conv3d` whose weights lie as oneDNN computes with them: for running on a CPU only.

    Which layout that is depends on the extent of the input; the first one seen decides, and
    others remain correct.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.bias = conv.bias
        self.weight = conv.weight.detach()
        self.geometry = conv.padding, conv.stride, conv.dilation, conv.groups

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not self.weight.is_mkldnn:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv3d_weight
            self.weight = reorder(self.weight.to_mkldnn(), *self.geometry, x_BCTHW.shape)
        return torch.ops.mkldnn._convolution_pointwise(
            x_BCTHW, self.weight, self.bias, *self.geometry, "none", [], ""
        )


class PackedLinear(nn.Module):
    """An `nn.Linear` whose weights lie as oneDNN computes with them: for running on a CPU only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def pack(net: nn.Module) -> None:
    """Replace convolutions and, in bf16, linear layers by packed ones; they no longer train."""
    for name, child in net.named_children():
        if type(child) is nn.Conv3d:
            setattr(net, name, PackedConv3d(child))
        elif type(child) is nn.Linear and child.weight.dtype == torch.bfloat16:
            setattr(net, name, PackedLinear(child))
        else:
            pack(child)


def ready(net: Module, device: torch.device | str, dtype: torch.dtype) -> Module:
    """A net that computes in `dtype` on a device, as fast as it can, and never trains again."""
    net = on_device(net.eval().requires_grad_(False), device).to(dtype)
    if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        pack(net)
    return net
