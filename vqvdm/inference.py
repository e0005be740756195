"""Prepare nets to run rather than to train: choose the precision, pack the weights."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import nn

from vqvdm.checkpoint import on_device
from vqvdm.cpu import pack
from vqvdm.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Module = TypeVar("Module", bound=nn.Module)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in. `auto` is bf16 where the device is fast at it, else fp32.

    A processor without bf16 instructions emulates them, a hundred times slower than fp32.
    `UserError` for an unknown precision.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            features = torch.cpu.get_capabilities()
            fast = features.get("avx512_bf16", False) or features.get("amx_tile", False)
        precision = "bf16" if fast else "fp32"
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise UserError(f"unknown precision {precision!r}: use auto, {', '.join(dtypes)}")
    return dtypes[precision]


def ready(net: Module, device: torch.device | str, dtype: torch.dtype) -> Module:
    """Prepare a net to run in `dtype` on a device, as fast as it can. It can no longer train."""
    net = on_device(net.eval().requires_grad_(False), device).to(dtype)
    if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        pack(net)
    return net
