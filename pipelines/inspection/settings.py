"""Settings of `inspect_data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.settings import Job
from vqvdm.ranges import Count


@dataclass(frozen=True)
class InspectData(Job):
    """Say what a training will see of a root, what was lost and why, and what looks wrong."""

    samples: Count = 256
    """Clips to look at, spread over all shards."""
    strict: bool = False
    """Exit with status 1 if something is wrong."""

    NOT_RECIPE: ClassVar[frozenset[str]] = Job.NOT_RECIPE | {"strict"}
