"""What tasks anywhere in the cluster do for a worker, ahead of it: in order, in bounded number."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import ray

from pipelines.cluster.devices import CORE_PART, Devices

Item = TypeVar("Item")
Result = TypeVar("Result")

STORE_PART = 0.5
"""Part of the cluster's object store that all results ahead may fill."""


@dataclass(frozen=True)
class Ahead:
    """How many tasks a worker has in flight, and the cores that each reserves."""

    count: int
    num_cpus: float

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`work` of all items, in their order.

        An item is taken only when its task begins, so a slow consumer holds back all before it:
        while a result is consumed, `count` items and results more are in the object store; while
        the next one is waited for, one more than that.
        A task is repeated if its process or its node dies, or if the result is lost.
        """
        remote = _remote(work, self.num_cpus)
        in_flight: deque[ray.ObjectRef] = deque()
        for item in items:
            in_flight.append(remote.remote(item))
            del item
            if len(in_flight) > self.count:
                yield ray.get(in_flight.popleft())
        while in_flight:
            yield ray.get(in_flight.popleft())


@cache
def _remote(work: Callable[[Item], Result], num_cpus: float) -> Any:
    """One remote function for all calls: Ray exports each anew to every process of the cluster, and
    keeps it as long as the job lasts."""
    return ray.remote(work).options(num_cpus=num_cpus)


def worker_cpus(devices: Devices) -> float:
    """Cores that Ray reserves for a worker whose tasks run ahead of it.

    A worker that held its last core would wait for tasks for ever. On GPUs it holds none: the
    cores are its tasks', and a node may have more GPUs than cores.
    """
    return 0.0 if devices.kind == "cuda" else 1 - CORE_PART


def ahead_of(devices: Devices, calls: int, item_bytes: int) -> Ahead:
    """The tasks of each of a worker's concurrent calls.

    On GPUs they take all cores of the cluster as it is now, as far as items and results of
    `item_bytes` fit the object store. On CPUs the cores are the workers': one task is ahead.
    """
    if devices.kind == "cpu":
        return Ahead(1, CORE_PART)
    found = ray.cluster_resources()
    share = math.ceil(found.get("CPU", 1) / devices.workers)
    store = STORE_PART * found.get("object_store_memory", 0)
    room = int(store / (devices.workers * calls * item_bytes))
    return Ahead(max(1, min(share, room)), 1.0)
