"""The most memory that was used at a time: by this process, or of its GPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

OF_PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> None:
    """Reset the peak; a system that cannot keeps the one that it has."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (OF_PROCESS / "clear_refs").write_text("5")  # see proc(5)


def peak_gib(device: torch.device) -> float | None:
    """The peak in GiB: what PyTorch allocated of a GPU, or what the process had of the machine;
    None where the system does not tell it, as Linux does."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with suppress(OSError):
        for line in (OF_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return None


def reserved_gib(device: torch.device) -> float:
    """The most that PyTorch had of a GPU at a time, to allocate from, in GiB."""
    return torch.cuda.max_memory_reserved(device) / 2**30
