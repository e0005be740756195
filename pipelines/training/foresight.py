"""What a training will take: some of its steps are taken, on few clips, and thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from pipelines.cluster.cores import local_cpus
from pipelines.io.progress import time_in_words
from pipelines.settings import resolve_switch
from pipelines.training.loader import Batch, Loader
from pipelines.training.methods.base import Method
from pipelines.training.peak import forget_peak, peak_gib, reserved_gib
from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from vqvdm.inference import prepare_device, resolve_precision

CLIPS = 4
"""Clips of a step on CPUs at most, where models that suit GPUs would take minutes and all memory;
one step more has twice as many, to see what a clip takes."""
QUICK_S = 5.0
"""A step that took longer is not taken again to see whether it gets faster."""
FIRST_TRY_MIN = 10.0
"""Minutes of a first try."""


class Data(Protocol):
    """What samples are read from."""

    def loader(self, split: str, **options: Any) -> Loader | None: ...


def foreseen(
    config: TrainJob,
    method: Callable[[Any, World], Method],
    data: Data,
    workers: int,
    device: torch.device,
) -> str:
    """The minutes of a training and the memory of each of its workers, in words: on the cores of
    this machine, or on a GPU like the one here for each worker."""
    loader = data.loader("train", threads=2)
    assert loader is not None
    on_gpu = device.type == "cuda"
    share = math.ceil(config.batch_size / workers / config.accumulate)
    clips = share if on_gpu else min(share, CLIPS)
    world = World(
        device=device,
        dtype=resolve_precision(config.precision, device),
        channels_last=resolve_switch(config.channels_last, auto=True),
        activation_checkpointing=config.activation_checkpointing,
    )
    before = torch.get_num_threads()
    with closing(loader):
        prepare_device(device, tf32=world.dtype != torch.float32)
        torch.set_num_threads(local_cpus())
        batch = next(loader.train(config.seed, 0, clips if share == clips else 2 * clips))
        try:
            steps = Steps(method(replace(config, accumulate=1), world), config, device)
            step_s, gib = steps.cost(batch if share == clips else batch.split(2)[0])
            if share > clips:
                gib = _at(share, clips, gib, steps.last_gib(batch))
        except torch.OutOfMemoryError:
            return (
                f"{clips} clips at once take more memory than the GPU here has: "
                f"--activation-checkpointing, then --accumulate {2 * config.accumulate}, take less"
            )
        finally:
            torch.set_num_threads(before)
    step_s *= config.batch_size / clips / (workers if on_gpu else 1)
    memory = ""
    if gib is not None:
        memory = memory_in_words(gib, reserved_gib(device) if on_gpu else None)
    return in_words(step_s, config.steps, _where(workers, on_gpu), memory)


def _at(share: int, clips: int, gib: float | None, of_twice: float | None) -> float | None:
    """The memory of a step on `share` clips, by the line through that of `clips` and of twice as
    many: what a step keeps grows with its clips."""
    if gib is None or of_twice is None:
        return None
    return gib + (of_twice - gib) * (share - clips) / clips


@dataclass(frozen=True)
class Steps:
    """Steps of a training, taken to see what they cost."""

    trained: Method
    config: TrainJob
    device: torch.device

    def cost(self, batch: Batch) -> tuple[float, float | None]:
        """Seconds of a step, as a mean over the training, and the most memory of one in GiB."""
        forget_peak(self.device)
        share = self.config.slower_from
        first = last = self._seconds(batch, 0)
        if share < 1:
            last = self._seconds(batch, self.config.steps - 1)
        return share * first + (1 - share) * last, peak_gib(self.device)

    def last_gib(self, batch: Batch) -> float | None:
        """The most memory of the last step, when others were taken before it."""
        forget_peak(self.device)
        self.trained.train_step(batch, self.config.steps - 1)
        return peak_gib(self.device)

    def _seconds(self, batch: Batch, step: int) -> float:
        """Of a second step if the first, which sets up much, was quick."""
        taken = self._timed(batch, step)
        return taken if taken > QUICK_S else self._timed(batch, step)

    def _timed(self, batch: Batch, step: int) -> float:
        began = time.monotonic()
        self.trained.train_step(batch, step)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began


def _where(workers: int, on_gpu: bool) -> str:
    if not on_gpu:
        return "on the cores here"
    return "on the GPU here" if workers == 1 else f"on {workers} GPUs like the one here"


def memory_in_words(gib: float, reserved: float | None = None) -> str:
    """What a worker takes; of a GPU also what PyTorch reserves to allocate it from."""
    if reserved is None:
        return f"a worker takes about {gib:.1f} GiB of memory"
    return f"a worker takes about {gib:.1f} GiB of its GPU, {reserved:.1f} GiB reserved"


def in_words(step_s: float, steps: int, where: str, memory: str = "") -> str:
    """The time of so many steps, the memory that they take, and how many a first try has."""
    minutes = steps * step_s / 60
    words = [f"about {time_in_words(minutes)} {where}, {step_s:.2g} s a step"]
    if memory:
        words.append(memory)
    if minutes > 2 * FIRST_TRY_MIN:
        few = max(1, int(float(f"{60 * FIRST_TRY_MIN / step_s:.1g}")))
        words.append(f"for a first try of some {FIRST_TRY_MIN:g} minutes: --steps {few}")
    return "; ".join(words)
