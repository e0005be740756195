"""Cores, within the limits of a container."""

import os
from pathlib import Path

import pytest

from pipelines.cluster import cores


def test_there_is_a_core() -> None:
    assert cores.local_cpus() >= 1


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (  # A group may use no more than the one above it.
            {
                "proc/self/cgroup": "0::/pod/container\n",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
            },
            2.0,
        ),
        (  # The host's path, of which the container sees the end alone.
            {
                "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/a\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_limits_of_containers_are_seen(
    files: dict[str, str], cpus: float | None, tmp_path: Path
) -> None:
    assert cores.cgroup_cpus(write(tmp_path, files)) == cpus


@pytest.mark.parametrize(("limit", "count"), [(None, 8), (0.5, 1), (1.9, 1), (3.0, 3), (64.0, 8)])
def test_cores_are_those_within_the_limit(
    limit: float | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(cores, "cgroup_cpus", lambda: limit)
    assert cores.local_cpus() == count


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/pod/container\n",
                "sys/fs/cgroup/pod/memory.max": "4096\n",
                "sys/fs/cgroup/pod/container/memory.max": "8192\n",
            },
            4096,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
                "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "12288\n",
            },
            12288,
        ),
    ],
)
def test_memory_within_the_limits_of_a_container(
    tmp_path: Path, files: dict[str, str], size: int | None
) -> None:
    assert cores.cgroup_memory(write(tmp_path, files)) == size


def test_memory_is_that_of_the_machine_or_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    there = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    monkeypatch.setattr(cores, "cgroup_memory", lambda: None)
    assert cores.local_memory() == pytest.approx(there, rel=0.02)
    monkeypatch.setattr(cores, "cgroup_memory", lambda: 4096)
    assert cores.local_memory() == 4096
