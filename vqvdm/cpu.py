"""Layers packed for oneDNN, which runs convolutions and linear layers on CPUs.

oneDNN computes on blocks of channels. PyTorch rearranges the weights into such blocks at every
call. For inputs as small as latents this takes longer than the arithmetic. Here it is done once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PackedConv3d(nn.Module):
    """An `nn.Conv3d` with its weights in oneDNN's layout. It runs on CPUs and does not train.

    The best layout depends on the size of the input. The first input decides. Inputs of other
    sizes give correct results too.
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
    """An `nn.Linear` with its weights in oneDNN's layout. It runs on CPUs and does not train."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this type on this processor; of bf16 and fp16 many do not."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


def pack(net: nn.Module) -> None:
    """Replace the convolutions of a net, and in bf16 its linear layers, by packed ones, where the
    processor packs their type."""
    for name, child in net.named_children():
        if isinstance(child, nn.Conv3d) and packs(child.weight.dtype):
            setattr(net, name, PackedConv3d(child))
        elif (
            type(child) is nn.Linear
            and child.weight.dtype == torch.bfloat16
            and packs(torch.bfloat16)
        ):
            setattr(net, name, PackedLinear(child))
        else:
            pack(child)
