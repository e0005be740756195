"""What a training will take: some of its steps are taken, on few clips, and thrown away."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import torch

from pipelines.cluster.cores import local_cpus
from pipelines.io.progress import time_in_words
from pipelines.training.loader import Batch, Loader
from pipelines.training.methods.base import Method
from pipelines.training.settings import TrainJob
from pipelines.training.world import World
from vqvdm.inference import prepare_device, resolve_precision

CLIPS = 4
"""Clips of a step at most: models that suit GPUs would take minutes and all memory here."""
QUICK_S = 5.0
"""A step that took longer is not taken again to see whether it gets faster."""
FIRST_TRY_MIN = 10.0
"""Minutes of a first try."""


class Data(Protocol):
    """What samples are read from."""

    def loader(self, split: str, **options: Any) -> Loader | None: ...


def foreseen(config: TrainJob, method: Callable[[Any, World], Method], data: Data) -> str:
    """The minutes that a training takes on the cores of this machine, in words; nothing where there
    is no clip to train on."""
    loader = data.loader("train", threads=2)
    if loader is None:
        return ""
    clips = math.gcd(config.batch_size, CLIPS)
    few = replace(config, batch_size=clips, accumulate=1)
    device = torch.device("cpu")
    world = World(dtype=resolve_precision(config.precision, device))
    before = torch.get_num_threads()
    with closing(loader):
        prepare_device(device, tf32=False)
        torch.set_num_threads(local_cpus())
        batch = next(loader.train(few.seed, 0, clips))
        trained = method(few, world)
        first = _seconds(trained, batch, 0)
        last = _seconds(trained, batch, few.steps - 1) if few.slower_from < 1 else first
        torch.set_num_threads(before)
    share = few.slower_from
    mean_s = (share * first + (1 - share) * last) * config.batch_size / clips
    return in_words(mean_s, config.steps)


def _seconds(method: Method, batch: Batch, step: int) -> float:
    """Seconds of a step: of a second one if the first, which sets up much, was quick."""
    taken = _timed(method, batch, step)
    return taken if taken > QUICK_S else _timed(method, batch, step)


def _timed(method: Method, batch: Batch, step: int) -> float:
    began = time.monotonic()
    method.train_step(batch, step)
    return time.monotonic() - began


def in_words(step_s: float, steps: int) -> str:
    """The time of so many steps, and how many a first try has."""
    minutes = steps * step_s / 60
    words = f"about {time_in_words(minutes)} on the cores here, {step_s:.2g} s a step"
    if minutes > 2 * FIRST_TRY_MIN:
        few = max(1, int(float(f"{60 * FIRST_TRY_MIN / step_s:.1g}")))
        words += f"; for a first try of some {FIRST_TRY_MIN:g} minutes: --steps {few}"
    return words
