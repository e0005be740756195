"""Prepare a device and nets to run on it: the precision, cuDNN's settings, packed weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import nn

from vqvdm.checkpoint import on_device
from vqvdm.cpu import pack
from vqvdm.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Module = TypeVar("Module", bound=nn.Module)


GRAPHS = "reduce-overhead"
"""The mode of `torch.compile` that replays all kernels of a net as one CUDA graph."""
BF16_FROM, FP16_FROM = (8, 0), (7, 0)
"""Compute capabilities of the first GPUs with matrix units for these: A100, and V100 before it."""


def default_device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype to compute in. `auto` is bf16 where the device is fast at it, else fp16 on a GPU
    that is fast at that, else fp32.

    A processor without bf16 instructions emulates them, a hundred times slower than fp32; so do
    V100 and T4, which PyTorch counts among those that support bf16. `UserError` for an unknown
    precision.
    """
    if precision == "auto":
        precision = fast_precision(device)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise UserError(f"unknown precision {precision!r}: use auto, {', '.join(dtypes)}")
    return dtypes[precision]


def fast_precision(device: torch.device) -> Precision:
    """What `auto` is on a device."""
    return fast_precisions(device)[0]


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """What a device does not emulate, the best first; fp32 always."""
    return _fast_on_gpu(device) if device.type == "cuda" else _fast_on_cpu()


def _fast_on_gpu(device: torch.device) -> tuple[Precision, ...]:
    capability = torch.cuda.get_device_capability(device)
    if capability >= BF16_FROM:
        return "bf16", "fp16", "fp32"
    return ("fp16", "fp32") if capability >= FP16_FROM else ("fp32",)


def _fast_on_cpu() -> tuple[Precision, ...]:
    features = torch.cpu.get_capabilities()
    fast = features.get("avx512_bf16", False) or features.get("amx_tile", False)
    return ("bf16", "fp32") if fast else ("fp32",)


def common_precision(
    of_each: Sequence[Sequence[Precision]], begun: Precision | None = None
) -> Precision:
    """What `auto` is for devices that work together, given the `fast_precisions` of each: the best
    that none of them emulates, or what their work was `begun` in, if none emulates that."""
    common = [each for each in of_each[0] if all(each in fast for fast in of_each)]
    return begun if begun in common else common[0]


def prepare_device(device: torch.device | str, tf32: bool = False) -> None:
    """Let cuDNN try its kernels for each new shape and keep the fastest. Does nothing on a CPU.

    fp32 convolutions round to TF32, of 10 bits, only with `tf32`; PyTorch does so by default.
    Products of fp32 matrices never do: beside mixed precision, what is left in fp32 chooses codes.
    """
    if torch.device(device).type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("highest")


def compiles_by_default(device: torch.device | str) -> bool:
    """Whether nets that run often should go through `torch.compile`: on a GPU, where there is the
    C compiler that Triton builds its kernels with."""
    if torch.device(device).type != "cuda":
        return False
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


def ready(
    net: Module, device: torch.device | str, dtype: torch.dtype, packed: bool = True
) -> Module:
    """Prepare a net to run in `dtype` on a device, as fast as it can. It can no longer train.

    Weights are packed on a CPU, unless the net will be compiled.
    """
    net = on_device(net.eval().requires_grad_(False), device).to(dtype)
    if packed and torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        pack(net)
    return net
