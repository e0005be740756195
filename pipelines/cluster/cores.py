"""The cores and the memory of this machine that a process may use, within the limits of its
container."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def local_cpus() -> int:
    """Cores this process may use, at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    limit = cgroup_cpus()
    return max(1, min(cores, int(limit))) if limit else cores


def local_memory() -> float:
    """Bytes of memory that this process may use."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(there, cgroup_memory() or math.inf)


def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """CPUs that the control groups of this process allow, which containers set; None for all."""
    return _least(root, "cpu", _limit_v2, _limit_v1)


def cgroup_memory(root: Path = Path("/")) -> float | None:
    """Bytes of memory that the control groups of this process allow; None for all."""
    return _least(root, "memory", _memory_v2, _memory_v1)


Limit = Callable[[Path], float | None]
"""What a control group allows; None for all."""


def _least(root: Path, controller: str, limit_v2: Limit, limit_v1: Limit) -> float | None:
    """The least limit of the control groups of this process.

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
            tops, limit = [mounts, mounts / "unified"], limit_v2
        elif controller in controllers.split(","):
            tops, limit = [mounts / controller, mounts / controllers], limit_v1
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


def _memory_v2(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        limit = (group / "memory.max").read_text().strip()
        return None if limit == "max" else int(limit)
    return None


def _memory_v1(group: Path) -> float | None:
    # Where nothing is limited, it is a number above any memory.
    with suppress(OSError, ValueError):
        return int((group / "memory.limit_in_bytes").read_text())
    return None
