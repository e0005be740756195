"""`own` stands for its recipe for a GPU, or for its small one. The clips decide, once there are
some; before that, what the cluster has.
"""

from __future__ import annotations

from pipelines.cluster.placement import foresee_devices
from pipelines.cluster.request import Request
from pipelines.io import workspace
from pipelines.settings import Job

OWN, SMALL = "own", "own-small"
LARGE_FROM = 96
"""Height and width of clips from which on the nets are those for a GPU."""


def suited(config: Job) -> tuple[str, str]:
    """The preset that suits a job with these settings, and why, in words."""
    index = workspace.published(config.workspace.clips, "index.json")
    if index:
        size = index["spec"]["size"]
        return (OWN if size >= LARGE_FROM else SMALL), f"clips of {size}x{size}"
    if foresee_devices(Request()).kind == "cuda":
        return OWN, "a cluster with GPUs"
    return SMALL, "a cluster without GPUs, and clips of 64x64 (--size 128 cuts larger ones)"
