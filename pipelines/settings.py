"""Settings of every job: its root, its scale, and whether it replaces earlier results.

The settings of a job are a frozen dataclass in `settings.py` of its wing; `--help` lists them.
They import neither Ray nor storage: nets are measured and tested where PyTorch is all there is. A
*recipe* (model, data, optimiser, global batch) defines what is made. The *scale* (workers,
threads) defines the resources used, and changes no result beyond floating-point order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.cluster.request import Request
from vqvdm.errors import UserError
from vqvdm.ranges import Count, Positive, check_ranges

if TYPE_CHECKING:
    from pipelines.io.workspace import Workspace

Switch = Literal["auto", "on", "off"]
Device = Literal["auto", "cpu", "cuda"]
Augment = Literal["none", "mirror"]
"""Clips to train on beside those that are there."""


def resolve_switch(switch: Switch, auto: bool) -> bool:
    """The value of a switch: `auto`, `on` or `off`."""
    return auto if switch == "auto" else switch == "on"


def parse_rates(text: str, word: str) -> list[float]:
    """Frame rates separated by commas, each once; `word` is what may be given instead."""
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"--fps {text}: give {word}, or rates above 0 such as 8,16")
    return list(dict.fromkeys(rates))


def flag(name: str) -> str:
    """The flag of a setting by its dotted name."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Job:
    """Settings of every job."""

    root: str = "runs/demo"
    """Directory or fsspec URI under which everything is published."""
    num_workers: Count | None = None
    """Parallel workers; by default as many as suit the cluster."""
    overwrite: bool = False
    """Replace what other settings published in the same place."""
    dry_run: bool = False
    """Print the resolved settings and the plan; write nothing."""

    preset: ClassVar[str] = "demo"
    """Name of the preset, for tracking; set by the command line, and not a setting itself."""

    NOT_RECIPE: ClassVar[frozenset[str]] = frozenset(
        ("root", "num_workers", "overwrite", "dry_run", "device", "gpus_per_worker")
    )

    @property
    def workspace(self) -> Workspace:
        from pipelines.io import storage
        from pipelines.io.workspace import Workspace

        return Workspace(storage.absolute(self.root))

    def check(self) -> None:
        """`UserError` for settings that make no sense. Numbers have their ranges in their types."""
        check_ranges(self, flag)

    LATER: ClassVar[Mapping[str, Any]] = {}
    """Settings that came later, by dotted name, and the value that stands for what was done before
    them: with it they are left out of the recipe, so that earlier results are known again."""

    def recipe(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values."""
        found = {k: v for k, v in asdict(self).items() if k not in self.NOT_RECIPE}
        for name, before in self.LATER.items():
            *parts, last = name.split(".")
            holder = reduce(operator.getitem, parts, found)
            if holder[last] == before:
                del holder[last]
        return found


@dataclass(frozen=True)
class DeviceJob(Job):
    """Further settings of jobs that may run on GPUs."""

    device: Device = "auto"
    """cpu, cuda, or auto: GPUs where the cluster has some or may start some."""

    def request(self) -> Request:
        """What is asked of the cluster."""
        return Request(self.device, self.num_workers)


@dataclass(frozen=True)
class PoolJob(DeviceJob):
    """Further settings of jobs whose workers do not talk to each other."""

    gpus_per_worker: Positive = 1.0
    """GPUs of a worker where there are some; 0.5 puts two workers on each."""

    def check(self) -> None:
        super().check()
        each = self.gpus_per_worker
        if each > 1 and each % 1:
            raise UserError("--gpus-per-worker must be a part of a GPU, or a whole number of them")

    def request(self) -> Request:
        return Request(self.device, self.num_workers, self.gpus_per_worker)


@dataclass(frozen=True)
class VideosJob(Job):
    """Further settings of jobs that read or write source videos."""

    videos: str | None = None
    """Folder or URI of videos; by default ROOT/videos. `shard_videos` also takes tar files, Parquet
    files and lists of URLs: docs/videos.md."""

    @property
    def videos_uri(self) -> str:
        from pipelines.io import storage

        return storage.absolute(self.videos) if self.videos else self.workspace.videos
