"""A training whose number of workers changes: how many there is room for, and when for more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from pipelines.cluster.devices import Devices

PATIENCE_S = 5.0
"""Time in which a cluster that has room for workers tells so."""
POLL_S = 1.0


def workers_with_room(devices: Devices, given_up: Callable[[], bool]) -> int | None:
    """The largest number of workers that the cluster has room for now; waits for the smallest, or
    gives None when that is `given_up`."""
    while not given_up():
        for workers in devices.numbers:
            if _is_there(devices, workers) and _has_room(devices, workers):
                return workers
        if not devices.numbers:
            return devices.workers
    return None


def _is_there(devices: Devices, workers: int) -> bool:
    """Whether the cluster has the resources, perhaps in use. The smallest number is asked for in
    any case, so that an autoscaler may start nodes."""
    found = ray.cluster_resources()
    return workers == devices.numbers[-1] or all(
        found.get(name, 0) >= amount * workers for name, amount in devices.bundle.items()
    )


def _has_room(devices: Devices, workers: int) -> bool:
    group = _reserved(devices, workers)
    try:
        return group.wait(PATIENCE_S)
    finally:
        remove_placement_group(group)


def _reserved(devices: Devices, workers: int) -> PlacementGroup:
    return placement_group([devices.bundle] * workers)


@contextmanager
def watching_for_more(
    devices: Devices, workers: int, begun: Callable[[], bool], act: Callable[[int], object]
) -> Iterator[None]:
    """Within the context, call `act` once when there is room for more than so many workers.

    What the next larger number needs is requested, also of an autoscaler, as soon as these have
    `begun`: before, it might take the place of one of them.
    """
    larger = [number for number in devices.numbers if number > workers]
    if not larger:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not begun():
            if ended.wait(POLL_S):
                return
        group = _reserved(devices, larger[-1] - workers)
        try:
            while not ended.is_set():
                if group.wait(POLL_S):
                    act(larger[-1])
                    return
        finally:
            remove_placement_group(group)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
