"""What is measured, at which sizes, and how: on a GPU in full, in a rehearsal tiny on a CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.record import Record
from pipelines.recipes.presets import Preset, ucf101_small
from pipelines.training.world import World
from vqvdm.inference import Precision, resolve_precision


@dataclass(frozen=True)
class Setup:
    """Sizes and repeats."""

    device: torch.device
    record: Record
    preset: Preset
    repeats: int = 3
    steps: tuple[int, ...] = (100, 20)
    peer_steps: int = 20
    """Of the peer's 100 steps, at one clip; fewer at more."""
    batch: int = 16
    """Clips sampled at once."""
    peer_width: int = 64
    peer_size: int = 64
    precision: Precision = "auto"
    backend: str = "inductor"
    training_steps: int = 6
    """Steps between two readings of the clock."""
    warm: int = 2
    """Calls that do not count: the first ones compile and try kernels."""

    @property
    def dtype(self) -> torch.dtype:
        return resolve_precision(self.precision, self.device)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def world(self, compiled: bool) -> World:
        return World(device=self.device, dtype=self.dtype, compiled=compiled, backend=self.backend)

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def part(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """One part of the record; then nothing of it is left on the device."""
        self.record.part(name, partial(work, self, *arguments))
        self.empty()

    def seconds(self, work: Callable[[], Any], inner: int = 1) -> list[float]:
        """Seconds of one of `inner` calls in a row, several times."""
        for _ in range(self.warm):
            work()
        taken = []
        for _ in range(self.repeats):
            self.wait()
            since = time.perf_counter()
            for _ in range(inner):
                work()
            self.wait()
            taken.append((time.perf_counter() - since) / inner)
        return taken

    def peak_mib(self, work: Callable[[], Any]) -> float:
        """Memory of the GPU at the peak of some work, with all that is there; 0 on a CPU."""
        if not self.is_gpu:
            work()
            return 0.0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() / 2**20

    def empty(self) -> None:
        """Forget compiled nets and free memory, between two parts."""
        torch.compiler.reset()
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()


def full(record: Record, device: torch.device) -> Setup:
    return Setup(device, record, ucf101_small())


def tiny(record: Record, device: torch.device) -> Setup:
    """The same with thin nets and small clips, to rehearse on a CPU."""
    preset = ucf101_small()
    vqgan, ldm = preset.train_vqgan, preset.train_ldm
    preset = replace(
        preset,
        shard_videos=replace(preset.shard_videos, frames=4, size=32),
        train_vqgan=replace(
            vqgan, batch_size=2,
            discriminator=replace(vqgan.discriminator, width=8, levels=2),
            model=replace(vqgan.model, widths=(8, 8), depths=(1, 1), decoder_widths=None,
                          decoder_depths=None, codebook_size=16),
        ),
        train_ldm=replace(
            ldm, batch_size=2, model=replace(ldm.model, width=8, head_width=8, depths=(1, 1, 1))
        ),
    )  # fmt: skip
    return Setup(
        device, record, preset, repeats=1, warm=0, peer_steps=1, batch=2, peer_width=8,
        peer_size=16, precision="fp32", backend="eager", training_steps=1,
    )  # fmt: skip
