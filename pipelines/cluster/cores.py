"""The cores of this machine that a process may use, within the limits of its container."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def local_cpus() -> int:
    """Cores this process may use, at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    limit = cgroup_cpus()
    return max(1, min(cores, int(limit))) if limit else cores


def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """CPUs that the control groups of this process allow, which containers set; None for all.

    A group may use no more than each group above it. Within a container the group's own path may
    be that of the host: then only the top of what is mounted is the container's.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mounts = root / "sys/fs/cgroup"
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops, limit = [mounts, mounts / "unified"], _limit_v2
        elif "cpu" in controllers.split(","):
            tops, limit = [mounts / "cpu", mounts / controllers], _limit_v1
        else:
            continue
        group = Path(path.lstrip("/"))
        limits += [limit(top / level) for top in tops for level in (group, *group.parents)]
    return min((found for found in limits if found), default=None)


def _limit_v2(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _limit_v1(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None
