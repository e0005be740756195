"""What a job asks for: devices and workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """What a job's settings say of devices and workers."""

    device: str = "auto"
    num_workers: int | None = None
    gpus_per_worker: float = 1.0
    cpu_workers: int | None = None
    """Workers by default where there is no GPU; None is one for each core."""
    at_most: int | None = None
    """Tasks: more workers would have nothing to do."""
    at_least: int | None = None
    """Fewest workers with which a training begins and continues; None is all of them."""
    share: int | None = None
    """Set if the workers train together: they divide this number of clips among them."""
